"""T2: one of several that hold a shard gets each message."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, envelope, settle

MANY = 150  # of each kind: a fault in one message of a hundred is among them
SHARED = (0, 7, 2**16, 2**32 - 1)


class SharingChecks(Bench):
    """T2."""

    @proves("T2.1", "T16.1")
    async def test_each_message_goes_to_one_of_several_peers(self) -> None:
        """Three peers hold the shards, one of them twice; it makes no difference if the sender is one of them."""
        servers, client = [await self.peer() for _ in range(3)], await self.peer()
        gate = Gate(is_open=True)
        for server in (*servers, servers[0]):
            await server.subscribe(SHARED, gate)
        await self._runs_once(client, SHARED, gate, b"from another")
        await self._runs_once(servers[1], SHARED, gate, b"from a holder")

    @proves("T2.2", "T16.1")
    async def test_each_message_goes_to_one_of_several_subscriptions_of_a_peer(self) -> None:
        """However they came to hold it; when one leaves, the others have all of its messages."""
        server, client = await self.peer(), await self.peer()
        gate, arrived = Gate(is_open=True), Counter[str]()

        def named(name: str) -> clstr.abc.Handler:
            async def handler(message: clstr.Envelope) -> bytes:
                arrived[name] += 1
                return await gate(message)

            return handler

        some = await server.subscribe([0, 1], named("some"))
        one = await server.subscribe_shard(0, named("one"))
        grown = await server.subscribe([], named("grown"))
        await grown.add([0])
        await server.subscribe([0], named("last"))
        await self._runs_once(client, [0], gate, b"four")
        for name in ("some", "one", "grown"):
            await (one.aclose() if name == "one" else {"some": some, "grown": grown}[name].remove([0]))
            before = arrived[name]
            await self._runs_once(client, [0], gate, f"without {name}".encode(), many=20)
            assert arrived[name] == before
        before = arrived["some"]
        await client.request(envelope(1), timeout=FAR)
        assert arrived["some"] == before + 1

    async def _runs_once(
        self, sender: clstr.Transport, shards: Sequence[int], gate: Gate, name: bytes, many: int = MANY
    ) -> None:
        """Let ``sender`` send requests and notifies, small and large: each is to pass ``gate`` once."""
        messages = [
            envelope(shards[number % len(shards)], b"%s %d " % (name, number) + b"x" * (number % 4 * 2_000))
            for number in range(2 * many)
        ]
        requests, notifies, at_once = messages[:many], messages[many:-10], messages[-10:]
        replies = await asyncio.gather(*(sender.request(message, timeout=FAR) for message in requests))
        assert replies == [message.data for message in requests]
        for message in notifies:
            await sender.notify(message, timeout=FAR)
        await asyncio.gather(*(sender.notify(message, timeout=FAR) for message in at_once))
        sent = {message.data for message in messages}
        await gate.until(lambda gate: sent <= gate.started.keys())
        await asyncio.gather(
            *(sender.request(envelope(shard, name), timeout=FAR) for shard in shards for _ in range(9))
        )
        await settle()
        assert {gate.started[data] for data in sent} == {1}
