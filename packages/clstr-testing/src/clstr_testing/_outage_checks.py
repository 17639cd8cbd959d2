"""T13: links that break and come back."""

from __future__ import annotations

import asyncio

import clstr
from clstr_testing._check import proves
from clstr_testing._handlers import FAR, Gate, echo, envelope, settle
from clstr_testing._link_bench import LINK, LinkBench
from clstr_testing._outcomes import failure


class OutageChecks(LinkBench):
    """T13."""

    @proves("T13.1", needs=LINK)
    async def test_requests_in_flight_fail_when_the_link_is_lost(self) -> None:
        """Long before their timeout, and saying that they may have run."""
        server, client = await self.peer(), await self.peer()
        gate = Gate()
        await server.subscribe([0], gate)
        request = asyncio.create_task(client.request(envelope(), timeout=FAR))
        await gate.until_started(1)
        await self.hook("cut")
        error = await failure(request, clstr.ConnectionLostError)
        assert error.maybe_executed
        gate.open()
        await self.hook("restore")

    @proves("T13.2", needs=LINK)
    async def test_new_requests_wait_for_the_link_but_not_for_long(self) -> None:
        """They fail after ``reconnect_wait``."""
        server, client = await self.peer(), await self.peer(reconnect_wait=0.1)
        await server.subscribe([0], echo)
        await self.hook("cut")
        await self._until_lost(client)
        for send in (client.request, client.notify):
            error = await failure(send(envelope(data=b"during"), timeout=FAR), clstr.TransportUnavailableError)
            assert not error.maybe_executed
        await self.hook("restore")
        await self._answered(client, b"after", clstr.TransportUnavailableError)

    @proves("T9.1", needs=LINK)
    async def test_a_timeout_counts_while_the_link_is_down(self) -> None:
        """It is over before ``reconnect_wait`` is; nothing was sent."""
        client = await self.peer(reconnect_wait=FAR)
        await self.hook("cut")
        await self._until_lost(client)
        for send in (client.request, client.notify):
            error = await failure(send(envelope(), timeout=0.1), clstr.RequestTimeoutError)
            assert not error.maybe_executed
        await self.hook("restore")

    @proves("T13.4", needs=LINK)
    async def test_what_failed_during_an_outage_never_runs_after_it(self) -> None:
        """Not even what was sent before the loss was noticed."""
        server, client = await self.peer(), await self.peer(reconnect_wait=0.1)
        gate = Gate(is_open=True)
        await server.subscribe([0], gate)
        await client.request(envelope(data=b"before"), timeout=FAR)
        await self.hook("cut")
        calls = (client.request(envelope(data=b"during"), timeout=FAR) for _ in range(3))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        failures = clstr.ConnectionLostError, clstr.TransportUnavailableError, clstr.NoShardSubscriberError
        assert all(isinstance(outcome, failures) for outcome in outcomes), outcomes
        started = gate.started[b"during"]
        await self.hook("restore")
        await self._answered(client, b"after", clstr.TransportUnavailableError)
        await settle()
        assert gate.started[b"during"] == started

    @proves("T13.2", "T13.3", needs=LINK)
    async def test_a_request_made_during_an_outage_is_answered_after_it(self) -> None:
        """Its deadline allows it; the subscription came back by itself."""
        server, client = await self.peer(), await self.peer(reconnect_wait=FAR)
        await server.subscribe([0], echo)
        await client.request(envelope(data=b"before"), timeout=FAR)
        await self.hook("cut")
        request = asyncio.create_task(self._answered(client, b"during"))
        await settle()
        assert not request.done()
        await self.hook("restore")
        await request
        for shard in (1, 2):
            await server.subscribe([shard], echo)
            assert await client.request(envelope(shard, b"x"), timeout=FAR) == b"x"
