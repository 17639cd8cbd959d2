"""Runs one schedule: the same script gives the same trace."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from clstr.errors import NoShardSubscriberError
from clstr.spi import Engine
from clstr_testing import VirtualTimeLoop
from simulation.ledger import Ledger
from simulation.network import Network, SimLink
from simulation.replay import replayable
from simulation.script import HORIZON, SHARDS, Author, Call, Script, limits
from simulation.workload import Peer, World

LONGEST = 200.0  # virtual seconds after which a schedule is stuck: nothing in it takes so long


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """
    What was seen in a schedule.

    Attributes:
        trace: Every event: its time, its name, and a fact.
        violations: What must not be, in words.
        outcomes: How many calls ended with what, by the name of its type.
        started: How many handlers started, by what they were to do.
    """

    trace: list[tuple[float, str, object]]
    violations: list[str]
    outcomes: Counter[str]
    started: Counter[str]


def run(script: Script) -> Seen:
    """Run ``script`` on a loop of its own."""
    loop = VirtualTimeLoop()
    chance = random.Random(script.seed)
    asyncio.set_event_loop(loop)
    try:
        with replayable(chance):
            return loop.run_until_complete(_Schedule.play(script, chance))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


class _Schedule:
    def __init__(self, script: Script, chance: random.Random) -> None:
        self._script = script
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self._author = Author(chance, script)
        self._ledger = Ledger(self._author.calls)
        self._network = Network(script, chance, self._ledger)
        self._world = World(script, chance, self._ledger)

    @classmethod
    async def play(cls, script: Script, chance: random.Random) -> Seen:
        schedule = cls(script, chance)
        await schedule._open()
        await schedule._happen()
        await schedule._recover()
        await schedule._probe()
        await schedule._close()
        return schedule._judge()

    async def _open(self) -> None:
        for number in range(self._script.peers):
            link = SimLink(self._network, f"peer{number}")
            codec = "json" if "json" in self._script.features and number % 2 else "msgpack"
            engine = Engine(link, limits=limits(self._chance, self._script), codec=codec, logger=self._ledger.logger)
            self._world.peers.append(Peer(self._world, link, await engine.open()))
        if self._script.is_harmless:
            await self._world.peers[0].subscribe(range(SHARDS))
        for peer in self._world.peers:
            for _ in range(self._chance.choice((1, 1, 2)) if "shared" in self._script.features else 1):
                await peer.subscribe(self._some_shards())

    def _some_shards(self) -> list[int]:
        return self._chance.sample(range(SHARDS), self._chance.choice((1, 2, SHARDS)))

    # While everything may happen.

    async def _happen(self) -> None:
        self._network.healed.clear()
        calls = [self._author.invent() for _ in range(self._script.calls)]
        outside = [self._world.spawn(self._world.call_from_outside(call, self._when())) for call in calls]
        for peer in self._world.peers:
            for trouble in self._troubles(peer):
                self._world.start(self._later(trouble))
        await self._await("the calls", outside)
        self._network.heal()
        self._world.let_go.set()
        await self._await("everything else", [])

    def _when(self) -> float:
        return HORIZON * self._chance.random() * self._chance.choice((0, 0, 1))

    async def _later(self, what: Coroutine[Any, Any, None]) -> None:
        await asyncio.sleep(HORIZON * self._chance.random())
        await what

    def _troubles(self, peer: Peer) -> Iterator[Coroutine[Any, Any, None]]:
        features, chance = self._script.features, self._chance
        if "churn" in features:
            for _ in range(chance.randrange(6)):
                yield self._change(peer)
        if "outage" in features:
            for _ in range(chance.randrange(3)):
                yield self._cut(peer)
        if "death" in features and chance.random() < 0.3:
            yield self._die(peer)
        if "close" in features and chance.random() < 0.5:
            for _ in range(chance.choice((1, 1, 2))):
                yield self._close_early(peer)

    async def _change(self, peer: Peer) -> None:
        if not peer.holders or self._chance.random() < 0.15:
            await peer.subscribe(self._some_shards())
            return
        holder, shards = self._chance.choice(peer.holders), self._some_shards()
        kind = self._chance.choice(("add", "add", "remove", "remove", "aclose", "aclose twice", "aclose, cancelled"))
        if kind == "add":
            await holder.add(shards)
        elif kind == "remove":
            await holder.remove(shards)
        else:
            await self._close_subscription(holder.aclose, kind)

    async def _close_subscription(self, aclose: Any, kind: str) -> None:
        closing = self._world.spawn(aclose())
        await self._ticks()
        if kind == "aclose twice":
            await aclose()
        elif kind == "aclose, cancelled":
            closing.cancel()
        await asyncio.wait([closing])

    async def _cut(self, peer: Peer) -> None:
        peer.link.go_down()
        await asyncio.sleep(self._chance.choice((0.0, 0.01, 0.2)))
        peer.link.come_up()

    async def _die(self, peer: Peer) -> None:
        peer.link.go_down(for_good=True)

    async def _close_early(self, peer: Peer) -> None:
        closing = self._world.spawn(peer.aclose())
        if self._chance.random() < 0.3:
            await self._ticks()
            closing.cancel()
        await asyncio.wait([closing])

    async def _ticks(self) -> None:
        for _ in range(self._chance.randrange(6)):
            await asyncio.sleep(0)

    async def _await(self, what: str, tasks: list[asyncio.Task[Any]]) -> None:
        """Wait for ``tasks``, or for everything that was spawned; what takes for ever is a violation."""
        until = self._loop.time() + LONGEST
        while waiting := [task for task in tasks or self._world.tasks if not task.done()]:
            await asyncio.wait(waiting, timeout=max(0.0, until - self._loop.time()))
            if self._loop.time() >= until:
                self._ledger.violated(f"{what} never ended: {[task.get_coro().__qualname__ for task in waiting]}")  # type: ignore[union-attr]  # coroutines of ours
                for task in waiting:
                    task.cancel()
                await asyncio.wait(waiting, timeout=1.0)
                break
        for task in tasks or self._world.tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                self._ledger.violated(f"{what} failed: {task.exception()!r}")

    # Afterwards.

    async def _recover(self) -> None:
        """Wait until nothing runs, and every message has arrived; then nothing may be left in any engine."""
        until = self._loop.time() + LONGEST
        await asyncio.sleep(1.0)  # longer than any message is on its way
        while self._is_busy() and self._loop.time() < until:  # noqa: ASYNC110 -- it looks into engines from outside
            await asyncio.sleep(1.0)
        await self._await("what handlers left behind", [])
        for peer in self._world.peers:
            peer.check_idle("when all had ended")

    def _is_busy(self) -> bool:
        waiting = (call for call in self._author.calls if call.asked_at >= 0 > call.done_at)
        return any(waiting) or any(
            peer.running or peer.engine.dispatcher.waiting or peer.engine.dispatcher.active
            for peer in self._world.peers
        )

    async def _probe(self) -> None:
        """Every shard that is held must answer every transport that is usable."""
        usable = [peer for peer in self._world.peers if not peer.engine.is_closing and not peer.link.is_lost]
        for peer in usable:
            held = sorted({shard for holder in peer.holders for shard in holder.subscription.shards})
            self._ledger.expect(sorted(peer.link.wanted) == held, f"{peer.link}: {held} held, link: {peer.link.wanted}")
        held_by_any = {shard for peer in usable for shard in peer.link.wanted}
        for number, peer in enumerate(self._world.peers):
            for shard in range(SHARDS) if peer in usable else ():
                await self._probe_one(self._author.probe(shard, number), is_held=shard in held_by_any)

    async def _probe_one(self, call: Call, *, is_held: bool) -> None:
        await self._world.call(call)
        self._ledger.expect(
            isinstance(call.outcome, bytes if is_held else NoShardSubscriberError),
            f"afterwards, {'a held' if is_held else 'an unowned'} shard ended with {call.outcome!r}",
        )

    async def _close(self) -> None:
        for peer in self._world.peers:
            self._world.start(peer.aclose())
        await self._await("closing", [])
        await asyncio.sleep(1.0)
        for peer in self._world.peers:
            peer.check_idle("after closing")
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        self._ledger.expect(not left, f"after closing, there are tasks: {left}")
        timers = [timer for timer in self._loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]  # of asyncio's base loop
        self._ledger.expect(not timers, f"after closing, there are timers: {timers}")

    def _judge(self) -> Seen:
        for call in self._author.calls:
            self._ledger.judge(call, is_harmless=self._script.is_harmless)
        for arrival in self._network.arrivals:
            expected = 0 if arrival.oneway else 1
            self._ledger.expect(
                arrival.replies == expected,
                f"a message that {arrival.receiver} got was answered {arrival.replies} times",
                arrival.call,
            )
        calls = [call for call in self._author.calls if call.asked_at >= 0 and not call.is_probe]
        return Seen(
            trace=self._ledger.trace,
            violations=self._ledger.violations,
            outcomes=Counter(type(call.outcome).__name__ for call in calls),
            started=Counter(call.behaviour for call in calls if call.starts),
        )
