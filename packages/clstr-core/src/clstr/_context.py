"""The message being handled: what a handler, its child tasks, and every client used inside them inherit."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Protocol, TypeVar

import msgspec

from clstr._messages.envelope import Envelope
from clstr.errors import ClstrError, HandlerTimeoutError, NotOwnerError

E = TypeVar("E", bound=ClstrError)


class Meter(Protocol):
    """What measures a handler: told when it waits for its turn, and when that wait ends. Waits may nest."""

    def pause(self) -> None:
        """The handler waits for its turn."""

    def resume(self) -> None:
        """One wait has ended."""


class Current(msgspec.Struct, eq=False, kw_only=True):
    """
    The message that the current task handles.

    Attributes:
        envelope: The message.
        depth: How many handlers deep its sender was; 0 for a message from outside.
        chain: The calls that led here, oldest first, see `clstr._messages.call_chain`; none of its own is among them.
        name: What stands for it on the chain of its own requests, if that is more than its key.
        ended: Whether its handler has ended; tasks that it left behind no longer act for it.
        calls: Its own requests that await an answer now, as they stand on chains; ``None`` before the first.
        is_revoked: Whether its shard was released while its handler ran: it must not touch state of a key from now on,
            unless it has it already.
        received: When the node read it, on the loop's clock; ``None`` outside of transports.
        meter: What measures its handler, if anything does.
        errors: What its sender is told of an exception of the handler: ``"text"``, ``"type"`` or ``"hidden"``.
    """

    envelope: Envelope
    depth: int = 0
    chain: tuple[str, ...] = ()
    ended: bool = False
    name: str | None = None
    calls: set[str] | None = None
    is_revoked: bool = False
    received: float | None = None
    meter: Meter | None = None
    errors: str = "text"

    def __repr__(self) -> str:
        return object.__repr__(self)  # not that of a struct: payloads are no text for logs

    def begin_call(self, call: str, _envelope: Envelope | None = None) -> None:
        """Note that the handler awaits the answer to ``call``, which was sent with an envelope, until `end_call`."""
        if self.calls is None:
            self.calls = set()
        self.calls.add(call)

    def end_call(self, call: str) -> None:
        """Note that the handler no longer awaits the answer to ``call``: it has it, or gave up."""
        if self.calls is not None:
            self.calls.discard(call)

    def awaits(self, call: str) -> bool:
        """Tell whether the handler awaits the answer to ``call``, which stands on a chain."""
        return self.calls is not None and call in self.calls

    def time_left(self) -> float:
        """Return the seconds until the handler is cancelled, at least 0."""
        raise NotImplementedError

    def has_led_to(self, other: Current) -> bool:
        """Tell whether the handler awaits the answer to a request that led to ``other``."""
        return self.calls is not None and not self.calls.isdisjoint(other.chain)

    def check_held(self) -> None:
        """
        Refuse the message if its shard was released; called where a keyed handler is about to touch a key's state.

        Raises:
            NotOwnerError: The shard was released.
        """
        if self.is_revoked:
            raise refuse(NotOwnerError(self.envelope.shard))

    def belongs_to(self, owner: object) -> bool:  # noqa: ARG002 -- for those that override it
        """Tell whether it is handled by ``owner``, the dispatcher of a transport."""
        return False

    def holds(self) -> Callable[[int], bool]:
        """Return a function that tells whether what received this message still receives messages of a shard."""
        return _always

    def timeout_error(self) -> HandlerTimeoutError | None:
        """Return what the message ends with if its time is over, else ``None``."""
        return None

    def check_time(self) -> None:
        """
        Refuse the message if it cannot end in time; called where its own work is about to begin after a wait.

        Raises:
            EnvelopeExpiredError: Its TTL is over, or leaves less time than such messages took lately.
            OverloadedError: It waited so long that the rest of what a handler may take is less than that.
        """

    def lend(self) -> None:
        """Give the slot to others while the handler only waits (T6). Calls nest; each needs its `reclaim`."""
        raise NotImplementedError

    def reclaim(self) -> None:
        """Take the slot back, without waiting for it."""
        raise NotImplementedError

    def park(self) -> None:
        """Give the slot to others while the handler waits for its turn at a key, which no request of its own ends."""
        self.lend()

    def unpark(self) -> None:
        """Undo one `park`."""
        self.reclaim()

    def base_context(self) -> Context:
        """Return the context of `connect`; see `base_context`."""
        return _without_message()


def _always(_shard: int) -> bool:
    """Tell that nothing is released outside of transports."""
    return True


_current: ContextVar[Current | None] = ContextVar("clstr_current", default=None)

set_current = _current.set

_node_id: ContextVar[str] = ContextVar("clstr_node_id", default="")

current_node_id = _node_id.get
set_current_node_id = _node_id.set


def current() -> Current | None:
    """Return the message that this task, or the task that started it, is handling; ``None`` outside of handlers."""
    message = _current.get()
    return None if message is None or message.ended else message


def base_context() -> Context:
    """
    Return the context that work for a key, not for one message, runs in a copy of.

    That is the context of `connect`: a message's own holds its caller's deadline, trace and chain. It is shared, so
    enter only its ``copy()``. Outside of transports it is the caller's context without the message that it handles.
    """
    message = _current.get()  # one that has ended still knows its transport
    return _without_message() if message is None else message.base_context()


def _without_message() -> Context:
    context = copy_context()
    context.run(set_current, None)
    return context


def refuse(error: E) -> E:
    """
    Stamp ``error`` as a refusal of the message being handled, and return it, to be raised.

    A handler that has not begun its work may refuse a message: ``raise refuse(UnknownMessageError(...))``. The error
    then reaches the caller as it is, with ``maybe_executed=False`` (T10), where any other becomes a `HandlerError`.
    """
    error.maybe_executed = False
    error.__dict__["_refused"] = current()
    return error


_NOTHING = object()  # what an error refuses that was never stamped; ``None`` is stamped outside of transports


def is_refusal_of(error: BaseException, message: Current | None) -> bool:
    """Tell whether ``error`` was stamped by `refuse` while ``message`` was being handled."""
    return isinstance(error, ClstrError) and error.__dict__.get("_refused", _NOTHING) is message
