"""T6: what waits, and what has no room."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, envelope, settle
from clstr_testing._link_bench import PAUSE
from clstr_testing._outcomes import failure, first_done

LARGE_BYTES = 256 * 1024  # a quarter of the default max_payload_bytes
MANY = 200  # so that the answers are more than any link or socket lets wait: 50 MiB


class RunningChecks(Bench):
    """T6: the queues and the answers."""

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

    @proves("T6.2")
    async def test_notifies_wait_and_are_bounded_like_requests(self) -> None:
        """One slot and a queue of three, which notifies fill: no request finds a place, and no further notify runs."""
        server, client = await self.peer(max_concurrent=1, max_queue=3), await self.peer()
        gate = Gate()
        await server.subscribe([0], gate)
        await client.notify(envelope(data=b"first"), timeout=FAR)
        await gate.until_started(1)
        for number in range(6):
            await client.notify(envelope(data=b"%d" % number), timeout=FAR)
        requests = [asyncio.create_task(client.request(envelope(data=b"r%d" % n), timeout=FAR)) for n in range(4)]
        await first_done(requests, 1)
        await asyncio.sleep(PAUSE)
        gate.open()
        await asyncio.gather(*requests, return_exceptions=True)
        await gate.until_started(4)
        await settle()
        assert gate.started.total() == 4

    @proves("T6.2")
    async def test_places_in_the_queue_come_back(self) -> None:
        """Three messages wait, no more and no fewer, after others have started, were refused, or have expired."""
        server, client = await self.peer(max_concurrent=1, max_queue=3), await self.peer()
        for shard, ttl_ms in enumerate((0, 50, 0, 50, 0)):
            gate = Gate()
            subscription = await server.subscribe([shard], gate)
            first = asyncio.create_task(client.request(envelope(shard, b"first"), timeout=FAR))
            await gate.until_started(1)
            late = [asyncio.create_task(client.request(envelope(shard, ttl_ms=ttl_ms), timeout=FAR)) for _ in range(5)]
            await first_done(late, 5 if ttl_ms else 2)
            gate.open()
            outcomes = await asyncio.gather(first, *late, return_exceptions=True)
            assert sum(isinstance(outcome, bytes) for outcome in outcomes) == (1 if ttl_ms else 4)
            assert sum(isinstance(outcome, clstr.OverloadedError) for outcome in outcomes) == 2
            await subscription.aclose()

    @proves("T6.3")
    async def test_the_bytes_of_notifies_and_of_small_messages_count(self) -> None:
        """One slot, and bytes for some: many small requests, then large notifies."""
        server, client = await self.peer(max_concurrent=1, max_queue_bytes=5000), await self.peer()
        for shard, size in enumerate((1, 1000)):
            gate = Gate()
            subscription = await server.subscribe([shard], gate)
            first = asyncio.create_task(client.request(envelope(shard, b"first"), timeout=FAR))
            await gate.until_started(1)
            if size > 1:
                for _ in range(20):
                    await client.notify(envelope(shard, b"x" * size), timeout=FAR)
                await asyncio.sleep(PAUSE)
            requests = [
                client.request(envelope(shard, b"x" * size), timeout=FAR) for _ in range(20 if size > 1 else 400)
            ]
            sent = [asyncio.ensure_future(request) for request in requests]
            [refused, *_] = await first_done(sent, 10)
            assert (await failure(refused, clstr.OverloadedError)).limit == "max_queue_bytes"
            await asyncio.sleep(PAUSE)
            gate.open()
            await asyncio.gather(first, *sent, return_exceptions=True)
            await settle()
            assert gate.started[b"x" * size] <= 5000 // (size + 1) // (1 if size > 1 else 10)
            await subscription.aclose()

    @proves("T6.2", "T6.5")
    async def test_the_queue_of_nested_requests_is_bounded(self) -> None:
        """One slot and a queue of two: of six requests that a handler makes at once, three are refused."""
        server, client = await self.peer(max_concurrent=1, max_queue=2), await self.peer()
        refused = await self._nested(server, client, [b"%d" % number for number in range(6)], 3)
        assert refused == ["max_queue"] * 3

    @proves("T6.3")
    async def test_the_bytes_of_nested_requests_are_bounded(self) -> None:
        """One slot, and bytes for some of ten requests that a handler makes at once."""
        server, client = await self.peer(max_concurrent=1, max_queue_bytes=5000), await self.peer()
        refused = await self._nested(server, client, [b"%d" % number * 1000 for number in range(10)], 5)
        assert 5 <= len(refused) < 9
        assert set(refused) == {"max_queue_bytes"}

    async def _nested(
        self, server: clstr.Transport, client: clstr.Transport, bodies: Sequence[bytes], least: int
    ) -> list[str]:
        """Let a handler make requests to its own peer; return the bounds by which they were refused, ``least`` some."""
        gate, refused = Gate(), list[str]()
        enough = asyncio.Event()

        async def ask(body: bytes) -> None:
            try:
                await server.request(envelope(1, body), timeout=FAR)
            except clstr.OverloadedError as error:
                refused.append(error.limit)
                if len(refused) >= least:
                    enough.set()

        async def parent(_: clstr.Envelope) -> bytes:
            await asyncio.gather(*map(ask, bodies))
            return b"done"

        await server.subscribe([0], parent)
        await server.subscribe([1], gate)
        request = asyncio.create_task(client.request(envelope(), timeout=FAR))
        await gate.until_started(1)
        outer = asyncio.create_task(client.request(envelope(1, b"outer" * 200), timeout=FAR))
        await enough.wait()
        await settle()
        gate.open()
        assert await request == b"done"
        assert await outer == b"outer" * 200  # theirs is another queue
        return refused
