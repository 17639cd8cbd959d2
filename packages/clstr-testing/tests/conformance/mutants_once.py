"""Transports that break T16: at most once."""

from __future__ import annotations

from clstr.abc import ReleaseReport
from clstr.errors import (
    ClstrError,
    DrainingError,
    HandlerError,
    HandlerTimeoutError,
    NotOwnerError,
)
from clstr.spi import Buffer, Engine
from clstr.spi._answers import Answers
from clstr.spi._delivery import Delivery
from clstr.spi._held_answers import FIRST_PRIVATE_SHARD
from clstr.spi._pending import AskAgain, Pending
from clstr.spi._receiver import Receiver
from clstr.spi._sender import Sender, _Call
from clstr.spi._subscriptions import EngineSubscription
from conformance.broken import breaks
from conformance.loopback import LoopbackLink


@breaks("T10.1", "T10.2", "T15.2", "T16.1")
class RefusedAfterRunning(Answers):
    """A handler's error is taken to prove that the shard is elsewhere, so the message is sent again."""

    def handler_raised(self, delivery: Delivery, error: BaseException) -> None:
        self.refuse(delivery, NotOwnerError(delivery.envelope.shard))


def once_more(outcome: ClstrError | AskAgain, kind: type[ClstrError]) -> ClstrError | AskAgain:
    """Take an error of this kind for the link's wish that the message be sent again."""
    return AskAgain(outcome, 0.0) if isinstance(outcome, kind) else outcome


@breaks("T16.1")
class RunsAgainAfterAnError(Sender):
    """A request whose handler failed is sent once more."""

    def _read(self, outcome: ClstrError | AskAgain, call: _Call, pending: Pending) -> tuple[ClstrError, float | None]:
        return super()._read(once_more(outcome, HandlerError), call, pending)


@breaks("T7.1", "T7.2", "T7.3", "T8.2", "T14.6", "T16.1")
class RunsAgainAfterATimeout(Sender):
    """A request whose handler took too long is sent once more."""

    def _read(self, outcome: ClstrError | AskAgain, call: _Call, pending: Pending) -> tuple[ClstrError, float | None]:
        return super()._read(once_more(outcome, HandlerTimeoutError), call, pending)


class _RefusesWhatRuns(Engine):
    error: type[DrainingError | NotOwnerError]

    async def release(self, subscription: EngineSubscription, shards: frozenset[int] | None) -> ReleaseReport:
        for each in self.dispatcher.running():
            if each.subscription is subscription:
                self.answers.refuse(each, self.error(each.envelope.shard))
        return await super().release(subscription, shards)


@breaks("T5.1", "T5.2", "T5.3", "T5.4", "T5.5", "T16.1", "T16.2")
class MovingIsARefusal(_RefusesWhatRuns):
    """A subscription that lets go of a shard refuses what it runs."""

    error = DrainingError


@breaks("T5.1", "T5.2", "T5.3", "T5.4", "T5.5", "T16.1", "T16.2")
class MovingSendsAgain(_RefusesWhatRuns):
    """A subscription that lets go of a shard sends elsewhere what it runs."""

    error = NotOwnerError


class _LateLink(LoopbackLink):
    due = 0.0

    def deliver(self, peer: LoopbackLink, shard: int, token: int, body: bytes) -> None:
        self.due = max(self.due + 1e-9, self.hub.loop.time() + 0.0001)  # one after the other, as on any connection
        self.hub.loop.call_at(self.due, super().deliver, peer, shard, token, body)


@breaks("T5.1", "T14.5", "T16.1", "T16.2", with_=(_LateLink,))
class MovingLoses(Receiver):
    """What arrives for a shard that has been let go of vanishes."""

    def _receive(self, shard: int, body: Buffer, to: object) -> None:
        if shard >= FIRST_PRIVATE_SHARD or self._engine.holders.pick(shard) is not None:
            super()._receive(shard, body, to)
