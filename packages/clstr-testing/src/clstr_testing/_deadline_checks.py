"""T7: how long a handler may take."""

from __future__ import annotations

import asyncio

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, block, envelope, settle
from clstr_testing._outcomes import failure, first_done


class DeadlineChecks(Bench):
    """T7."""

    @proves("T7.1")
    async def test_a_handler_that_takes_too_long_is_cancelled(self) -> None:
        """Each is, of a request and of a notify; the caller learns it from the node, long before its own timeout."""
        server, client = await self.peer(handler_timeout=0.05), await self.peer()
        with Gate() as gate:
            await server.subscribe([3], gate)
            for count in range(1, 5):
                error = await failure(client.request(envelope(3, b"x"), timeout=FAR), clstr.HandlerTimeoutError)
                assert (error.shard, error.maybe_executed) == (3, True)
                assert 0 < error.timeout <= 0.05
                assert gate.cancelled == count
            for count in range(5, 9):
                await client.notify(envelope(3, b"x"), timeout=FAR)
                await gate.until_cancelled(count)

    @proves("T7.1")
    async def test_a_nested_handler_that_takes_too_long_is_cancelled(self) -> None:
        """It has its own time; the one that waits for it goes on."""
        server, other, client = await self.peer(handler_timeout=0.05), await self.peer(), await self.peer()

        async def handler(_: clstr.Envelope) -> bytes:
            error = await failure(other.request(envelope(1, b"nested"), timeout=FAR), clstr.HandlerTimeoutError)
            return b"%d" % error.shard

        with Gate() as gate:
            await server.subscribe([1], gate)
            await other.subscribe([0], handler)
            for _ in range(2):
                assert await client.request(envelope(), timeout=FAR) == b"1"
            assert gate.cancelled == 2

    @proves("T7.1")
    async def test_a_handler_that_waits_for_a_reply_is_cancelled_too(self) -> None:
        """It has lent its slot, and its time passes all the same."""
        server, other, client = await self.peer(handler_timeout=0.05), await self.peer(), await self.peer()

        async def handler(_: clstr.Envelope) -> bytes:
            return await server.request(envelope(1), timeout=FAR)

        with Gate() as gate:
            await other.subscribe([1], gate)
            await server.subscribe([0], handler)
            await failure(client.request(envelope(), timeout=FAR), clstr.HandlerTimeoutError)

    @proves("T7.1")
    async def test_what_a_handler_answers_after_its_time_is_not_the_answer(self) -> None:
        """It is cancelled, and returns or raises something else."""
        server, client = await self.peer(handler_timeout=0.05), await self.peer()

        async def handler(message: clstr.Envelope) -> bytes:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if message.data == b"raise":
                    raise ValueError("late") from None
            return b"late"

        await server.subscribe([0], handler)
        for data in (b"return", b"raise"):
            await failure(client.request(envelope(data=data), timeout=FAR), clstr.HandlerTimeoutError)

    @proves("T7.1")
    async def test_the_time_of_a_handler_counts_from_its_start(self) -> None:
        """Messages that have waited for a slot have as much of it as any other, requests and notifies."""
        server, client = await self.peer(handler_timeout=0.1, max_concurrent=1), await self.peer()
        loop, times = asyncio.get_running_loop(), list[float]()
        ended = asyncio.Event()

        async def handler(message: clstr.Envelope) -> bytes:
            begun = loop.time()
            try:
                await asyncio.Event().wait()
            finally:
                times.append(loop.time() - begun)
                if len(times) == 4:
                    ended.set()
            return message.data

        await server.subscribe([0], handler)
        requests = [asyncio.create_task(client.request(envelope(), timeout=FAR)) for _ in range(2)]
        for _ in range(2):
            await client.notify(envelope(), timeout=FAR)
        for request in requests:
            error = await failure(request, clstr.HandlerTimeoutError)
            assert 0.09 < error.timeout <= 0.1
        await ended.wait()
        assert min(times) > 0.09

    @proves("T7.2")
    async def test_a_handler_has_no_longer_than_the_ttl(self) -> None:
        """The TTL is shorter than ``handler_timeout`` here, for a request and for a notify."""
        server, client = await self.peer(handler_timeout=FAR), await self.peer()
        with Gate() as gate:
            await server.subscribe([0], gate)
            error = await failure(client.request(envelope(ttl_ms=300), timeout=FAR), clstr.HandlerTimeoutError)
            assert 0 < error.timeout < 0.31  # 0.3, give or take a difference of two floats
            assert gate.cancelled == 1
            await client.notify(envelope(ttl_ms=50), timeout=FAR)
            await gate.until_cancelled(2)

    @proves("T7.2")
    async def test_what_a_message_has_waited_is_taken_from_its_ttl(self) -> None:
        """It waits for a slot for half of its time: the other half is left to its handler."""
        server, client = await self.peer(max_concurrent=1, max_queue=1), await self.peer()
        first, second = Gate(), Gate()
        await server.subscribe([0], first)
        await server.subscribe([1], second)
        running = asyncio.create_task(client.request(envelope(data=b"x", type="other"), timeout=FAR))
        await first.until_started(1)
        both = [asyncio.create_task(client.request(envelope(1, b"x", ttl_ms=600), timeout=FAR)) for _ in range(2)]
        [refused] = await first_done(both, 1)  # so the other one is there
        both.remove(refused)
        block(0.3)
        first.open()
        with second:
            error = await failure(both[0], clstr.HandlerTimeoutError)
        assert 0 < error.timeout < 0.31
        await running
        await failure(refused, clstr.OverloadedError)

    @proves("T7.3")
    async def test_a_slot_is_free_only_when_its_task_has_ended(self) -> None:
        """A handler ignores its cancellation: its caller has been answered, its slot is still taken."""
        server = await self.peer(handler_timeout=0.05, max_concurrent=1, max_queue=0)
        client = await self.peer()
        for shard, send in enumerate((client.request, client.notify)):
            with Gate(deaf=True) as gate:
                await server.subscribe([shard], gate)
                if shard:
                    await send(envelope(shard, b"deaf"), timeout=FAR)
                else:
                    await failure(send(envelope(shard, b"deaf"), timeout=FAR), clstr.HandlerTimeoutError)
                await gate.until_cancelled(1)
                await settle()
                error = await failure(client.request(envelope(shard, b"next"), timeout=FAR), clstr.OverloadedError)
                assert error.limit == "max_queue"
                assert gate.running == gate.peak == 1
            await gate.until(lambda gate: gate.running == 0)
            await settle()
            assert await client.request(envelope(shard, b"last"), timeout=FAR) == b"last"
