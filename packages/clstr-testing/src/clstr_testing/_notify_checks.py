"""T12: messages that nobody waits for."""

from __future__ import annotations

import asyncio

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, echo, envelope, settle
from clstr_testing._outcomes import failure


class NotifyChecks(Bench):
    """T12."""

    @proves("T12.1")
    async def test_a_notify_runs_once_and_is_not_waited_for(self) -> None:
        """It returns while the handler is stuck: alone, and with as many as a `Batcher` streams in one write."""
        server, client = await self.peer(), await self.peer()
        gate = Gate()
        await server.subscribe(range(10), gate)
        for number in range(10):
            await client.notify(envelope(number, b"%d" % number), timeout=FAR)
        await asyncio.gather(*(client.notify(envelope(0, b"%d" % number), timeout=FAR) for number in range(10, 74)))
        await gate.until_started(74)
        gate.open()
        await client.request(envelope(data=b"last"), timeout=FAR)
        await settle()
        assert set(gate.started.values()) == {1}
        assert len(gate.started) == 75

    @proves("T12.2")
    async def test_the_fate_of_a_notify_is_not_reported(self) -> None:
        """One is refused because the node is busy, one raises: its sender hears of neither."""
        server, client = await self.peer(max_concurrent=1, max_queue=0), await self.peer()
        gate = Gate()
        raised = asyncio.Event()

        async def handler(message: clstr.Envelope) -> bytes:
            if message.data == b"raise":
                raised.set()
                raise ValueError("not reported")
            return await gate(message)

        await server.subscribe([0], handler)
        held = asyncio.create_task(client.request(envelope(data=b"held"), timeout=FAR))
        await gate.until_started(1)
        await client.notify(envelope(data=b"refused"), timeout=FAR)
        await failure(client.request(envelope(data=b"behind it"), timeout=FAR), clstr.OverloadedError)
        gate.open()
        await held
        await settle()
        await client.notify(envelope(data=b"raise"), timeout=FAR)
        await raised.wait()
        await settle()
        assert await client.request(envelope(data=b"well"), timeout=FAR) == b"well"
        assert gate.started == {b"held": 1, b"well": 1}

    @proves("T12.1")
    async def test_a_notify_to_oneself_is_delivered(self) -> None:
        """A peer may own the shard that it notifies."""
        server = await self.peer()
        gate = Gate(is_open=True)
        await server.subscribe([0], gate)
        await server.notify(envelope(data=b"x"), timeout=FAR)
        await gate.until_started(1)
        assert await server.request(envelope(data=b"y"), timeout=FAR) == await echo(envelope(data=b"y"))

    @proves("T12.3")
    async def test_a_notify_follows_a_shard_that_moved(self) -> None:
        """Its sender has learned who held the shard, and nobody has told it that somebody else does now."""
        client, first, second = await self.peer(), await self.peer(), await self.peer()
        gate = Gate(is_open=True)
        subscription = await first.subscribe([0], echo)
        await client.request(envelope(data=b"before"), timeout=FAR)
        await subscription.aclose()
        await second.subscribe([0], gate)
        await client.notify(envelope(data=b"after"), timeout=FAR)
        await gate.until_started(1)
