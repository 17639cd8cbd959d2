"""Transports that break T17: the order of one caller's messages for one key."""

from __future__ import annotations

import asyncio
from typing import Any

import clstr
from clstr.spi import Buffer, Engine, Route
from clstr.spi._delivery import Delivery
from clstr.spi._dispatcher import Dispatcher
from clstr.spi._receiver import Receiver
from clstr.spi._sender import Sender
from clstr.spi._set_aside import Queue
from conformance.broken import breaks
from conformance.loopback import Hub, LoopbackLink


@breaks("T17.1", "T17.2")
class LastComeFirst(Dispatcher):
    """What waits for a slot is a stack."""

    def _enqueue(self, queue: Queue, delivery: Delivery) -> None:
        super()._enqueue(queue, delivery)
        queue.move_to_end(delivery, last=False)


class _Sorts(Dispatcher):
    def rank(self, delivery: Delivery) -> Any:
        raise NotImplementedError

    def _enqueue(self, queue: Queue, delivery: Delivery) -> None:
        super()._enqueue(queue, delivery)
        for each in sorted(queue, key=self.rank):
            queue.move_to_end(each)


@breaks("T17.1", "T17.2")
class SmallFirst(_Sorts):
    """Of what waits the smallest starts first."""

    def rank(self, delivery: Delivery) -> Any:
        return delivery.size


@breaks("T17.1", "T17.2")
class UrgentFirst(_Sorts):
    """Of what waits starts first what expires first."""

    def rank(self, delivery: Delivery) -> Any:
        return delivery.expires


@breaks("T17.1", "T17.2")
class NotifiesFirst(_Sorts):
    """Notifies start before the requests that wait."""

    def rank(self, delivery: Delivery) -> Any:
        return not delivery.oneway


@breaks("T17.1", "T17.2")
class RequestsFirst(_Sorts):
    """Nobody waits for a notify, so it starts after the requests that wait."""

    def rank(self, delivery: Delivery) -> Any:
        return delivery.oneway


@breaks("T17.1", "T17.2")
class OneInFiftyIsSwapped(Receiver):
    """Of each fifty messages one is held back until the next has come."""

    count = 0
    kept: tuple[int, Buffer, object, float | None] | None = None

    def request(self, shard: int, body: Buffer, to: object, read_at: float | None = None) -> None:
        self.count += 1
        if self.count % 50 == 0:
            self.kept = shard, body, to, read_at
            asyncio.get_running_loop().call_soon(self.release)
            return
        super().request(shard, body, to, read_at)
        self.release()

    def release(self) -> None:
        if self.kept is not None:
            kept, self.kept = self.kept, None
            super().request(*kept)


class _Lanes(LoopbackLink):
    """A link whose messages go along one of several ways, of which some are slower."""

    def ticks(self, shard: int, token: int, body: bytes, *, oneway: bool) -> int:
        raise NotImplementedError

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        self.is_oneway = oneway
        return super().send(shard, token, body, oneway=oneway)

    def deliver(self, peer: LoopbackLink, shard: int, token: int, body: bytes) -> None:
        ticks = self.ticks(shard, token, body, oneway=self.is_oneway)
        self.later(ticks, peer, peer.life, peer.sink.request, shard, body, (self, token))

    def later(self, ticks: int, peer: LoopbackLink, *message: Any) -> None:
        call = self.hub.loop.call_soon
        if ticks:
            call(self.later, ticks - 1, peer, *message)
        else:
            call(peer.arrive, *message)

    async def flush(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


@breaks("T17.1", "T17.2")
class LargeGoAnotherWay(_Lanes):
    """Large messages are cut into pieces, and small ones pass them."""

    def ticks(self, shard: int, token: int, body: bytes, *, oneway: bool) -> int:
        return 2 if len(body) > 64 * 1024 else 0


@breaks("T17.1", "T17.2")
class NotifiesGoAnotherWay(_Lanes):
    """Notifies have a connection of their own, which is slower."""

    def ticks(self, shard: int, token: int, body: bytes, *, oneway: bool) -> int:
        return 3 * oneway


@breaks("T17.1", "T17.2")
class ManySenders(_Lanes):
    """Three senders work in parallel, each on the next message."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self.turn = 0

    def ticks(self, shard: int, token: int, body: bytes, *, oneway: bool) -> int:
        self.turn = (self.turn + 1) % 3
        return self.turn


@breaks("T17.1")
class OwnMessagesGoAnotherWay(LoopbackLink):
    """What a peer sends to itself comes in two turns of the loop, or in one, by its size."""

    def deliver(self, peer: LoopbackLink, shard: int, token: int, body: bytes) -> None:
        if peer is self and len(body) > 1000:
            self.hub.loop.call_soon(super().deliver, peer, shard, token, body)
        else:
            super().deliver(peer, shard, token, body)


@breaks("T17.1", "T17.2")
class SendsBackwards(Engine):
    """What is sent in one tick is collected and sent from its end."""

    _waiting: list[asyncio.Future[None]]

    async def request(self, envelope: clstr.Envelope, *, timeout: float = 5.0) -> bytes:
        turn = self._loop.create_future()
        if not getattr(self, "_waiting", None):
            self._waiting = []
            self._loop.call_soon(self._let_go)
        self._waiting.append(turn)
        await turn
        return await super().request(envelope, timeout=timeout)

    def _let_go(self) -> None:
        waiting, self._waiting = self._waiting, []
        for turn in reversed(waiting):
            if not turn.done():
                turn.set_result(None)


@breaks("T17.2")
class CancelledLeaveTheQueueReversed(Sender):
    """After a request was given up, the next ten are sent in the order of their types."""

    given_up = 0

    async def exchange(self, envelope: clstr.Envelope, timeout: float, *, oneway: bool) -> bytes:
        if self.given_up and envelope.type == "other":
            self.given_up -= 1
            await asyncio.sleep(0)
        try:
            return await super().exchange(envelope, timeout, oneway=oneway)
        except asyncio.CancelledError:
            self.given_up = 10
            raise
