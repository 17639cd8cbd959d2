"""T6: what runs, and what waits."""

from __future__ import annotations

import asyncio

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, envelope, settle
from clstr_testing._outcomes import failure, first_done

LARGE_BYTES = 256 * 1024  # a quarter of the default max_payload_bytes
MANY = 200  # so that the answers are more than any link or socket lets wait: 50 MiB


class RunningChecks(Bench):
    """T6."""

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
        errors = [await failure(refused, clstr.OverloadedError) for refused in await first_done(requests, 2)]
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
        for refused in await first_done(requests, 15):
            error = await failure(refused, clstr.OverloadedError)
            assert (error.limit, error.maybe_executed) == ("max_queue_bytes", False)
        gate.open()
        outcomes = await asyncio.gather(*requests, return_exceptions=True)
        assert sum(isinstance(outcome, bytes) for outcome in outcomes) == gate.started.total() >= 2
        for _ in range(3):  # there is room again, each time
            pair = bodies[:2]
            assert await asyncio.gather(*(client.request(envelope(data=body), timeout=FAR) for body in pair)) == pair

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
        await first_done(requests, 1)  # refused: so the other two wait by now
        nest.set()
        await queued.wait()
        gate.open()
        await parent
        await asyncio.gather(*requests, return_exceptions=True)
        last_nested = max(index for index, data in enumerate(gate.order) if data.startswith(b"nested"))
        waiting_outer = [index for index, data in enumerate(gate.order) if data.startswith(b"outer")][1:]
        assert len(gate.order) >= 4
        assert all(index > last_nested for index in waiting_outer)
