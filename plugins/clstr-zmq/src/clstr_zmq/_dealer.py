"""One connection to one inbox, from the attempt to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import zmq
from zmq.utils.monitor import parse_monitor_message

from clstr_zmq._wire import GoneError, Wire

_ENDED = {
    zmq.Event.CLOSED: "nobody listens there",
    zmq.Event.DISCONNECTED: "the connection broke",
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: "it does not speak ZeroMQ, or not with these keys",
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL: "it does not speak ZeroMQ as we do: is CURVE on at one side only?",
}
WATCHED = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.HANDSHAKE_FAILED_AUTH
for _event in _ENDED:
    WATCHED |= _event


class DialError(Exception):
    """
    There is no connection.

    Attributes:
        is_denied: Whether the other side does not accept our key.
        was_tried: Whether a connection was tried. Otherwise the name has no address, or there was no descriptor.
    """

    def __init__(self, reason: str, *, is_denied: bool = False, was_tried: bool = True) -> None:
        super().__init__(reason)
        self.is_denied: bool = is_denied
        self.was_tried: bool = was_tried


class DealerUser(Protocol):
    """What uses a connection once there is one."""

    def receive(self, frames: list[zmq.Frame]) -> None:
        """A message came."""

    def lost(self, reason: str) -> None:
        """The connection ended."""


class Dealer:
    """
    One connection to one inbox, once: when it ends it is not made again.

    Args:
        socket: Connects already.
        wire: Reads and writes it.
        closed: Called when it is closed.

    Attributes:
        opened: Done when there is a connection, with ``None``, or when there is none, with the reason.
    """

    def __init__(self, socket: zmq.Socket[bytes], wire: Wire, closed: Callable[[Wire], None]) -> None:
        self._socket = socket
        self._wire = wire
        self._closed = closed
        self._monitor: Wire | None = None
        self._user: DealerUser | None = None
        self._end = ""
        self.opened: asyncio.Future[DialError | None] = asyncio.get_running_loop().create_future()

    def watch(self, monitor: Wire) -> None:
        """Learn from ``monitor``, which is given to `observe` to receive, what becomes of the connection."""
        self._monitor = monitor

    def attach(self, user: DealerUser) -> None:
        """Give ``user`` what arrives from now on, and tell it at once if the connection has ended."""
        self._user = user
        self._wire.receive = user.receive
        if self._end:
            user.lost(self._end)

    def send(self, message: bytes) -> bool:
        """Send; ``False`` if there is no connection, or no room."""
        try:
            return self._wire.send(message)
        except GoneError:
            return False

    def look(self) -> None:
        """Learn now what has become of the connection."""
        if self._monitor is not None:
            self._monitor.drain()

    def close(self, linger: int = 0) -> None:
        """Close it. What was not sent has ``linger`` milliseconds."""
        if not self._wire.is_closed:
            self._socket.disable_monitor()
            if self._monitor is not None:
                self._monitor.close()
            self._wire.close(linger)
            self._closed(self._wire)

    def observe(self, frames: list[zmq.Frame]) -> None:
        """ZeroMQ's monitor said something."""
        event = zmq.Event(parse_monitor_message([frame.bytes for frame in frames])["event"])
        if event == zmq.Event.HANDSHAKE_SUCCEEDED:
            self._open(None)
        elif event == zmq.Event.HANDSHAKE_FAILED_AUTH:
            self._open(DialError("it does not accept our key", is_denied=True))
        elif event in _ENDED and not self._open(DialError(_ENDED[event])):
            self._end = _ENDED[event]
            self._wire.drain()  # what came before the end: answers, and why it ended
            if self._user is not None:
                self._user.lost(self._end)

    def _open(self, problem: DialError | None) -> bool:
        if self.opened.done():
            return False
        self.opened.set_result(problem)
        return True
