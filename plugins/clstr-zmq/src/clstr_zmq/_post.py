"""What an inbox writes to the connections that it has: one message for each in a tick of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from clstr.spi import Batcher, pack
from clstr_zmq._counters import Counters
from clstr_zmq._protocol import Control, Refused, chunk_ends, encode, encode_answer, is_answer, is_refusal
from clstr_zmq._wire import GoneError, Wire

MAX_LATE = 10_000  # frames that wait for room: who makes us speak and reads nothing must not fill the memory


class Post:
    """
    Writes to connections by their routes.

    Args:
        wire: The inbox's ROUTER.
        gone: Called with the route of a connection that turned out to be closed or unread, and which of these.
        counters: Where answers are counted that there is no room for.
    """

    def __init__(self, wire: Wire, gone: Callable[[bytes, str], None], counters: Counters) -> None:
        self._loop = asyncio.get_running_loop()
        self._wire = wire
        self._gone = gone
        self._counters = counters
        self._out: dict[bytes, Batcher[bytes]] = {}  # of this tick
        self._late: dict[bytes, list[bytes]] = {}  # what must not be lost, and found no room

    def say(self, route: bytes, message: Control | Refused) -> None:
        """Say something that must not be lost as long as the connection lives, unless it is a refusal."""
        self._batch(route).add(encode(message))

    def answer(self, route: bytes, token: int, body: bytes) -> None:
        """Answer a request in this tick; if there is no room, the answer is dropped and counted."""
        self._batch(route).stream(encode_answer(token, body))

    def retry(self) -> None:
        """Write what found no room."""
        for route, frames in list(self._late.items()):
            if route not in self._out:
                self._send(route, frames)

    def forget(self, route: bytes) -> None:
        """The connection is closed, or of no interest any more."""
        self._late.pop(route, None)

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
            self._gone(route, "has closed its connection")

    def _keep(self, route: bytes, frames: list[bytes]) -> None:
        self._counters.dropped_answers += sum(map(is_answer, frames))
        kept = [frame for frame in frames if not (is_answer(frame) or is_refusal(frame))]
        if len(kept) > MAX_LATE:
            self._gone(route, "does not read what it makes us say")
        elif kept:
            self._late[route] = kept
