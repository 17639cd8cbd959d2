"""Transports that break what becomes of answers: those that are large, and those of a node without a link."""

from __future__ import annotations

from dataclasses import replace

from clstr.errors import ClstrError
from clstr.spi._answer_window import Held
from clstr.spi._answers import Answers
from clstr.spi._delivery import Delivery
from clstr.spi._pending import Pending, PendingReplies
from clstr.spi._receiver import Receiver
from clstr.spi._sender import Sender, _Call
from conformance.broken import breaks
from conformance.loopback import LoopbackLink


@breaks("T1.6")
class RoomIgnored(Answers):
    """A node sends each answer at once, whatever its caller has room for."""

    def _reply(self, delivery: Delivery, data: bytes) -> None:
        delivery.room = 0
        super()._reply(delivery, data)


@breaks("T1.6")
class RoomNotStated(PendingReplies):
    """A client states no room for its answers."""

    def open(self, shard: int, size: int, deadline: float, timeout: float, message_type: str | None = None) -> Pending:
        return super().open(shard, size, deadline, timeout)


@breaks("T1.6")
class HeldAnswersTakeNoTurns(Sender):
    """A client asks for every answer that nodes keep as soon as it knows of it."""

    async def _fetch(self, held: Held, call: _Call, pending: Pending) -> bytes | ClstrError:
        return await super()._fetch(replace(held, size=0), call, pending)


@breaks("T13.5")
class DropsAnswersInAnOutage(LoopbackLink):
    """A link that is down throws answers away."""

    def reply(self, to: object, body: bytes) -> bool:
        return super().reply(to, body) or True


@breaks("T13.5")
class KeptAnswersAreForgotten(Receiver):
    """A link that is back is not offered the answers that it did not take."""

    def up(self) -> None:
        self._engine.state.up()
