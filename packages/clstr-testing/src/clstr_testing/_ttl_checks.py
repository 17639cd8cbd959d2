"""T8: how long a message may wait and run."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import product

import clstr
from clstr_testing._check import proves
from clstr_testing._handlers import FAR, Gate, block, echo, envelope, late_first_steps, now_ms, settle
from clstr_testing._link_bench import LINK, LinkBench
from clstr_testing._outcomes import failure

YEAR_MS = 366 * 24 * 3600 * 1000
TTLS = (0, 900, 1_500, 65_000, 2**31 - 1, 2**32 + 500, YEAR_MS)  # milliseconds
TIMEOUTS = (2.5, 60.0, 7_200.0, YEAR_MS / 1000)  # seconds
AGES = (0, 400, 30_000)  # milliseconds since the envelope was made
SLACK_MS = 5  # two clocks are read, one of them in steps of a millisecond


class TtlChecks(LinkBench):
    """T8."""

    @proves("T8.1")
    async def test_the_wire_carries_what_is_left_of_ttl_and_timeout(self) -> None:
        """The handler sees it as the envelope's TTL: of a request the smaller one, of a notify its TTL alone."""
        server, client = await self.peer(), await self.peer()
        arrived: asyncio.Queue[clstr.Envelope] = asyncio.Queue()

        async def handler(message: clstr.Envelope) -> None:
            arrived.put_nowait(message)

        await server.subscribe([0], handler)
        for age, timeout, ttl_ms in product(AGES, TIMEOUTS, TTLS):
            if ttl_ms and ttl_ms <= age:
                continue
            for call in ("request", "notify"):
                begun = now_ms()
                sent = clstr.Envelope(shard=0, type="t", ttl_ms=ttl_ms, created_at_ms=begun - age)
                await getattr(client, call)(sent, timeout=timeout)
                got = await arrived.get()
                bounds = [ttl_ms - age] * (ttl_ms > 0) + [int(timeout * 1000)] * (call == "request")
                most = min(bounds, default=0)
                assert most - (now_ms() - begun) - SLACK_MS <= got.ttl_ms <= most, (call, age, timeout, ttl_ms)
                assert begun <= got.created_at_ms <= now_ms()  # when the node has read it

    @proves("T8.2")
    async def test_a_message_that_expires_while_it_waits_never_starts(self) -> None:
        """It is refused when its TTL is over, not when a slot is free; a notify and a nested request as well."""
        server, other, client = await self.peer(max_concurrent=1), await self.peer(), await self.peer()
        gate = Gate()

        async def ask(message: clstr.Envelope) -> bytes:
            return await other.request(envelope(data=b"nested", ttl_ms=message.ttl_ms), timeout=FAR)

        await server.subscribe([0], gate)
        await other.subscribe([1], ask)
        first = asyncio.create_task(client.request(envelope(data=b"first"), timeout=FAR))
        await gate.until_started(1)
        for _ in range(3):
            await client.notify(envelope(data=b"notified", ttl_ms=100), timeout=FAR)
        late = client.request(envelope(data=b"late", ttl_ms=100), timeout=FAR)
        error = await failure(late, clstr.EnvelopeExpiredError)
        assert (error.shard, error.maybe_executed) == (0, False)
        nested = client.request(envelope(1, ttl_ms=100), timeout=FAR)
        with suppress(clstr.HandlerTimeoutError):  # or its own time was over in the same moment
            assert (await failure(nested, clstr.HandlerError)).error_type == "EnvelopeExpiredError"
        gate.open()
        await first
        await client.request(envelope(data=b"last"), timeout=FAR)
        await settle()
        assert gate.started == {b"first": 1, b"last": 1}

    @proves("T8.2")
    async def test_a_message_that_expires_before_its_first_step_never_starts(self) -> None:
        """The loop is busy between the start and the first step, and no timer has noticed that the time is over."""
        client = await self.peer()
        gate = Gate(is_open=True)
        with late_first_steps(0.2) as is_delayed:
            undo = is_delayed.set(True)
            server = await self.peer()
            is_delayed.reset(undo)
            await server.subscribe([0], gate)
            late = client.request(envelope(data=b"late", ttl_ms=100), timeout=FAR)
            assert not (await failure(late, clstr.EnvelopeExpiredError)).maybe_executed
            await client.notify(envelope(data=b"notified", ttl_ms=100), timeout=FAR)
            assert await client.request(envelope(data=b"patient"), timeout=FAR) == b"patient"
        assert gate.started == {b"patient": 1}

    @proves("T8.3")
    async def test_an_expired_envelope_is_not_sent(self) -> None:
        """Neither as a request nor as a notify, whether it expired just now or long ago."""
        server, client = await self.peer(), await self.peer()
        gate = Gate(is_open=True)
        await server.subscribe([0], gate)
        for over_ms in (0, 1, 500, 5_000, 100_000, 10_000_000_000):
            for ttl_ms in (1, 1_000):
                for send in (client.request, client.notify):
                    made_at = now_ms() - ttl_ms - over_ms
                    old = clstr.Envelope(shard=0, type="check", data=b"old", ttl_ms=ttl_ms, created_at_ms=made_at)
                    error = await failure(send(old, timeout=FAR), clstr.EnvelopeExpiredError)
                    assert (error.shard, error.maybe_executed) == (0, False)
        await client.request(envelope(data=b"new"), timeout=FAR)
        await settle()
        assert gate.started == {b"new": 1}

    @proves("T8.3", needs=LINK)
    async def test_what_expires_in_an_outage_is_not_sent(self) -> None:
        """It waits for the link longer than its TTL: it is not sent when the link is back."""
        server, client = await self.peer(), await self.peer(reconnect_wait=FAR)
        gate = Gate(is_open=True)
        await server.subscribe([0], gate)
        await self.hook("cut")
        await self._until_lost(client)
        late = [
            asyncio.ensure_future(send(envelope(data=b"late", ttl_ms=50), timeout=FAR))
            for send in (client.request, client.notify)
        ]
        await settle()
        block(0.1)
        await self.hook("restore")
        for call in late:
            assert not (await failure(call, clstr.EnvelopeExpiredError)).maybe_executed
        await self._answered(client, b"after")
        assert gate.started[b"late"] == 0

    @proves("T8.1")
    async def test_the_handler_of_a_request_may_use_what_is_left(self) -> None:
        """``Envelope.ttl`` counts from the receipt, on the receiver's clock."""
        server, client = await self.peer(), await self.peer()
        left: list[float | None] = []

        async def handler(message: clstr.Envelope) -> bytes:
            left.append(message.ttl())
            return await echo(message)

        await server.subscribe([0], handler)
        await client.request(envelope(ttl_ms=30_000), timeout=FAR)
        assert left[0] is not None
        assert 15 < left[0] <= 30
