"""What an inbox writes to the connections that it has: one message for each in a tick of the loop."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from functools import partial

from clstr.spi import Batcher, pack
from clstr_zmq._protocol import Control, Refused, chunk_ends, encode, encode_answer, is_answer, is_refusal
from clstr_zmq._wire import GoneError, Wire

MAX_LATE = 10_000  # frames beside answers that wait for room: a peer that reads nothing must not fill the memory
# Seconds between two attempts to write what found no room. ZeroMQ does not tell when one connection of a ROUTER has
# room; its queue is 10,000 messages long, so that it is not empty after that.
RETRY_INTERVAL = 0.005


class Post:
    """
    Writes to connections by their routes.

    Args:
        wire: The inbox's ROUTER.
        gone: Called with the route of a connection that turned out to be closed or unread, and which of these.
        dropped: Called with the number of answers whose receiver is gone.
    """

    def __init__(self, wire: Wire, gone: Callable[[bytes, str], None], dropped: Callable[[int], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._wire = wire
        self._gone = gone
        self._dropped = dropped
        self._context = contextvars.Context()  # not that of the handler whose answer found no room
        self._timer: asyncio.TimerHandle | None = None
        self._out: dict[bytes, Batcher[bytes]] = {}  # of this tick
        self._late: dict[bytes, list[bytes]] = {}  # what found no room

    def say(self, route: bytes, message: Control | Refused) -> None:
        """Say something that must not be lost as long as the connection lives, unless it is a refusal."""
        self._batch(route).add(encode(message))

    def answer(self, route: bytes, token: int, body: bytes) -> None:
        """Answer a request in this tick, or as soon as there is room."""
        self._batch(route).stream(encode_answer(token, body))

    def retry(self) -> None:
        """Write what found no room."""
        for route, frames in list(self._late.items()):
            if route not in self._out:
                self._send(route, frames)

    def forget(self, route: bytes) -> None:
        """The connection is closed, or of no interest any more."""
        self._dropped(sum(map(is_answer, self._late.pop(route, ()))))

    def close(self) -> None:
        """Write nothing late any more."""
        if self._timer is not None:
            self._timer.cancel()
        for route in list(self._late):
            self.forget(route)

    def _retry_later(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(RETRY_INTERVAL, self._try_again, context=self._context)

    def _try_again(self) -> None:
        self._timer = None
        self.retry()
        if self._late:
            self._retry_later()

    def _batch(self, route: bytes) -> Batcher[bytes]:
        batch = self._out.get(route)
        if batch is None:
            batch = self._out[route] = Batcher(self._loop, partial(self._write, route))
        return batch

    def _write(self, route: bytes, frames: list[bytes]) -> None:
        del self._out[route]
        self._send(route, self._late.get(route, []) + frames)

    def _send(self, route: bytes, frames: list[bytes]) -> None:
        self._late.pop(route, None)
        begin = 0
        try:
            for end in chunk_ends([len(frame) for frame in frames]):
                if not self._wire.send(route, pack(frames[begin:end])):
                    self._keep(route, frames[begin:])
                    return
                begin = end
        except GoneError:
            self._dropped(sum(map(is_answer, frames[begin:])))
            self._gone(route, "has closed its connection")

    def _keep(self, route: bytes, frames: list[bytes]) -> None:
        """Keep all but refusals: a stranger must not make them pile up. Answers are bounded by their bytes."""
        kept = [frame for frame in frames if not is_refusal(frame)]
        if not kept:
            return
        self._late[route] = kept
        if len(kept) - sum(map(is_answer, kept)) > MAX_LATE:
            self._gone(route, "does not read what it makes us say")
            self.forget(route)
        else:
            self._retry_later()
