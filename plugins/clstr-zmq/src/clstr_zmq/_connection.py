"""One connection to one inbox: what is written to it at the end of each tick, and what becomes of that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from clstr.errors import ClstrError, OverloadedError, TransportUnavailableError
from clstr.spi import Batcher, Sink, pack
from clstr_zmq._dealer import Dealer
from clstr_zmq._post import MAX_LATE
from clstr_zmq._protocol import Bye, Control, Hello, chunk_ends, encode, encode_request
from clstr_zmq._sockets import HIGH_WATER_MARK, LINGER


class Item(NamedTuple):
    """
    What waits for the end of the tick.

    Attributes:
        frame: What is sent.
        token: The request's; ``None`` for what peers say to each other, which must not be lost.
        oneway: Whether the engine waits to hear that it is on its way.
    """

    frame: bytes
    token: int | None = None
    oneway: bool = False


class Connection:
    """
    Writes to one connection until it ends. It is the route of the requests that went along it.

    Args:
        dealer: The connection.
        address: Where it goes.
        sink: Told what became of requests.
        lost: Called with the reason if the peer speaks and reads nothing.
    """

    def __init__(self, dealer: Dealer, address: str, sink: Sink, lost: Callable[[str], None]) -> None:
        self._dealer = dealer
        self._address = address
        self._sink = sink
        self._lost = lost
        self._out = Batcher[Item](asyncio.get_running_loop(), self._write)
        self._late: list[Item] = []
        self._end: str | None = None

    def request(self, token: int, shard: int, body: bytes, *, oneway: bool) -> None:
        """Send a request in this tick; if that fails, the engine is told that it did not run."""
        self._out.stream(Item(encode_request(token, shard, body), token, oneway))

    def say(self, message: Hello | Control) -> None:
        """Say something that must not be lost as long as the connection lives."""
        self._out.add(Item(encode(message)))

    def close(self, reason: str, *, is_polite: bool) -> None:
        """End it. What waits for the end of the tick certainly does not run; the rest may have run."""
        self._end = reason
        self._out.flush()
        if is_polite:
            self._dealer.send(pack([encode(Bye())]))
        self._dealer.close(LINGER if is_polite else 0)
        self._sink.lost(self)

    def _write(self, items: list[Item]) -> None:
        items, self._late = self._late + items, []
        begin = 0
        for end in chunk_ends([len(item.frame) for item in items]):
            if self._end is not None or not self._dealer.send(pack(item.frame for item in items[begin:end])):
                self._keep(items[begin:])
                return
            for item in items[begin:end]:
                if item.oneway and item.token is not None:
                    self._sink.accepted(item.token)
            begin = end

    def _keep(self, items: list[Item]) -> None:
        """Nothing was taken: requests are refused, and what peers say to each other waits if the peer is alive."""
        if self._end is None:
            self._dealer.look()  # is there no room, or no connection?
        if self._end is not None:
            self._refuse(items, TransportUnavailableError(f"{self._address}: {self._end}"), again_after=0.0)
            return
        self._late = [item for item in items if item.token is None]
        self._refuse(items, OverloadedError("unread messages of one peer", HIGH_WATER_MARK), again_after=None)
        if len(self._late) > MAX_LATE:
            self._late = []
            self._lost("it does not read what it makes us say")

    def _refuse(self, items: list[Item], error: ClstrError, again_after: float | None) -> None:
        for item in items:
            if item.token is not None:
                self._sink.refused(item.token, error, again_after=again_after)
