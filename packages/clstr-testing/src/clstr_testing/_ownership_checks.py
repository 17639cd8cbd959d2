"""T3 and T4: who holds a shard, and from when to when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import clstr
from clstr_testing._check import proves
from clstr_testing._handlers import FAR, Gate, echo, envelope, settle
from clstr_testing._link_bench import LINK, PAUSE, LinkBench
from clstr_testing._outcomes import failure
from clstr_testing._samples import SHARDS, confused_with

Hold = Callable[[clstr.Transport, int, clstr.abc.Handler], Awaitable[clstr.abc.Subscription]]
Release = Callable[[clstr.Transport, int], Awaitable[None]]
CALLS = ("request", "notify")


async def by_subscribe(server: clstr.Transport, shard: int, handler: clstr.abc.Handler) -> clstr.abc.Subscription:
    """Hold ``shard`` by a subscription of several."""
    return await server.subscribe([shard, shard], handler)


async def by_subscribe_shard(server: clstr.Transport, shard: int, handler: clstr.abc.Handler) -> clstr.abc.Subscription:
    """Hold ``shard`` by a subscription of one."""
    return await server.subscribe_shard(shard, handler)


async def by_add(server: clstr.Transport, shard: int, handler: clstr.abc.Handler) -> clstr.abc.Subscription:
    """Hold ``shard`` by a subscription that grows."""
    subscription = await server.subscribe([], handler)
    await subscription.add([shard])
    return subscription


HOLDS: tuple[Hold, ...] = by_subscribe, by_subscribe_shard, by_add


async def held_twice(server: clstr.Transport, shard: int) -> None:
    """Add a shard that is held already, and remove it once."""
    subscription = await server.subscribe([shard], echo)
    await subscription.add([shard])
    await subscription.remove([shard])
    assert subscription.shards == frozenset()


async def one_of_several(server: clstr.Transport, shard: int) -> None:
    """Remove one shard of a subscription that stays."""
    subscription = await server.subscribe([shard, shard + 1], echo)
    await subscription.remove([shard])
    assert subscription.shards == {shard + 1}


async def the_last_of_two(server: clstr.Transport, shard: int) -> None:
    """Close both subscriptions of a shard, in different ways."""
    first, second = await server.subscribe([shard], echo), await server.subscribe_shard(shard, echo)
    await first.aclose()
    await second.remove([shard])


async def held_again(server: clstr.Transport, shard: int) -> None:
    """Hold a shard, let go of it, and both again."""
    subscription = await server.subscribe([], echo)
    for _ in range(2):
        await subscription.add([shard])
        await subscription.remove([shard])


RELEASES: tuple[Release, ...] = held_twice, one_of_several, the_last_of_two, held_again


def sends(sender: clstr.Transport, call: str, shard: int, data: bytes = b"x") -> Awaitable[object]:
    """Send a request or a notify."""
    return (
        sender.request(envelope(shard, data), timeout=FAR)
        if call == "request"
        else sender.notify(envelope(shard, data), timeout=FAR)
    )


async def is_unowned(sender: clstr.Transport, call: str, shard: int) -> None:
    """Check what ``sender`` is told of a shard that nobody holds."""
    error = await failure(sends(sender, call, shard), clstr.NoShardSubscriberError)
    assert (error.shard, error.maybe_executed) == (shard, False)


class OwnershipChecks(LinkBench):
    """T3 and T4."""

    @proves("T3.1")
    async def test_a_request_to_an_unowned_shard_fails_at_once(self) -> None:
        """Shards are held whose numbers are easily confused with others: cut, signed, rounded, or compared as text."""
        await self._is_not_confused("request")

    @proves("T3.2")
    async def test_a_notify_to_an_unowned_shard_fails_at_once(self) -> None:
        """The same for notify."""
        await self._is_not_confused("notify")

    async def _is_not_confused(self, call: str) -> None:
        server, other, client = await self.peer(), await self.peer(), await self.peer()
        await server.subscribe(SHARDS[::2], echo)
        await other.subscribe(SHARDS[1::2], echo)
        unowned = sorted(set().union(*map(confused_with, SHARDS)) - {*SHARDS})
        await asyncio.gather(*(is_unowned(client, call, shard) for shard in unowned))
        await asyncio.gather(*(is_unowned(server, call, shard) for shard in unowned[::5]))
        for shard in SHARDS:
            await sends(client, call, shard)

    @proves("T3.1")
    async def test_a_request_to_a_former_owner_fails_at_once(self) -> None:
        """However the shard was let go of, and whether the sender has known its owner, or was it."""
        await self._is_let_go_of("request")

    @proves("T3.2")
    async def test_a_notify_to_a_former_owner_fails_at_once(self) -> None:
        """The same for notify."""
        await self._is_let_go_of("notify")

    async def _is_let_go_of(self, call: str) -> None:
        server, client, other = await self.peer(), await self.peer(), await self.peer()
        await server.subscribe([0], echo)
        for shard, hold in enumerate(HOLDS, 10):
            for leave in ("remove", "aclose"):
                subscription = await hold(server, shard, echo)
                for known in CALLS:
                    await sends(client, known, shard)
                await (subscription.remove([shard]) if leave == "remove" else subscription.aclose())
                for sender in (client, other, server, client):
                    await is_unowned(sender, call, shard)
        for shard, release in enumerate(RELEASES, 4):
            await release(server, shard * 10)
            for sender in (client, other, server, client):
                await is_unowned(sender, call, shard * 10)
        await sends(client, call, 0)

    @proves("T3.1")
    async def test_a_request_to_a_peer_that_has_closed_fails_at_once(self) -> None:
        """It held the shard alone, and its sender knew it."""
        await self._has_closed("request")

    @proves("T3.2")
    async def test_a_notify_to_a_peer_that_has_closed_fails_at_once(self) -> None:
        """The same for notify."""
        await self._has_closed("notify")

    async def _has_closed(self, call: str) -> None:
        server, client, other = await self.peer(), await self.peer(), await self.peer()
        await server.subscribe([0, 1], echo)
        await other.subscribe([1], echo)
        await sends(client, call, 0)
        await server.aclose()
        for sender in (client, other, client):
            await is_unowned(sender, call, 0)
            await sends(sender, call, 1)

    @proves("T3.1", "T3.2")
    async def test_a_cancelled_subscribe_holds_nothing(self) -> None:
        """Wherever it was when it was cancelled, and a cancelled `Subscription.add` as little."""
        server, client = await self.peer(), await self.peer()
        grown = await server.subscribe([0], echo)
        shards = range(100, 130)
        for shard in shards:
            is_added = shard % 2
            holding: asyncio.Task[object] = asyncio.ensure_future(
                grown.add([shard]) if is_added else server.subscribe([shard], echo)
            )
            await settle((shard - 100) // 2)
            holding.cancel()
            [outcome] = await asyncio.gather(holding, return_exceptions=True)
            if isinstance(outcome, clstr.abc.Subscription):  # it was too late to cancel
                await outcome.aclose()
            elif outcome is None:
                await grown.remove([shard])
            assert grown.shards == {0}
            await is_unowned(client, CALLS[shard // 2 % 2], shard)
        await asyncio.sleep(PAUSE)
        for shard in shards:
            for call in CALLS:
                await is_unowned(client, call, shard)
        assert await client.request(envelope(data=b"x"), timeout=FAR) == b"x"

    @proves("T3.1", "T3.2", needs=LINK)
    async def test_what_is_let_go_of_in_an_outage_stays_unowned(self) -> None:
        """And what was to be held then, but was cancelled or failed, is not held either when the link is back."""
        server, client = await self.peer(reconnect_wait=0.1), await self.peer(reconnect_wait=FAR)
        kept = await server.subscribe([0, 1, 2], echo)
        closed, shrunk = await server.subscribe_shard(3, echo), await server.subscribe([4], echo)
        await shrunk.add([5])
        await client.request(envelope(), timeout=FAR)
        await self.hook("cut")
        await self._until_lost(client)
        await kept.remove([2])
        await closed.aclose()
        await shrunk.remove([5])
        cancelled = asyncio.ensure_future(server.subscribe([6], echo))
        await settle()
        cancelled.cancel()
        failed = server.subscribe([7], echo)
        for outcome in await asyncio.gather(cancelled, failed, return_exceptions=True):
            if isinstance(outcome, clstr.abc.Subscription):  # the broker is none, and nothing was lost here
                await outcome.aclose()
        await self.hook("restore")
        for shard in (0, 1, 4):
            await self._answered(client, b"kept", shard=shard)
        for shard in (2, 3, 5, 6, 7):
            for call in CALLS:
                await is_unowned(client, call, shard)

    @proves("T4.1")
    async def test_messages_are_delivered_when_subscribe_has_returned(self) -> None:
        """The very first is, request or notify, from another peer or the same, also if the shard was held before."""
        server, client = await self.peer(), await self.peer()
        gate, number = Gate(is_open=True), 0
        for _ in range(2):
            for hold in HOLDS:
                for shard in SHARDS[::4]:
                    for sender in (client, server):
                        call = CALLS[number % 2 ^ (number // len(CALLS) % 2)]
                        number += 1
                        data = b"%d" % number
                        subscription = await hold(server, shard, gate)
                        await sends(sender, call, shard, data)
                        await gate.until_started_with(data)
                        await subscription.aclose()

    @proves("T4.1")
    async def test_subscriptions_take_effect_immediately(self) -> None:
        """A hundred shards, one after the other; each is delivered as soon as the call has returned."""
        server, client = await self.peer(), await self.peer()
        subscription = await server.subscribe([], echo)
        for shard in range(100):
            await subscription.add([shard])
            assert await client.request(envelope(shard, b"x"), timeout=FAR) == b"x"
        assert subscription.shards == frozenset(range(100))

    @proves("T4.1")
    async def test_subscriptions_that_are_made_at_once_take_effect(self) -> None:
        """Thirty calls, in every way; each shard is delivered as soon as its own call has returned."""
        server, client = await self.peer(), await self.peer()

        async def hold_and_ask(shard: int) -> None:
            await HOLDS[shard % len(HOLDS)](server, shard, echo)
            assert await client.request(envelope(shard, b"x"), timeout=FAR) == b"x"

        await asyncio.gather(*map(hold_and_ask, range(30)))

    @proves("T4.1")
    async def test_a_shard_can_be_handed_from_peer_to_peer(self) -> None:
        """Who holds it too when the other lets go has its messages from then on."""
        servers, client = [await self.peer(), await self.peer()], await self.peer()
        gates = Gate(is_open=True), Gate(is_open=True)
        subscription = await servers[1].subscribe([0], gates[1])
        for number in range(20):
            gate, data = gates[number % 2], b"%d" % number
            holder = await HOLDS[number % len(HOLDS)](servers[number % 2], 0, gate)
            await subscription.aclose()
            subscription = holder
            await sends(client, CALLS[number // 2 % 2], 0, data)
            await gate.until_started_with(data)

    @proves("T4.1")
    async def test_who_connects_later_reaches_what_is_held(self) -> None:
        """With the first message, request or notify."""
        server = await self.peer()
        gate = Gate(is_open=True)
        await server.subscribe(SHARDS, gate)
        for call in CALLS:
            client = await self.peer()
            await asyncio.gather(*(sends(client, call, shard, call.encode()) for shard in SHARDS))
            await gate.until_started_with(call.encode(), len(SHARDS))

    @proves("T4.1")
    async def test_many_shards_in_one_call(self) -> None:
        """4,096 shards at once, each delivered."""
        server, client = await self.peer(), await self.peer()
        await server.subscribe(range(4096), echo)
        for shard in (*range(0, 4096, 97), 4095):
            assert await client.request(envelope(shard, b"x"), timeout=FAR) == b"x"
