"""This very peer, as the receiver of its own messages: the same bytes, through the loop."""

from __future__ import annotations

import asyncio
import contextvars
from typing import NamedTuple

from clstr.spi import Batcher, Sink


class ToHere(NamedTuple):
    """Where the answer to one's own request goes."""

    token: int


class Here:
    """
    Delivers in the next turn of the loop.

    Attributes:
        sink: The engine's side, known once the link is open.
    """

    sink: Sink

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.Context()
        self._out = Batcher[tuple[int, int, bytes]](self._loop, self._deliver)

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Here:
        """Deliver a request; return what stands for the way that it went."""
        self._out.add((shard, token, body))
        if oneway:
            self.sink.accepted(token)
        return self

    def reply(self, to: ToHere, body: bytes) -> None:
        """Deliver an answer."""
        self._loop.call_soon(self.sink.answer, to.token, body, self, context=self._context)

    def _deliver(self, messages: list[tuple[int, int, bytes]]) -> None:
        now = self._loop.time()
        for shard, token, body in messages:
            self.sink.request(shard, body, ToHere(token), now)
