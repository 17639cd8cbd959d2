"""T5: letting go of shards."""

from __future__ import annotations

import asyncio

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, envelope, settle
from clstr_testing._outcomes import failure


class ReleaseChecks(Bench):
    """T5."""

    @proves("T5.1")
    async def test_nothing_starts_after_a_subscription_is_closed(self) -> None:
        """Under load; the requests that come too late are refused, and none of them ran."""
        server, client = await self.peer(), await self.peer()
        gate = Gate(is_open=True)
        subscription = await server.subscribe([0], gate)

        async def caller(name: int) -> clstr.ClstrError:
            number = 0
            while True:
                data = b"%d/%d" % (name, number)
                number += 1
                try:
                    await client.request(envelope(data=data), timeout=FAR)
                except clstr.ClstrError as error:
                    assert gate.started[data] == 0
                    return error

        callers = [asyncio.create_task(caller(name)) for name in range(20)]
        await gate.until_started(200)
        await subscription.aclose()
        started = gate.started.total()
        errors = await asyncio.gather(*callers)
        await settle()
        assert gate.started.total() == started
        assert not any(error.maybe_executed for error in errors)

    @proves("T5.2")
    async def test_closing_a_subscription_waits_for_its_handlers(self) -> None:
        """A handler that has started finishes, and its caller gets the reply; other shards are not waited for."""
        server, client = await self.peer(drain_timeout=FAR), await self.peer()
        gates = Gate(), Gate()

        async def handler(message: clstr.Envelope) -> bytes:
            return await gates[message.shard](message)

        subscription = await server.subscribe([0, 1], handler)
        requests = [asyncio.create_task(client.request(envelope(shard, b"x"), timeout=FAR)) for shard in (0, 1)]
        for gate in gates:
            await gate.until_started(1)
        closing = asyncio.create_task(subscription.remove([0]))
        await settle()
        assert not closing.done()
        gates[0].open()
        await closing
        assert [gate.running for gate in gates] == [0, 1]
        assert subscription.shards == {1}
        gates[1].open()
        assert await asyncio.gather(*requests) == [b"x", b"x"]

    @proves("T5.2")
    async def test_closing_a_subscription_waits_for_handlers_that_wait_for_a_reply(self) -> None:
        """A handler that has lent its slot has started too."""
        server, other, client = await self.peer(drain_timeout=FAR), await self.peer(), await self.peer()
        elsewhere = Gate()
        await other.subscribe([1], elsewhere)

        async def handler(_: clstr.Envelope) -> bytes:
            return await server.request(envelope(1, b"onward"), timeout=FAR)

        subscription = await server.subscribe([0], handler)
        request = asyncio.create_task(client.request(envelope(), timeout=FAR))
        await elsewhere.until_started(1)
        closing = asyncio.create_task(subscription.aclose())
        await settle()
        assert not closing.done()
        elsewhere.open()
        await closing
        assert await request == b"onward"

    @proves("T5.2")
    async def test_closing_a_subscription_twice_at_once_waits_twice(self) -> None:
        """The second call does not return before the first: its caller relies on the same promise."""
        server, client = await self.peer(drain_timeout=FAR), await self.peer()
        gate = Gate()
        subscription = await server.subscribe([0], gate)
        request = asyncio.create_task(client.request(envelope(data=b"x"), timeout=FAR))
        await gate.until_started(1)
        closings = [asyncio.create_task(subscription.aclose()) for _ in range(2)]
        await settle()
        assert not any(closing.done() for closing in closings)
        gate.open()
        await asyncio.gather(*closings)
        assert await request == b"x"

    @proves("T5.3")
    async def test_closing_a_subscription_gives_up_after_drain_timeout(self) -> None:
        """A handler that does not end holds it up for ``drain_timeout`` only."""
        server, client = await self.peer(drain_timeout=0.05), await self.peer()
        gate = Gate()
        subscription = await server.subscribe([0], gate)
        request = asyncio.create_task(client.request(envelope(data=b"x"), timeout=FAR))
        await gate.until_started(1)
        await subscription.aclose()
        assert gate.running == 1
        gate.open()
        assert await request == b"x"

    @proves("T5.5")
    async def test_closing_a_subscription_reports_what_still_runs(self) -> None:
        """By shard and type: whoever takes the shard next has to know; what has ended is not reported."""
        server, client = await self.peer(drain_timeout=0.05), await self.peer()
        gate = Gate()
        subscription = await server.subscribe([0, 1], gate)
        request = asyncio.create_task(client.request(envelope(data=b"x"), timeout=FAR))
        await gate.until_started(1)
        assert await subscription.remove([1]) == clstr.ReleaseReport()
        report = await subscription.aclose()
        assert len(report.running) == 1
        assert "shard 0" in report.running[0]
        gate.open()
        assert await request == b"x"
        assert await subscription.aclose() == clstr.ReleaseReport()

    @proves("T5.1")
    async def test_what_waits_when_closing_gives_up_never_starts(self) -> None:
        """A message waits for a slot when ``drain_timeout`` is over: it is refused."""
        server, client = await self.peer(drain_timeout=0.05, max_concurrent=1), await self.peer()
        gate = Gate()
        subscription = await server.subscribe([0], gate)
        first = asyncio.create_task(client.request(envelope(data=b"first"), timeout=FAR))
        await gate.until_started(1)
        second = asyncio.create_task(client.request(envelope(data=b"second"), timeout=FAR))
        await settle()
        await subscription.aclose()
        gate.open()
        assert await first == b"first"
        try:
            await second
        except (clstr.DrainingError, clstr.NotOwnerError, clstr.NoShardSubscriberError) as error:
            assert not error.maybe_executed
        else:
            raise AssertionError("a message started after its subscription was closed")
        assert gate.started == {b"first": 1}

    @proves("T5.4")
    async def test_a_handler_may_close_its_own_subscription(self) -> None:
        """It does not wait for itself, and still answers."""
        server, client = await self.peer(drain_timeout=FAR), await self.peer()

        async def handler(_: clstr.Envelope) -> bytes:
            await subscription.aclose()
            return b"closed"

        subscription = await server.subscribe([0], handler)
        assert await client.request(envelope(), timeout=FAR) == b"closed"
        await failure(client.request(envelope(), timeout=FAR), clstr.NoShardSubscriberError)
