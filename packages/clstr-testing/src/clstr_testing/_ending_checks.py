"""T9: how and when calls end."""

from __future__ import annotations

import asyncio
import random

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, envelope, settle


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
