"""Transports that break T15: what no peer would send."""

from __future__ import annotations

import asyncio
from typing import Any

import clstr
from clstr.errors import (
    InvalidReplyError,
)
from clstr.spi import Buffer
from clstr.spi._answers import Answers
from clstr.spi._delivery import Delivery
from clstr.spi._pending import Outcome, Pending
from clstr.spi._receiver import Receiver
from conformance.broken import breaks


@breaks("T15.1")
class GarbageStopsTheReceiver(Receiver):
    """After something that cannot be read nothing is received."""

    is_dead = False

    def garbage(self, why: str) -> None:
        self.is_dead = True

    def request(self, shard: int, body: Buffer, to: object, read_at: float | None = None) -> None:
        if not self.is_dead:
            super().request(shard, body, to, read_at)


@breaks("T15.1")
class AnythingIsForMe(Receiver):
    """What the message says of its shard is not compared with where it came."""

    def _check(self, frame: Any, shard: int) -> clstr.Envelope:
        frame.shard = shard
        return super()._check(frame, shard)


@breaks("T8.1", "T15.1")
class NothingIsValidated(Receiver):
    """A message may carry headers and types that no sender of ours would send."""

    def _check(self, frame: Any, shard: int) -> clstr.Envelope:
        return clstr.Envelope(
            shard=shard, type=frame.type, data=frame.data or b"", headers=frame.headers, ttl_ms=frame.ttl_ms
        )


@breaks("T15.3")
class AnythingIsAReply(Receiver):
    """What cannot be read as a reply is taken for an empty one."""

    def _read_reply(self, pending: Pending, body: Buffer) -> Outcome | None:
        return super()._read_reply(pending, body) or b""


@breaks("T15.3")
class WhatIsNoReplyEndsTheRequest(Receiver):
    """What cannot be read as a reply is an error for the caller."""

    def _read_reply(self, pending: Pending, body: Buffer) -> Outcome | None:
        outcome = super()._read_reply(pending, body)
        return InvalidReplyError("no reply") if outcome is None else outcome


@breaks("T1.4", "T1.5", "T6.1", "T6.4", "T7.1", "T7.2", "T9.2", "T15.2")
class CancelledErrorStopsTheReceiver(Answers):
    """A handler that cancels itself cancels who called it."""

    def handler_raised(self, delivery: Delivery, error: BaseException) -> None:
        super().handler_raised(delivery, error)
        if isinstance(error, asyncio.CancelledError):
            self._link.sink.request = lambda *_: None  # type: ignore[attr-defined]  # nobody reads any more


@breaks("T6.1", "T6.4", "T7.1", "T9.2", "T15.2")
class CancelledErrorLeaksASlot(Answers):
    """A handler that cancels itself keeps its slot."""

    def handler_raised(self, delivery: Delivery, error: BaseException) -> None:
        super().handler_raised(delivery, error)
        if isinstance(error, asyncio.CancelledError):
            delivery.dispatcher._active += 1
