"""
One ZeroMQ socket, driven by the loop.

ZeroMQ's descriptor is edge-triggered: it becomes readable when something *begins* to wait, and any call to the socket,
sending included, may take that notice away. So a wake-up is followed by reading until nothing is there, and each send
by a look whether something is.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import select
import threading
from collections.abc import Callable

import zmq

from clstr.spi import RateLimitedLog
from clstr_zmq._counters import Counters
from clstr_zmq._pieces import split

MOST_AT_ONCE = 256  # messages that are read before others on the loop have their turn
Receive = Callable[[list[zmq.Frame]], None]


class GoneError(Exception):
    """The connection that a message was for is closed."""


class Wire:
    """
    Reads and writes without blocking, on the thread that made it.

    Args:
        socket: Belongs to the wire from here on.
        receive: Gets the frames of each message. It may close the wire.
        counters: Where a wake-up that never came is counted.
        logger: Told of defects of ``receive``.

    Attributes:
        read_at: When the messages that ``receive`` gets now were read: loop time in seconds.
        receive: The same; may be replaced.
    """

    def __init__(self, socket: zmq.Socket[bytes], receive: Receive, counters: Counters, logger: logging.Logger) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.Context()  # not that of whoever happens to send first
        self._thread = threading.get_ident()
        self._socket = socket
        self.receive: Receive = receive
        self._counters = counters
        self._logger = logger
        self._log = RateLimitedLog(logger)
        self._descriptor: int = socket.getsockopt(zmq.FD)  # type: ignore[assignment]  # typed as any option's value
        self._is_scheduled = False
        self._has_read = False
        self.read_at: float = self._loop.time()
        self._loop.add_reader(self._descriptor, self._read)
        self._read_soon()  # what came before there was a reader woke nobody

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._socket.closed

    def send(self, *frames: bytes) -> bool:
        """
        Send a message, a large one in pieces; ``False`` if ZeroMQ has no room for it, or nobody to give it to.

        Pieces that were sent before there was no room do no harm: the receiver waits for the whole message.

        Raises:
            GoneError: The first frame names a connection that is closed, or the socket sends nothing any more.
        """
        self._check_thread()
        try:
            for piece in split(frames[-1]):
                self._socket.send_multipart((*frames[:-1], piece), zmq.DONTWAIT)
        except zmq.ZMQError as error:
            if error.errno not in {
                zmq.EAGAIN,
                zmq.EHOSTUNREACH,
            }:  # it runs in a callback of the loop: nobody would know
                self._logger.warning("a socket of ZeroMQ sends nothing any more: %s", error)
                raise GoneError from error
            self._read_if_any()
            if error.errno == zmq.EHOSTUNREACH:
                raise GoneError from None
            return False
        self._read_if_any()
        return True

    def _read_if_any(self) -> None:
        """Sending may have taken the one wake-up for what has arrived."""
        if self._is_readable():
            self._read_soon()

    def close(self, linger: int = 0) -> None:
        """Close the socket; what was not sent then has ``linger`` milliseconds."""
        self._check_thread()
        if not self.is_closed:
            self._loop.remove_reader(self._descriptor)
            self._socket.close(linger)

    def check(self) -> None:
        """
        Read what no wake-up told of, and count it.

        It waited for sure if nothing was read since the last check; otherwise it may have come just now.
        """
        if self._is_scheduled or _is_awake(self._descriptor):
            return
        was_idle, self._has_read = not self._has_read, False
        if self._is_readable():
            if was_idle:
                self._counters.missed_wakeups += 1
                self._logger.error(
                    "ZeroMQ had a message and woke nobody: please report it, it is a defect of clstr-zmq"
                )
            self._read_soon()

    def _is_readable(self) -> bool:
        return bool(self._events() & zmq.POLLIN)

    def _events(self) -> int:
        return self._socket.getsockopt(zmq.EVENTS)  # type: ignore[return-value]  # typed as any option's value

    def _read_soon(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._read, context=self._context)

    def drain(self) -> None:
        """Read everything that is there now."""
        while self._read_some():
            pass

    def _read(self) -> None:
        """Read until nothing is there, or others wait long enough."""
        self._is_scheduled = False
        if self._read_some():
            self._read_soon()

    def _read_some(self) -> bool:
        """Read some messages, then handle them; return whether there may be more."""
        batch = self._take()
        for frames in batch:
            if self.is_closed:  # one of them said so
                return False
            self._handle(frames)
        return len(batch) == MOST_AT_ONCE

    def _take(self) -> list[list[zmq.Frame]]:
        """Take messages out of the socket before the first is handled, which may block: they have one time."""
        batch: list[list[zmq.Frame]] = []
        if self.is_closed:
            return batch
        with contextlib.suppress(zmq.Again):
            while len(batch) < MOST_AT_ONCE:
                batch.append(self._socket.recv_multipart(zmq.DONTWAIT, copy=False))
        if batch:
            self._has_read = True
            self.read_at = self._loop.time()
        return batch

    def _handle(self, frames: list[zmq.Frame]) -> None:
        try:
            self.receive(frames)
        except Exception as error:  # noqa: BLE001 -- a defect must cost one message, not the reader
            self._log.say(
                logging.ERROR, "a message from another peer could not be handled", kind=type(error), error=error
            )

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError("a ZeroMQ socket belongs to the thread of its event loop: use call_soon_threadsafe")


def _is_awake(descriptor: int) -> bool:
    """Tell whether a wake-up is on its way."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
