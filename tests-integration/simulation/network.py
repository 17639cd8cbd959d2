"""The simulated network: links whose messages take random times, get lost, come twice, or meet a dead peer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from clstr.errors import NoShardSubscriberError, OverloadedError, TransportUnavailableError
from clstr.spi import Link, Route, Sink
from simulation.ledger import Ledger
from simulation.script import Call, Script

GARBAGE = (b"", b"\xff\xfe\x00", b"{", b"[]", b'{"data":3}', b"\x91\xc1")
NO_REPLIES = (*GARBAGE, b'{"stream":"S","seq":1}', b'{"v":1,"status":"ok"}')


@dataclass(slots=True, eq=False)
class Arrival:
    """A message that was handed to an engine; ``call`` is ``None`` for garbage."""

    call: Call | None
    sender: SimLink | None
    token: int
    oneway: bool
    receiver: str
    replies: int = 0
    kept: bytes | None = None


class Network:
    """Who holds what, and what becomes of messages on their way."""

    def __init__(self, script: Script, chance: random.Random, ledger: Ledger) -> None:
        self.chance = chance
        self.ledger = ledger
        self.links: list[SimLink] = []
        self.arrivals: list[Arrival] = []
        self.features = script.features
        self.is_broker = "broker" in script.features
        self.healed = asyncio.Event()
        self.healed.set()
        self._loop = asyncio.get_running_loop()
        self._holders: dict[int, list[SimLink]] = {}

    def happens(self, feature: str, probability: float) -> bool:
        """Throw the dice for ``feature``; nothing happens while all is healed: at the beginning, and after `heal`."""
        return feature in self.features and not self.healed.is_set() and self.chance.random() < probability

    def latency(self) -> float:
        """Draw the seconds that one message takes."""
        if "reorder" not in self.features:
            return 0.0
        return self.chance.choice((0.0, 0.0005, 0.002, 0.03)) * self.chance.random()

    def post(self, what: Callable[..., None], *arguments: Any) -> float:
        """Call ``what`` after some latency; return when."""
        delay = self.latency()
        if delay:
            self._loop.call_later(delay, what, *arguments)
        else:
            self._loop.call_soon(what, *arguments)
        return self._loop.time() + delay

    def heal(self) -> None:
        """Let every fault be over, and let those who hold a shard, and no others, receive its messages."""
        self.healed.set()
        for link in self.links:
            link.come_up()
        self._holders.clear()
        for link in self.links:
            if link.is_up:
                self.enter(link, link.wanted)

    def enter(self, link: SimLink, shards: Sequence[int]) -> None:
        """Let ``link`` receive messages for ``shards``."""
        for shard in shards:
            holders = self._holders.setdefault(shard, [])
            if link not in holders:
                holders.append(link)

    def leave(self, link: SimLink, shards: Sequence[int]) -> None:
        """Let ``link`` receive none of them."""
        for shard in shards:
            if link in self._holders.get(shard, []):
                self._holders[shard].remove(link)

    def pick(self, shard: int) -> SimLink | None:
        """Choose a holder."""
        holders = self._holders.get(shard)
        return self.chance.choice(holders) if holders else None

    def route(self, sender: SimLink, life: int, shard: int, token: int, body: bytes, call: Call) -> None:
        """Do what a broker does with a message: find a holder, or tell the sender that there is none."""
        holder = self.pick(shard)
        if holder is None:
            self.post(sender.refused, life, token, shard)
            return
        if call.oneway:
            self.post(sender.accepted, life, token)
        self.carry(sender, holder, shard, token, body, call)

    def carry(self, sender: SimLink, holder: SimLink, shard: int, token: int, body: bytes, call: Call) -> None:
        """Bring a message to ``holder``."""
        if self.happens("loss", 0.1):
            self.ledger.note("message lost", call.number)
            return
        arrival = Arrival(call, sender, token, call.oneway, holder.name)
        due = self.post(holder.receive, holder.life, shard, body, arrival)
        holder.last_arrival = max(holder.last_arrival, due)


class SimLink(Link):
    """One peer of the network."""

    sink: Sink

    def __init__(self, network: Network, name: str) -> None:
        self.name = name
        self.life = 0
        self.last_arrival = 0.0
        self.wanted: list[int] = []
        self.is_up = False
        self.is_closed = False
        self.is_lost = False
        self._network = network
        self._loop = asyncio.get_running_loop()
        network.links.append(self)

    def __repr__(self) -> str:
        return self.name

    # What the engine calls.

    async def open(self, sink: Sink) -> None:
        self.sink = sink
        await self._pause()
        self.is_up = True

    async def hold(self, shards: Sequence[int]) -> None:
        life = self.life
        self._note("hold", tuple(shards))
        await self._trouble("hold")
        if self.is_up and life == self.life:
            self._network.enter(self, shards)
            self.wanted += [shard for shard in shards if shard not in self.wanted]
            await self._pause()
        if not self.is_up or life != self.life:
            self._forget(shards)
            raise TransportUnavailableError("simulated: down during hold")

    async def drop(self, shards: Sequence[int]) -> None:
        self._note("drop", tuple(shards))
        self.wanted = [shard for shard in self.wanted if shard not in shards]
        try:
            await self._trouble("drop")
        finally:  # the network learns of it in the end, whether this fails or is cancelled
            self._network.leave(self, shards)
        if "stragglers" not in self._network.features:
            await asyncio.sleep(max(0.0, self.last_arrival - self._loop.time()) + 0.0001)

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        call = self._network.ledger.whose(body)
        if self._network.happens("outage", 0.02):
            self.go_down()
        if not self.is_up:
            raise TransportUnavailableError("simulated: down")
        if self._network.happens("dice", 0.1):
            raise OverloadedError("simulated", 0)
        holder = None if self._network.is_broker else self._network.pick(shard)
        if not self._network.is_broker and holder is None:
            raise NoShardSubscriberError(shard)
        route = None if holder is None else (holder.name, holder.life)
        self._network.ledger.sent(call, token, self.name, route)
        if holder is None:
            self._network.post(self._network.route, self, self.life, shard, token, body, call)
            return None
        self._network.carry(self, holder, shard, token, body, call)
        if oneway:
            self._accept_now_or_later(token)
        return route

    def _accept_now_or_later(self, token: int) -> None:
        if self._network.chance.random() < 0.5:
            self.sink.accepted(token)
        else:
            self._network.post(self.accepted, self.life, token)

    def reply(self, to: object, body: bytes) -> bool:
        arrival = cast("Arrival", to)
        arrival.replies += arrival.kept is not body  # the engine offers again what was not taken
        self._note("reply", arrival.call and arrival.call.number)
        if not self.is_up:
            arrival.kept = body
            return False
        if arrival.sender is not None and not self._network.happens("loss", 0.1):
            if self._network.happens("garbage", 0.1):
                self._network.post(arrival.sender.answer, arrival.token, self._network.chance.choice(NO_REPLIES), None)
            for _ in range(1 + self._network.happens("garbage", 0.2)):
                self._network.post(arrival.sender.answer, arrival.token, body, arrival.call)
        return True

    async def flush(self) -> None:
        await self._trouble("flush")

    async def aclose(self) -> None:
        self._note("link closed")
        if not self.is_closed:
            self.is_closed = True
            self._end_life()
            self._network.ledger.lost(self.name)
            self._network.leave(self, self.wanted)
            self.wanted = []
        await self._trouble("aclose")

    # What the network calls.

    def receive(self, life: int, shard: int, body: bytes, arrival: Arrival) -> None:
        """A message arrives, if this is still the peer that it was sent to."""
        if life != self.life or not self.is_up:
            self._note("missed", arrival.call and arrival.call.number)
            return
        self._network.arrivals.append(arrival)
        self._network.ledger.delivered(arrival.call, self.name)
        self.sink.request(shard, body, arrival)
        if self._network.happens("garbage", 0.1):
            self._receive_garbage(shard)

    def _receive_garbage(self, shard: int) -> None:
        garbage = Arrival(None, None, 0, oneway=False, receiver=self.name)
        self._network.arrivals.append(garbage)
        self.sink.request(shard, self._network.chance.choice(GARBAGE), garbage)
        self.sink.garbage("simulated")

    def answer(self, token: int, body: bytes, call: Call | None) -> None:
        """An answer arrives; without a ``call`` it is garbage."""
        if self.is_up:
            self._network.ledger.answered(call, token, body)
            self.sink.answer(token, body)

    def accepted(self, life: int, token: int) -> None:
        """A notify is on its way."""
        if life == self.life:
            self.sink.accepted(token)

    def refused(self, life: int, token: int, shard: int) -> None:
        """A message had no holder."""
        if life == self.life:
            self.sink.refused(token, NoShardSubscriberError(shard))

    def peer_lost(self, route: Route) -> None:
        """Another peer is gone."""
        if self.is_up:
            self._network.ledger.lost(self.name, route)
            self.sink.lost(route)

    # What goes wrong.

    def go_down(self, *, for_good: bool = False) -> None:
        """Lose the connection; who holds its shards is forgotten now or later."""
        if not self.is_up:
            return
        self._note("down", for_good)
        self.is_lost = for_good
        self._end_life()
        self._network.ledger.lost(self.name)
        if self._network.chance.random() < 0.5:
            self._network.leave(self, self.wanted)
        else:
            self._loop.call_later(0.05, self._expire)
        self.sink.down(ConnectionResetError("simulated"), fatal=for_good)

    def _end_life(self) -> None:
        route = (self.name, self.life)
        self.is_up = False
        self.life += 1
        for link in self._network.links:
            if link is not self and link.is_up and not self._network.is_broker:
                self._network.post(link.peer_lost, route)

    def _expire(self) -> None:
        if not self.is_up:
            self._network.leave(self, self.wanted)

    def come_up(self) -> None:
        """Connect again, and hold what was held."""
        if self.is_up or self.is_lost or self.is_closed:
            return
        self._note("up")
        self.is_up = True
        self._network.enter(self, self.wanted)
        self.sink.up()

    def _forget(self, shards: Sequence[int]) -> None:
        self.wanted = [shard for shard in self.wanted if shard not in shards]
        self._network.leave(self, shards)

    async def _pause(self) -> None:
        await asyncio.sleep(self._network.latency())

    async def _trouble(self, method: str) -> None:
        """Take some time; perhaps a long one, or fail, or hang until everything heals."""
        await self._pause()
        if not self._network.happens("slow_link", 0.4):
            return
        kind = self._network.chance.choice(("slow", "fail", "hang"))
        self._note(f"{method}: {kind}")
        if kind == "slow":
            await asyncio.sleep(0.2 * self._network.chance.random())
        elif kind == "fail":
            raise TransportUnavailableError(f"simulated: {method} fails")
        else:
            await self._network.healed.wait()

    def _note(self, event: str, fact: object = "") -> None:
        self._network.ledger.note(f"{self.name} {event}", fact)
