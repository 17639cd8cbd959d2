"""The memory link: peers of one process on a bus."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any

from clstr.errors import TransportUnavailableError
from clstr.spi import Batcher, Link, Sink
from clstr_memory._bus import Bus
from clstr_memory._faults import Faults

_CUT = "the memory bus is cut"

Message = tuple[int, bool, tuple[Any, ...]]  # the receiver's life, whether it is a request, what its sink gets


class MemoryLink(Link):
    """One peer on a bus. Bodies cross as the bytes that any wire would carry, and only through the loop."""

    sink: Sink

    def __init__(self, bus: Bus, faults: Faults | None = None) -> None:
        self._bus = bus
        self._faults = faults
        self._held: set[int] = set()
        self._life = 0  # what was sent to an earlier life never arrives
        self._inbox = Batcher(bus.loop, self._receive_all)
        self._delayed: dict[MemoryLink, deque[Message]] = {}
        self.is_up = False

    async def open(self, sink: Sink) -> None:
        """Join the bus."""
        if self._bus.is_cut:
            raise TransportUnavailableError(_CUT)
        self.sink = sink
        self.is_up = True
        self._bus.members.add(self)
        if self._faults is not None:
            self._bus.longest_delay = max(self._bus.longest_delay, self._faults.longest_delay)

    async def hold(self, shards: Sequence[int]) -> None:
        """Enter ``shards`` on the bus."""
        if not self.is_up:
            raise TransportUnavailableError(_CUT)
        self._held.update(shards)
        self._bus.enter(self, shards)

    async def drop(self, shards: Sequence[int]) -> None:
        """Take ``shards`` off the bus; on return no message for them is under way."""
        self._held.difference_update(shards)
        self._bus.leave(self, shards)
        await self.flush()

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> MemoryLink:
        """Give ``body`` to one holder, in the next tick."""
        if self._faults is not None and self._faults.disconnects() and self.is_up:
            self.cut()
            self._bus.loop.call_soon(self.restore)
        if not self.is_up:
            raise TransportUnavailableError(_CUT)
        peer = self._bus.pick(shard)
        self._post(peer, True, shard, body, (self, token))
        if oneway:
            self.sink.accepted(token)
        return peer

    def reply(self, to: Any, body: bytes) -> bool:
        """Give ``body`` to who asked, in the next tick."""
        peer: MemoryLink
        peer, token = to
        if not self.is_up:
            return False
        if not peer.is_up:  # what asks it, failed when it was cut off
            self.sink.dropped(1)
            return True
        if self._faults is None or not self._faults.drops_reply():
            self._post(peer, False, token, body, self)
        return True

    def destination(self, to: Any) -> Hashable:
        """Return the peer that asked."""
        peer: MemoryLink = to[0]
        return peer

    def _post(self, peer: MemoryLink, is_request: bool, *message: Any) -> None:  # noqa: FBT001 -- see `Message`
        if self._faults is not None and (delay := self._faults.delay()):
            self._delayed.setdefault(peer, deque()).append((peer._life, is_request, message))
            self._bus.loop.call_later(delay, self._deliver_delayed, peer)
        else:
            peer._inbox.add((peer._life, is_request, message))

    def _deliver_delayed(self, peer: MemoryLink) -> None:
        """Deliver what waits longest, whichever message this delay was for: a connection keeps its order (T17)."""
        messages = self._delayed[peer]
        message = messages.popleft()
        if not messages:
            del self._delayed[peer]
        peer._receive_all([message])

    def _receive_all(self, messages: list[Message]) -> None:
        """Hand over what arrived, unless it was sent to an earlier life."""
        now, sink = self._bus.loop.time(), self.sink
        for life, is_request, arguments in messages:
            if life != self._life:
                continue
            if is_request:
                shard, body, to = arguments
                sink.request(shard, body, to, now)
            else:
                sink.answer(*arguments)

    async def flush(self) -> None:
        """Let what was sent before arrive: the loop runs callbacks in order, and timers too."""
        await asyncio.sleep(self._bus.longest_delay)

    def cut(self) -> None:
        """Lose the connection to the bus, and what is on its way here."""
        self.is_up = False
        self._life += 1
        self._bus.leave(self, self._held)
        self.sink.down(ConnectionResetError(_CUT))

    def restore(self) -> None:
        """Connect again, and hold what was held."""
        if not self.is_up and self in self._bus.members and not self._bus.is_cut:
            self.is_up = True
            self._bus.enter(self, self._held)
            self.sink.up()

    async def aclose(self) -> None:
        """Leave the bus; whoever waits for an answer from here learns it now."""
        self.is_up = False
        self._bus.leave(self, self._held)
        self._bus.members.discard(self)
        for member in self._bus.members:
            member.sink.lost(self)
