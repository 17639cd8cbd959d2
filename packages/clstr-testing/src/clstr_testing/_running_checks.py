"""T6 to T8: what runs, how long, and what waits."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, echo, envelope, late_first_steps, settle
from clstr_testing._outcomes import failure

LARGE_BYTES = 256 * 1024  # a quarter of the default max_payload_bytes
MANY = 200  # so that the answers are more than any link or socket lets wait: 50 MiB


class RunningChecks(Bench):
    """T6 to T8."""

    @proves("T6.6")
    async def test_many_large_answers_all_arrive(self) -> None:
        """Two hundred requests at once, answered with 256 KiB each: as much as a link takes some time to send."""
        server, client = await self.peer(), await self.peer()

        async def handler(message: clstr.Envelope) -> bytes:
            return message.data * (LARGE_BYTES // len(message.data))

        await server.subscribe([0], handler)
        bodies = [b"%4d" % number for number in range(MANY)]
        requests = [client.request(envelope(data=body), timeout=FAR) for body in bodies]
        replies = await asyncio.gather(*requests)
        assert [reply[:4] for reply in replies] == bodies
        assert {len(reply) for reply in replies} == {LARGE_BYTES}

    @proves("T6.1")
    async def test_as_many_handlers_run_as_may_also_within_a_shard(self) -> None:
        """Ten messages for one shard and three slots: three run, never more, and all are answered."""
        server, client = await self.peer(max_concurrent=3), await self.peer()
        gate = Gate()
        await server.subscribe([0], gate)
        requests = [asyncio.create_task(client.request(envelope(data=b"%d" % n), timeout=FAR)) for n in range(10)]
        await gate.until_started(3)
        await settle()
        assert gate.running == 3
        gate.open()
        await asyncio.gather(*requests)
        assert gate.peak == 3

    @proves("T6.2")
    async def test_a_full_queue_refuses_at_once(self) -> None:
        """One slot and a queue of three: of six messages two are refused while the others still wait."""
        server, client = await self.peer(max_concurrent=1, max_queue=3), await self.peer()
        gate = Gate()
        await server.subscribe([0], gate)
        requests = [asyncio.create_task(client.request(envelope(data=b"%d" % n), timeout=FAR)) for n in range(6)]
        errors = [await failure(refused, clstr.OverloadedError) for refused in await self._first_done(requests, 2)]
        assert {(error.limit, error.bound, error.maybe_executed) for error in errors} == {("max_queue", 3, False)}
        gate.open()
        outcomes = await asyncio.gather(*requests, return_exceptions=True)
        assert sum(isinstance(outcome, bytes) for outcome in outcomes) == gate.started.total() == 4

    @proves("T6.3")
    async def test_a_queue_full_of_bytes_refuses_at_once(self) -> None:
        """One slot, and room for some of 20 kilobyte messages."""
        server, client = await self.peer(max_concurrent=1, max_queue_bytes=5000), await self.peer()
        gate = Gate()

        async def handler(message: clstr.Envelope) -> bytes:
            reply = await gate(message)
            await asyncio.sleep(0)  # else none would wait once the gate is open
            return reply

        await server.subscribe([0], handler)
        bodies = [b"%4d" % number * 250 for number in range(20)]
        requests = [asyncio.create_task(client.request(envelope(data=body), timeout=FAR)) for body in bodies]
        for refused in await self._first_done(requests, 15):
            error = await failure(refused, clstr.OverloadedError)
            assert (error.limit, error.maybe_executed) == ("max_queue_bytes", False)
        gate.open()
        outcomes = await asyncio.gather(*requests, return_exceptions=True)
        assert sum(isinstance(outcome, bytes) for outcome in outcomes) == gate.started.total() >= 2
        for _ in range(3):  # there is room again, each time
            pair = bodies[:2]
            assert await asyncio.gather(*(client.request(envelope(data=body), timeout=FAR) for body in pair)) == pair

    async def _first_done(self, requests: list[asyncio.Task[bytes]], count: int) -> list[asyncio.Task[bytes]]:
        """Wait until ``count`` requests have ended, and return those."""
        while sum(request.done() for request in requests) < count:
            await asyncio.wait([request for request in requests if not request.done()], return_when="FIRST_COMPLETED")
        return [request for request in requests if request.done()]

    @proves("T6.4")
    async def test_nested_requests_do_not_deadlock(self) -> None:
        """Two slots, depth three, two requests at once in each handler, 50 callers: all are answered."""
        server, client = await self.peer(max_concurrent=2), await self.peer()

        async def handler(message: clstr.Envelope) -> bytes:
            depth = int(message.data)
            if depth == 0:
                return b"1"
            onward = envelope(1 - message.shard, b"%d" % (depth - 1))
            replies = await asyncio.gather(*(server.request(onward, timeout=FAR) for _ in range(2)))
            return b"%d" % sum(map(int, replies))

        await server.subscribe([0, 1], handler)
        replies = await asyncio.gather(*(client.request(envelope(0, b"3"), timeout=FAR) for _ in range(50)))
        assert set(replies) == {b"8"}

    @proves("T6.4")
    async def test_a_lent_slot_comes_back_without_waiting(self) -> None:
        """While the first handler awaits another peer, another takes its slot; it ends all the same."""
        server, other, client = await self.peer(max_concurrent=1), await self.peer(), await self.peer()
        keeper, elsewhere = Gate(), Gate()
        await other.subscribe([2], elsewhere)

        async def first(_: clstr.Envelope) -> bytes:
            return await server.request(envelope(2, b"nested"), timeout=FAR)

        await server.subscribe([0], first)
        await server.subscribe([1], keeper)
        one = asyncio.create_task(client.request(envelope(0), timeout=FAR))
        await elsewhere.until_started(1)
        two = asyncio.create_task(client.request(envelope(1, b"keeper"), timeout=FAR))
        await keeper.until_started(1)
        elsewhere.open()
        assert await one == b"nested"
        assert not two.done()
        keeper.open()
        assert await two == b"keeper"

    @proves("T6.5")
    async def test_nested_requests_have_a_queue_of_their_own_and_start_first(self) -> None:
        """A full queue of messages from outside keeps no nested one out, and those start before what waited longer."""
        server, client = await self.peer(max_concurrent=1, max_queue=2), await self.peer()
        gate, begun, nest, queued = Gate(), asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def handler(message: clstr.Envelope) -> bytes:
            if message.data != b"parent":
                return await gate(message)
            begun.set()
            await nest.wait()
            await asyncio.gather(*(child(number) for number in range(4)))
            return b""

        async def child(number: int) -> None:
            try:
                await server.request(envelope(data=b"nested %d" % number), timeout=FAR)
            except clstr.OverloadedError:
                queued.set()  # so the others wait by now

        await server.subscribe([0], handler)
        parent = asyncio.create_task(client.request(envelope(data=b"parent"), timeout=FAR))
        await begun.wait()
        requests = [asyncio.create_task(client.request(envelope(data=b"outer %d" % n), timeout=FAR)) for n in range(3)]
        await self._first_done(requests, 1)  # refused: so the other two wait by now
        nest.set()
        await queued.wait()
        gate.open()
        await parent
        await asyncio.gather(*requests, return_exceptions=True)
        last_nested = max(index for index, data in enumerate(gate.order) if data.startswith(b"nested"))
        waiting_outer = [index for index, data in enumerate(gate.order) if data.startswith(b"outer")][1:]
        assert len(gate.order) >= 4
        assert all(index > last_nested for index in waiting_outer)

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
