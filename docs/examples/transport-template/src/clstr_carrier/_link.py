"""The link: what is peculiar to the carrier. Every method runs on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from clstr.errors import NoShardSubscriberError, TransportUnavailableError
from clstr.spi import Link, Sink

from clstr_carrier._bus import Bus, Connection


class CarrierLink(Link):
    """One connection to the carrier, made again whenever it breaks."""

    max_message_bytes = None  # set it in `open` if the broker says what it carries
    _sink: Sink
    _connection: Connection

    def __init__(self, name: str) -> None:
        """Connect to the bus called ``name``."""
        self._name = name
        self._held: set[int] = set()

    async def open(self, sink: Sink) -> None:
        """Connect and authenticate, or raise `AuthenticationError` or `TransportUnavailableError`."""
        self._sink = sink
        self._connection = Bus.named(self._name).connect(self)

    async def hold(self, shards: Sequence[int]) -> None:
        """On return, what is sent for ``shards`` arrives: wait until the broker has confirmed it."""
        self._check_up()
        self._held.update(shards)
        self._connection.subscribe(shards)

    async def drop(self, shards: Sequence[int]) -> None:
        """On return nothing for ``shards`` is on its way. Never raises: a broker that has lost us holds nothing."""
        self._held.difference_update(shards)
        self._connection.unsubscribe(shards)
        await self.flush()

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> None:
        """Hand over and return. Raise only if nothing has left; write through a `Batcher` if the driver does not."""
        self._check_up()
        if not self._connection.publish(shard, token, body, oneway=oneway):
            raise NoShardSubscriberError(shard)  # the broker's proof that nobody got it
        if oneway:
            self._sink.accepted(token)

    def reply(self, to: object, body: bytes) -> bool:
        """Answer. ``to`` is what `_bus` gave to `Sink.request`; ``False`` says: not now, offer it again later."""
        if not self._connection.is_up:
            return False
        if not self._connection.answer(to, body):
            self._sink.dropped(1)  # whoever asked is gone
        return True

    async def flush(self) -> None:
        """Return when what was sent is out."""
        await asyncio.sleep(0)

    async def aclose(self) -> None:
        """Release everything; may be called twice, and after a failed `open`."""
        if hasattr(self, "_connection"):
            self._connection.close()

    # What the driver calls.

    def received(self, shard: int, body: bytes, to: object) -> None:
        """A message for a shard that we hold. If one read brings many, tell `Sink.request` when that was: `read_at`."""
        self._sink.request(shard, body, to)

    def answered(self, token: int, body: bytes) -> None:
        """The reply to what was sent as ``token``."""
        self._sink.answer(token, body)

    def disconnected(self) -> None:
        """The connection broke: requests in flight end, new ones wait."""
        self._sink.down(ConnectionResetError("the carrier closed the connection"))

    def connected(self) -> None:
        """It is back: hold what was held, and only then say so."""
        self._connection.subscribe(sorted(self._held))
        self._sink.up()

    def _check_up(self) -> None:
        if not self._connection.is_up:
            raise TransportUnavailableError("not connected to the carrier")
