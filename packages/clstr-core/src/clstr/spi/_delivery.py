"""One message that arrived: from its admission to the end of its handler."""

from __future__ import annotations

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from clstr._context import Current, refuse
from clstr._messages.wire import Codec
from clstr.errors import HandlerTimeoutError

if TYPE_CHECKING:
    from clstr.spi._dispatcher import Dispatcher
    from clstr.spi._subscriptions import EngineSubscription

CLOCK_STEP = 0.002  # seconds by which a loop may run a timer early: uvloop's clock has steps of a millisecond


class Delivery(Current, eq=False, kw_only=True):
    """
    A message that waits for a slot, or runs. It is what its handler's context holds.

    Attributes:
        subscription: Who handles it.
        codec: The codec that it came in, and that its answer goes out in.
        to: Where the answer goes, for the link.
        oneway: Whether it is a notify, which is never answered.
        size: Its bytes on the wire.
        expires: When its sender has given up: loop time, infinite without a TTL.
        deadline: When it expires while it waits, or when its handler is cancelled: loop time.
        timeout: The seconds that its handler was given, once it has started.
        since: When it was read; once its handler has started, when that was, plus the time that it has waited for turns
            since: loop time.
        parked_at: When the last wait for a turn began: loop time.
        queue: The queue that it waits in; ``None`` if it does not wait.
        task: Its handler's task, once it has started.
        begun: Whether its handler has taken its first step.
        lent: How many of the handler's tasks await a request now; above 0 its slot is another's.
        parked: How many of the handler's tasks wait for a turn at a key.
        closing: How many of its handler's tasks are in an `aclose` that must not wait for it.
        answered: Whether the answer is out, or none is wanted any more.
        room: Data bytes of an answer that its sender has room for now; 0 is any number.
    """

    dispatcher: Dispatcher
    subscription: EngineSubscription
    codec: Codec
    to: object
    oneway: bool
    size: int
    expires: float
    deadline: float
    timeout: float = 0.0
    since: float = 0.0
    parked_at: float = 0.0
    tick: int = 0
    queue: OrderedDict[Delivery, None] | None = None
    task: asyncio.Task[None] | None = None
    lent: int = 0
    parked: int = 0
    closing: int = 0
    begun: bool = False
    answered: bool = False
    room: int = 0

    def __str__(self) -> str:
        return f"shard {self.envelope.shard}, type {self.envelope.type!r}"

    @property
    def has_run(self) -> bool:
        """
        Whether the handler may have done something.

        It has not before its first step, nor while it only waits for its turn at a key: what takes turns does so before
        anything else. One that awaits a request beside that has.
        """
        return self.begun and (not self.parked or self.lent > self.parked)

    def time_left(self) -> float:
        """Return the seconds until the handler is cancelled, at least 0."""
        return self.dispatcher.time_left(self)

    def belongs_to(self, owner: object) -> bool:
        """Tell whether it is handled by ``owner``."""
        return self.dispatcher is owner

    def holds(self) -> Callable[[int], bool]:
        """Return a function that tells whether the subscription still holds a shard, and its transport is open."""
        return self.subscription.holds

    def timeout_error(self) -> HandlerTimeoutError | None:
        """Return what the message ends with if its time is over, else ``None``."""
        is_over = self.dispatcher.time_left(self) <= CLOCK_STEP
        return HandlerTimeoutError(self.envelope.shard, self.timeout) if is_over else None

    def check_time(self) -> None:
        """Refuse the message if its time is over, or too short for its handler."""
        too_late = self.dispatcher.too_late(self)
        if too_late is not None:
            raise refuse(too_late)

    def lend(self) -> None:
        """Give the slot to others while the handler only waits."""
        if self._is_here():
            self.dispatcher.lend(self)

    def reclaim(self) -> None:
        """Take the slot back, without waiting for it."""
        if self._is_here():
            self.dispatcher.reclaim(self)

    def park(self) -> None:
        """Give the slot to others while the handler waits for its turn at a key."""
        if self._is_here():
            self.dispatcher.park(self)
            if self.meter is not None:
                self.meter.pause()

    def unpark(self) -> None:
        """Take the slot back, without waiting for it."""
        if self._is_here():
            self.dispatcher.unpark(self)
            if self.meter is not None:
                self.meter.resume()

    def base_context(self) -> contextvars.Context:
        """Return the context of `connect`."""
        return self.dispatcher.context

    def _is_here(self) -> bool:
        """Tell whether this is the handler's loop: one that it started in another thread has no slot to lend."""
        return asyncio.get_running_loop() is self.dispatcher.loop

    def expire(self) -> None:
        """The deadline is over, for the wait or for the handler."""
        self.dispatcher.expire(self)

    def ended_by(self, _task: asyncio.Task[None]) -> None:
        """The handler's task has really ended."""
        self.dispatcher.end(self)
