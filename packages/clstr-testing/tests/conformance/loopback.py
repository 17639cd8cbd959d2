"""The smallest healthy transport: links of one loop that hand each other bytes, and a hub to break them at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, cast

import clstr
from clstr.errors import NoShardSubscriberError, TransportUnavailableError
from clstr.spi import Engine, Limits, Link, Route, Sink
from clstr_testing import TransportSuite


class Hub:
    """Who is connected, and who holds what."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.links: list[LoopbackLink] = []
        self.holders: dict[int, list[LoopbackLink]] = {}
        self.is_cut = False

    def enter(self, link: LoopbackLink, shards: Sequence[int]) -> None:
        for shard in shards:
            self.holders.setdefault(shard, []).append(link)

    def leave(self, link: LoopbackLink) -> None:
        for holders in self.holders.values():
            if link in holders:
                holders.remove(link)

    def pick(self, shard: int) -> LoopbackLink:
        holders = self.holders.get(shard)
        if not holders:
            raise NoShardSubscriberError(shard)
        holders.append(holders.pop(0))
        return holders[-1]

    def cut(self) -> None:
        self.is_cut = True
        for link in self.links:
            link.cut()

    def restore(self) -> None:
        self.is_cut = False
        for link in self.links:
            link.restore()

    def inject(self, shard: int, body: bytes) -> None:
        self.pick(shard).sink.request(shard, body, None)


class LoopbackLink(Link):
    """One connection to a hub."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.held: set[int] = set()
        self.is_up = False
        self.life = 0  # what was sent to an earlier life never arrives
        self.sink: Sink

    async def open(self, sink: Sink) -> None:
        if self.hub.is_cut:
            raise TransportUnavailableError("the hub is cut")
        self.sink = sink
        self.is_up = True
        self.hub.links.append(self)

    async def hold(self, shards: Sequence[int]) -> None:
        self.check_up()
        self.held.update(shards)
        self.hub.enter(self, shards)

    async def drop(self, shards: Sequence[int]) -> None:
        self.held.difference_update(shards)
        for shard in shards:
            if self in self.hub.holders[shard]:
                self.hub.holders[shard].remove(self)
        await self.flush()

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        self.check_up()
        peer = self.hub.pick(shard)
        self.deliver(peer, shard, token, body)
        if oneway:
            self.sink.accepted(token)
        return peer

    def check_up(self) -> None:
        if not self.is_up:
            raise TransportUnavailableError("the hub is cut")

    def deliver(self, peer: LoopbackLink, shard: int, token: int, body: bytes) -> None:
        self.hub.loop.call_soon(peer.arrive, peer.life, peer.sink.request, shard, body, (self, token))

    def reply(self, to: object, body: bytes) -> bool:
        peer, token = cast("tuple[LoopbackLink, int]", to)
        if not self.is_up:
            return False
        self.hub.loop.call_soon(peer.arrive, peer.life, peer.sink.answer, token, body)
        return True

    def destination(self, to: object) -> LoopbackLink:
        peer, _ = cast("tuple[LoopbackLink, int]", to)
        return peer

    def arrive(self, life: int, receive: Callable[..., None], *message: Any) -> None:
        """Hand over what was sent to this life."""
        if life == self.life:
            receive(*message)

    async def flush(self) -> None:
        await asyncio.sleep(0)  # the loop calls in order

    def cut(self) -> None:
        self.is_up = False
        self.life += 1
        self.hub.leave(self)
        self.sink.down(ConnectionResetError("the hub is cut"))

    def restore(self) -> None:
        self.is_up = True
        self.hub.leave(self)  # it may not have been cut
        self.hub.enter(self, sorted(self.held))
        self.sink.up()

    async def aclose(self) -> None:
        self.is_up = False
        self.hub.leave(self)
        if self in self.hub.links:
            self.hub.links.remove(self)
        for link in self.hub.links:
            link.sink.lost(self)


class LoopbackSuite(TransportSuite):
    """The suite over `LoopbackLink`, with every hook. Each check has its own instance, and so its own hub."""

    guard = 3.0

    @cached_property
    def hub(self) -> Hub:
        return Hub()

    def new_engine(self, limits: Limits) -> Engine:
        return Engine(LoopbackLink(self.hub), limits=limits)

    async def connect(self, **options: Any) -> clstr.Transport:
        return await self.new_engine(Limits(**options)).open()

    async def cut(self) -> None:
        self.hub.cut()

    async def cut_peer(self, peer: clstr.Transport) -> None:
        cast("LoopbackLink", cast("Engine", peer).link).cut()

    async def restore(self) -> None:
        self.hub.restore()

    async def inject(self, shard: int, body: bytes) -> None:
        self.hub.inject(shard, body)
