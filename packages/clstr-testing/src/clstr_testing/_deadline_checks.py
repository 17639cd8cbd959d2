"""T7 and T8: how long a message may take, and how long it may wait."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, echo, envelope, late_first_steps, settle
from clstr_testing._outcomes import failure


class DeadlineChecks(Bench):
    """T7 and T8."""

    @proves("T7.1")
    async def test_a_handler_that_takes_too_long_is_cancelled(self) -> None:
        """The caller learns it from the node, long before its own timeout."""
        server, client = await self.peer(handler_timeout=0.05), await self.peer()
        gate = Gate()
        await server.subscribe([3], gate)
        error = await failure(client.request(envelope(3), timeout=FAR), clstr.HandlerTimeoutError)
        assert (error.shard, error.maybe_executed) == (3, True)
        assert 0 < error.timeout <= 0.05
        assert gate.cancelled == 1

    @proves("T7.2")
    async def test_a_handler_has_no_longer_than_the_ttl(self) -> None:
        """The TTL is shorter than ``handler_timeout`` here."""
        server, client = await self.peer(handler_timeout=FAR), await self.peer()
        gate = Gate()
        await server.subscribe([0], gate)
        error = await failure(client.request(envelope(ttl_ms=300), timeout=FAR), clstr.HandlerTimeoutError)
        assert 0 < error.timeout < 0.31  # 0.3, give or take a difference of two floats
        assert gate.cancelled == 1

    @proves("T7.3")
    async def test_a_slot_is_free_only_when_its_task_has_ended(self) -> None:
        """A handler ignores its cancellation: its caller has been answered, its slot is still taken."""
        server = await self.peer(handler_timeout=0.05, max_concurrent=1, max_queue=0)
        client = await self.peer()
        with Gate(deaf=True) as gate:
            await server.subscribe([0], gate)
            await failure(client.request(envelope(data=b"deaf"), timeout=FAR), clstr.HandlerTimeoutError)
            error = await failure(client.request(envelope(data=b"next"), timeout=FAR), clstr.OverloadedError)
            assert error.limit == "max_queue"
            assert gate.running == gate.peak == 1
        await gate.until(lambda gate: gate.running == 0)
        await settle()
        assert await client.request(envelope(data=b"last"), timeout=FAR) == b"last"

    @proves("T8.1")
    async def test_the_wire_carries_what_is_left_of_ttl_and_timeout(self) -> None:
        """The handler sees it as the envelope's TTL."""
        server, client = await self.peer(), await self.peer()
        arrived: defaultdict[int, asyncio.Queue[int]] = defaultdict(asyncio.Queue)

        async def handler(message: clstr.Envelope) -> None:
            arrived[message.shard].put_nowait(message.ttl_ms)

        await server.subscribe(range(3), handler)
        for ttl_ms, timeout, at_most in ((60_000, 10.0, 10_000), (5_000, 60.0, 5_000), (0, 10.0, 10_000)):
            await client.request(envelope(ttl_ms=ttl_ms), timeout=timeout)
            assert at_most // 2 < await arrived[0].get() <= at_most
        await client.notify(envelope(1, ttl_ms=60_000), timeout=10.0)
        assert 30_000 < await arrived[1].get() <= 60_000
        await client.notify(envelope(2), timeout=10.0)
        assert await arrived[2].get() == 0

    @proves("T8.2")
    async def test_a_message_that_expires_while_it_waits_never_starts(self) -> None:
        """It is refused when its TTL is over, not when a slot is free."""
        server, client = await self.peer(max_concurrent=1), await self.peer()
        gate = Gate()
        await server.subscribe([0], gate)
        first = asyncio.create_task(client.request(envelope(data=b"first"), timeout=FAR))
        await gate.until_started(1)
        late = client.request(envelope(data=b"late", ttl_ms=100), timeout=FAR)
        error = await failure(late, clstr.EnvelopeExpiredError)
        assert not error.maybe_executed
        gate.open()
        await first
        await settle()
        assert gate.started == {b"first": 1}

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
            assert await client.request(envelope(data=b"patient"), timeout=FAR) == b"patient"
        assert gate.started == {b"patient": 1}

    @proves("T8.3")
    async def test_an_expired_envelope_is_not_sent(self) -> None:
        """Neither as a request nor as a notify."""
        server, client = await self.peer(), await self.peer()
        gate = Gate(is_open=True)
        await server.subscribe([0], gate)
        long_ago = time.time_ns() // 1_000_000 - 5_000
        old = clstr.Envelope(shard=0, type="check", data=b"old", ttl_ms=1_000, created_at_ms=long_ago)
        for send in (client.request, client.notify):
            assert not (await failure(send(old, timeout=FAR), clstr.EnvelopeExpiredError)).maybe_executed
        await client.request(envelope(data=b"new"), timeout=FAR)
        assert gate.started == {b"new": 1}

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
