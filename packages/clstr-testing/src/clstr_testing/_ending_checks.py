"""T9: how and when calls end."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, block, envelope, settle
from clstr_testing._outcomes import failure

ROUND = 40  # calls of each kind whose memory is looked at
KEPT_BYTES = 5000  # for one of each kind: less than its payload, and more than what buffers and caches grow by

LOOKS = 50  # at the memory, until it is free


class Ends:
    """A handler that ends in a way of its own for each shard: it answers, raises, refuses, hangs."""

    def __init__(self, never: asyncio.Event) -> None:
        self._never = never

    async def __call__(self, message: clstr.Envelope) -> bytes:
        if message.shard == 1:
            raise ValueError("no")
        if message.shard == 2:
            raise clstr.refuse(clstr.UnknownMessageError("check", ""))
        if message.shard == 3:
            await self._never.wait()
        return message.data[:4]  # a node may keep larger ones for callers that have no room for them


def ends_of(client: clstr.Transport, data: bytes, *, timeout: float) -> Iterator[Coroutine[Any, Any, object]]:
    """Yield a call of each kind of end; those that hang do so for ``timeout`` seconds."""
    for shard in (0, 1, 2, 99):  # nobody holds 99
        yield client.request(envelope(shard, data), timeout=FAR)
        yield client.notify(envelope(shard, data), timeout=FAR)
    yield client.request(envelope(3, data), timeout=timeout)
    yield client.notify(envelope(3, data, ttl_ms=10), timeout=FAR)
    yield client.request(clstr.Envelope(shard=0, type=""), timeout=FAR)
    yield cancelled(client.request(envelope(3, data, ttl_ms=10), timeout=FAR), 20)
    yield cancelled(client.request(envelope(0, data), timeout=FAR), 1)


async def cancelled(call: Coroutine[Any, Any, object], ticks: int) -> None:
    """Cancel ``call`` after some turns of the loop."""
    task = asyncio.create_task(call)
    await settle(ticks)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def growth(work: Callable[[], Awaitable[None]], *, limit: int) -> int:
    """Return the bytes of Python's memory that are left of ``work``, once they are below ``limit`` or stay above it."""
    logging.disable(logging.CRITICAL)  # test runners keep what is logged
    is_ours = not tracemalloc.is_tracing()
    gc.collect()
    gc.freeze()  # what was there before cannot be left of this, and would only take the collector's time
    try:
        if is_ours:
            tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        await work()
        for _ in range(LOOKS):
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
            if grown < limit:
                break
            await asyncio.sleep(0.02)  # messages of calls that were given up may still be on their way
    finally:
        if is_ours:
            tracemalloc.stop()
        gc.unfreeze()
        logging.disable(logging.NOTSET)
    return grown


class EndingChecks(Bench):
    """T9."""

    @proves("T9.1")
    async def test_a_request_ends_by_its_timeout(self) -> None:
        """The handler never ends; the caller's timeout is over first, or the node's share of it."""
        server, client = await self.peer(), await self.peer()
        with Gate(deaf=True) as gate:
            await server.subscribe([0], gate)
            try:
                await client.request(envelope(), timeout=0.1)
            except (clstr.RequestTimeoutError, clstr.HandlerTimeoutError) as error:
                assert error.maybe_executed
            else:
                raise AssertionError("the request returned")

    @proves("T9.1")
    async def test_the_callers_own_clock_ends_a_request(self) -> None:
        """The node's loop is blocked until the time of both is over: its answer comes later than that."""
        server, client = await self.peer(), await self.peer()
        never = asyncio.Event()

        async def handler(_: clstr.Envelope) -> None:
            block(0.3)  # the client is on this loop: what is due for both comes in the turn after this
            await never.wait()

        await server.subscribe([0], handler)
        for _ in range(2):
            assert (await failure(client.request(envelope(), timeout=0.2), clstr.RequestTimeoutError)).maybe_executed

    @proves("T9.1")
    async def test_no_request_ends_before_its_timeout(self) -> None:
        """Nothing is heard of it until then, and it has all the time that it was given."""
        server, client = await self.peer(), await self.peer()
        gate = Gate()
        await server.subscribe([0], gate)
        request = asyncio.create_task(client.request(envelope(), timeout=0.3))
        early: list[bool] = []  # timers run in the order of their times, however late: no busy machine changes this
        asyncio.get_running_loop().call_later(0.2, lambda: early.append(request.done()))
        await asyncio.gather(request, return_exceptions=True)
        assert early == [False]

    @proves("T9.2")
    async def test_places_and_bytes_come_back_however_calls_end(self) -> None:
        """A client with room for three has it after ten times of each end."""
        server, client = await self.peer(), await self.peer(max_inflight_requests=3, max_inflight_bytes=3000)
        await server.subscribe(range(5), Ends(asyncio.Event()))
        for _ in range(5):
            for call in ends_of(client, b"x" * 3000, timeout=0.01):
                await asyncio.gather(call, return_exceptions=True)
        calls = (client.request(envelope(data=b"%d" % number * 1000), timeout=FAR) for number in range(3))
        assert await asyncio.gather(*calls) == [b"0" * 4, b"1" * 4, b"2" * 4]

    @proves("T9.2")
    async def test_no_memory_is_kept_of_calls_that_have_ended(self) -> None:
        """Calls of every end, a hundred times each: neither the client nor the node has more memory afterwards."""
        server, client = await self.peer(), await self.peer()
        await server.subscribe(range(5), Ends(asyncio.Event()))

        async def calls() -> None:
            each = [call for number in range(ROUND) for call in ends_of(client, b"%4d" % number * 2000, timeout=0.05)]
            await asyncio.gather(*each, return_exceptions=True)
            await client.request(envelope(), timeout=FAR)
            await settle()

        await calls()  # what is made once and stays
        limit = ROUND * KEPT_BYTES
        grown = await growth(calls, limit=limit)
        assert grown < limit, f"{grown} bytes are left of {ROUND} calls of each kind"

    @proves("T9.2")
    async def test_nothing_is_kept_of_cancelled_requests(self) -> None:
        """Their places and their bytes are free for others at once."""
        server, client = await self.peer(), await self.peer(max_inflight_requests=5, max_inflight_bytes=5000)
        gate = Gate()
        await server.subscribe(range(5), gate)
        for attempt in range(1, 6):
            data = b"%d" % attempt * 1000
            requests = [asyncio.create_task(client.request(envelope(shard, data), timeout=FAR)) for shard in range(5)]
            await gate.until_started(attempt * 5)
            for request in requests:
                request.cancel()
            outcomes = await asyncio.gather(*requests, return_exceptions=True)
            assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        gate.open()
        assert await client.request(envelope(data=b"x" * 5000), timeout=FAR) == b"x" * 5000

    @proves("T9.3", "T9.2")
    async def test_every_reply_reaches_its_own_request(self) -> None:
        """600 requests, 60 at a time, that end in any order, a third of them cancelled on the way."""
        server, client = await self.peer(), await self.peer()
        chance = random.Random(9)  # noqa: S311 -- a schedule, no secret

        async def handler(message: clstr.Envelope) -> bytes:
            await settle(int(message.data) % 7)
            return message.data

        async def call(number: int) -> None:
            data = b"%d" % number
            request = asyncio.create_task(client.request(envelope(number % 8, data), timeout=FAR))
            is_cancelled = chance.random() < 1 / 3
            if is_cancelled:
                await settle(chance.randrange(20))
                request.cancel()
            [outcome] = await asyncio.gather(request, return_exceptions=True)
            assert outcome == data or (is_cancelled and isinstance(outcome, asyncio.CancelledError)), repr(outcome)

        async def calls(first: int) -> None:
            for number in range(first, 600, 60):
                await call(number)

        await server.subscribe(range(8), handler)
        await asyncio.gather(*(calls(first) for first in range(60)))

    @proves("T9.3")
    async def test_late_answers_end_no_other_request(self) -> None:
        """Forty requests are given up, and answered when forty others of two callers wait."""
        server, clients = await self.peer(), [await self.peer(), await self.peer()]
        late, held = Gate(), Gate()
        await server.subscribe([0], late)
        await server.subscribe([1], held)
        given_up = [
            asyncio.create_task(client.request(envelope(0, b"late %d" % number), timeout=FAR))
            for number, client in enumerate(clients * 20)
        ]
        await late.until_started(40)
        for request in given_up:
            request.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
        waiting = [
            asyncio.create_task(client.request(envelope(1, b"%d" % number), timeout=FAR))
            for number, client in enumerate(clients * 20)
        ]
        await held.until_started(40)
        late.open()
        for client in clients:  # whatever was on its way has come when this is answered
            assert await client.request(envelope(0, b"between"), timeout=FAR) == b"between"
        assert not any(request.done() for request in waiting)
        held.open()
        assert await asyncio.gather(*waiting) == [b"%d" % number for number in range(40)]
