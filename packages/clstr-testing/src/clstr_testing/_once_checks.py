"""T16: at most once."""

from __future__ import annotations

import asyncio
from collections import Counter

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, envelope, settle


class OnceChecks(Bench):
    """T16."""

    @proves("T16.1")
    async def test_no_message_runs_twice(self) -> None:
        """Handlers that answer, raise, cancel themselves and time out."""
        server, client = await self.peer(handler_timeout=0.05), await self.peer()
        started: Counter[bytes] = Counter()

        async def handler(message: clstr.Envelope) -> bytes:
            started[message.data] += 1
            match int(message.data) % 4:
                case 0:
                    raise ValueError("no")
                case 1:
                    raise asyncio.CancelledError
                case 2:
                    await asyncio.Event().wait()
            return message.data

        await server.subscribe([0], handler)
        messages = [b"%d" % number for number in range(60)]
        await asyncio.gather(
            *(client.request(envelope(data=data), timeout=FAR) for data in messages), return_exceptions=True
        )
        await settle()
        assert started == Counter(messages)

    @proves("T16.2", "T16.1")
    async def test_shards_that_move_lose_and_repeat_nothing(self) -> None:
        """Two peers pass a shard to and fro while it works; every outcome is the truth about what ran."""
        servers, client = [await self.peer(), await self.peer()], await self.peer()
        gate = Gate(is_open=True)

        async def handler(message: clstr.Envelope) -> bytes:
            data = await gate(message)
            await settle(3)
            return data

        holder = await servers[0].subscribe([0], handler)
        other = await servers[1].subscribe([], handler)
        numbers = iter(range(1_000_000))
        moved = asyncio.Event()

        async def caller() -> None:
            while not moved.is_set():
                data = b"%d" % next(numbers)
                try:
                    assert await client.request(envelope(data=data), timeout=FAR) == data
                except clstr.ClstrError as error:
                    assert not error.maybe_executed, repr(error)
                    assert gate.started[data] == 0, repr(error)
                else:
                    assert gate.started[data] == 1
                await asyncio.sleep(0)

        callers = [asyncio.create_task(caller()) for _ in range(8)]
        for _ in range(20):
            await settle(10)
            await other.add([0])
            await holder.remove([0])
            holder, other = other, holder
        moved.set()
        await asyncio.gather(*callers)
        assert set(gate.started.values()) == {1}
