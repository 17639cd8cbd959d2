"""Transports that break T13: links that break and come back."""

from __future__ import annotations

import math
from typing import Any

import clstr
from clstr.errors import (
    ClstrError,
)
from clstr.spi import Route, Sink
from clstr.spi._link_state import LinkState
from clstr.spi._pending import AskAgain, Pending, PendingReplies
from clstr.spi._receiver import Receiver
from clstr.spi._sender import Sender, _Call
from conformance.broken import breaks
from conformance.loopback import LoopbackLink


@breaks("T1.4", "T1.5", "T13.1")
class LossIsNotNoticed(Receiver):
    """Requests in flight wait for their timeout when the link is lost."""

    def down(self, error: Exception, *, fatal: bool = False) -> None:
        self._engine.state.down(error, fatal=fatal)


@breaks("T13.1")
class LossProvesNothingRan(PendingReplies):
    """A request that was in flight when the link was lost is said not to have run."""

    def fail_sent(self, error: type[clstr.ClstrError], message: str) -> None:
        if error is clstr.ConnectionLostError:
            for pending in self._by_token.values():
                pending.resolve(error(message, maybe_executed=False))
        else:
            super().fail_sent(error, message)


@breaks("T8.3", "T9.1", "T13.2", "T13.3")
class NoWaitingForTheLink(LinkState):
    """While the link is down every call fails."""

    async def wait_up(self, deadline: float, give_up: float | None = None) -> bool:
        if not self.is_up:
            raise self._error()
        return True


@breaks("T3.1", "T3.2", "T13.2", "T13.4")
class WaitsForTheLinkForEver(LinkState):
    """A call waits for the link as long as it may."""

    async def wait_up(self, deadline: float, give_up: float | None = None) -> bool:
        self._reconnect_wait = 1e6
        return await super().wait_up(deadline, math.inf if give_up else None)


@breaks("T3.1", "T3.2", "T8.3", "T9.1")
class WaitsForTheLinkPastTheTimeout(LinkState):
    """While it waits for the link, a call forgets its timeout."""

    async def wait_up(self, deadline: float, give_up: float | None = None) -> bool:
        return await super().wait_up(math.inf, give_up)


@breaks("T13.2")
class OutageMayHaveRun(LinkState):
    """A call that found no link is said to have run, perhaps."""

    def _error(self) -> Any:
        error = super()._error()
        error.maybe_executed = True
        return error


@breaks("T1.4", "T1.5", "T3.1", "T3.2", "T8.3", "T13.2", "T13.3", "T13.4")
class SubscriptionsStayAway(LoopbackLink):
    """A link that is back holds nothing."""

    def restore(self) -> None:
        self.held.clear()
        super().restore()


@breaks("T13.2", "T13.3")
class OutageForgetsSubscriptions(LoopbackLink):
    """A link that is back can hold nothing new."""

    has_been_cut = False

    def cut(self) -> None:
        self.has_been_cut = True
        super().cut()

    async def hold(self, shards: Any) -> None:
        if not self.has_been_cut:
            await super().hold(shards)


@breaks("T13.4")
class KeepsOverAnOutage(LoopbackLink):
    """What is sent before the loss is noticed is sent again when the link is back."""

    unsent: list[tuple[int, int, bytes]]

    async def open(self, sink: Sink) -> None:
        self.unsent = []
        await super().open(sink)

    def cut(self) -> None:
        self.unsent = []
        self.life += 1
        self.hub.leave(self)
        self.hub.loop.call_later(0.001, super().cut)

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        if not (self.hub.is_cut and self.is_up):
            return super().send(shard, token, body, oneway=oneway)
        self.unsent.append((shard, token, body))
        return None

    def restore(self) -> None:
        super().restore()
        self.hub.loop.call_soon(self._send_again)

    def _send_again(self) -> None:
        for shard, token, body in self.unsent:
            self.deliver(self.hub.pick(shard), shard, token, body)


@breaks("T1.4", "T1.5", "T13.1")
class SendsAgainAfterALoss(Sender):
    """A request that was in flight when the link was lost is sent again."""

    def _read(self, outcome: ClstrError | AskAgain, call: _Call, pending: Pending) -> tuple[ClstrError, float | None]:
        again = AskAgain(outcome, 0.0) if isinstance(outcome, clstr.ConnectionLostError) else outcome
        return super()._read(again, call, pending)
