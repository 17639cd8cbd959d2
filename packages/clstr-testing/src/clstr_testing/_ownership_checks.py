"""T2 to T4: who gets a message."""

from __future__ import annotations

import asyncio
from collections import Counter

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, echo, envelope, settle
from clstr_testing._outcomes import failure


class OwnershipChecks(Bench):
    """T2 to T4."""

    @proves("T2.1", "T16.1")
    async def test_each_message_goes_to_one_of_several_peers(self) -> None:
        """Three peers hold the shard; each of 60 messages runs once."""
        servers, client = [await self.peer() for _ in range(3)], await self.peer()
        gate = Gate(is_open=True)
        for server in servers:
            await server.subscribe([0], gate)
        messages = [str(number).encode() for number in range(60)]
        replies = await asyncio.gather(*(client.request(envelope(data=data), timeout=FAR) for data in messages))
        await settle()
        assert replies == messages
        assert gate.started == Counter(messages)

    @proves("T2.2", "T16.1")
    async def test_each_message_goes_to_one_of_several_subscriptions_of_a_peer(self) -> None:
        """Two handlers hold the shard on one transport; when one leaves the other stays."""
        server, client = await self.peer(), await self.peer()
        gates = Gate(is_open=True), Gate(is_open=True)
        subscriptions = [await server.subscribe([0], gate) for gate in gates]
        messages = [str(number).encode() for number in range(40)]
        await asyncio.gather(*(client.request(envelope(data=data), timeout=FAR) for data in messages))
        await settle()
        assert gates[0].started + gates[1].started == Counter(messages)
        await subscriptions[0].aclose()
        assert await client.request(envelope(data=b"still"), timeout=FAR) == b"still"
        assert gates[1].started[b"still"] == 1

    @proves("T3.1")
    async def test_a_request_to_an_unowned_shard_fails_at_once(self) -> None:
        """Nobody holds shard 1, although somebody holds shard 0; a shard that was let go of is unowned again."""
        server, client = await self.peer(), await self.peer()
        subscription = await server.subscribe([0], echo)
        error = await failure(client.request(envelope(1), timeout=FAR), clstr.NoShardSubscriberError)
        assert (error.shard, error.maybe_executed) == (1, False)
        await client.request(envelope(0), timeout=FAR)
        await subscription.aclose()
        await failure(client.request(envelope(0), timeout=FAR), clstr.NoShardSubscriberError)

    @proves("T3.2")
    async def test_a_notify_to_an_unowned_shard_fails_at_once(self) -> None:
        """The same for notify, from a peer that hosts nodes too."""
        server = await self.peer()
        await server.subscribe([0], echo)
        error = await failure(server.notify(envelope(1), timeout=FAR), clstr.NoShardSubscriberError)
        assert (error.shard, error.maybe_executed) == (1, False)

    @proves("T4.1")
    async def test_messages_are_delivered_as_soon_as_subscribe_has_returned(self) -> None:
        """Shards come and go, one by one; each is usable by another peer the moment its call returns."""
        server, client = await self.peer(), await self.peer()
        subscription = await server.subscribe([], echo)
        for shard in range(100):
            await subscription.add([shard])
            assert await client.request(envelope(shard, b"x"), timeout=FAR) == b"x"
        assert subscription.shards == frozenset(range(100))

    @proves("T4.1")
    async def test_many_shards_in_one_call(self) -> None:
        """4,096 shards at once, each delivered."""
        server, client = await self.peer(), await self.peer()
        await server.subscribe(range(4096), echo)
        for shard in (*range(0, 4096, 97), 4095):
            assert await client.request(envelope(shard, b"x"), timeout=FAR) == b"x"
