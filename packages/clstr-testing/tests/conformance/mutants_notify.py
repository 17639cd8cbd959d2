"""Transports that break T12: messages that nobody waits for."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import clstr
from clstr.errors import (
    ClstrError,
)
from clstr.spi import Route
from clstr.spi._sender import Sender, _Call
from conformance.broken import breaks
from conformance.loopback import Hub, LoopbackLink


@breaks("T5.1", "T6.1", "T6.2", "T6.3", "T7.1", "T7.2", "T7.3", "T8.1", "T8.2", "T12.1", "T12.2")
class NotifyWaits(Sender):
    """A notify is a request whose reply nobody reads."""

    def _new_call(self, *args: Any, oneway: bool) -> _Call:
        call = super()._new_call(*args, oneway=oneway)
        call.oneway = False
        return call


@breaks("T6.1", "T6.2", "T6.3", "T7.1", "T7.2", "T7.3", "T8.1", "T8.2", "T12.2")
class NotifyReports(NotifyWaits):
    """A notify waits a little, in case there is an error to report."""

    async def exchange(self, envelope: clstr.Envelope, timeout: float, *, oneway: bool) -> bytes:
        try:
            async with asyncio.timeout(0.2 if oneway else None):
                return await super().exchange(envelope, timeout, oneway=oneway)
        except TimeoutError as error:
            if isinstance(error, ClstrError):
                raise
            return b""


@breaks("T1.1", "T1.3", "T2.1", "T2.2", "T5.3", "T5.4", "T5.5", "T6.1", "T8.1", "T12.1", "T16.1")
class NotifyRunsTwice(LoopbackLink):
    """A notify is sent twice, to make sure."""

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if oneway:
            self.check_up()
            self.deliver(self.hub.pick(shard), shard, token, body)
        return super().send(shard, token, body, oneway=oneway)


@breaks("T1.1", "T2.1", "T2.2", "T4.1", "T5.1", "T5.2", "T5.4", "T5.5", "T6.1", "T7.1", "T8.1", "T12.1", "T16.1")
class NotifyIsLost(LoopbackLink):
    """Every third notify vanishes."""

    sent = 0

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if oneway and self.is_up and self.hub.holders.get(shard):
            self.sent += 1
            if self.sent % 3 == 0:
                self.sink.accepted(token)
                return None
        return super().send(shard, token, body, oneway=oneway)


@breaks("T4.1", "T12.1")
class NoNotifyToOneself(LoopbackLink):
    """A peer does not hear its own notifies."""

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if oneway and self.is_up and self.hub.holders.get(shard) == [self]:
            self.sink.accepted(token)
            return None
        return super().send(shard, token, body, oneway=oneway)


@breaks("T3.2", "T4.1", "T5.1", "T12.3")
class NotifyGoesWhereTheLastMessageWent(LoopbackLink):
    """A sender remembers who held a shard, and a notify that is refused there tells nobody."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self.known: dict[int, LoopbackLink] = {}

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if oneway and self.is_up and shard in self.known:
            self.deliver(self.known[shard], shard, token, body)
            self.sink.accepted(token)
            return self.known[shard]
        peer = super().send(shard, token, body, oneway=oneway)
        self.known[shard] = cast("LoopbackLink", peer)
        return peer
