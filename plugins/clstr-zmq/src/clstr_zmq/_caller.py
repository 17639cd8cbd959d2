"""What an outbox needs of the peer that it belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from clstr.spi import Sink
from clstr_zmq._dealer import Dealer
from clstr_zmq._dial import Order
from clstr_zmq._identity import Identity
from clstr_zmq._protocol import Place, Refused
from clstr_zmq._tasks import Tasks

if TYPE_CHECKING:
    from clstr_zmq._outbox import Outbox


class Caller(Protocol):
    """
    A peer that calls others.

    Attributes:
        sink: The engine's side.
        me: Who it is.
        tasks: What it runs in the background.
    """

    sink: Sink
    me: Identity
    tasks: Tasks

    async def dial(self, place: Place, order: Order) -> tuple[str, Dealer]:
        """
        Connect to whichever address of a place answers; return that and the connection.

        Raises:
            DialError: None does.
        """

    def welcomed(self, outbox: Outbox) -> None:
        """It may be written to."""

    def holds(self, outbox: Outbox, shards: Iterable[int]) -> None:
        """Its peer holds ``shards`` too."""

    def drops(self, outbox: Outbox, shards: Iterable[int]) -> None:
        """Its peer does not hold ``shards`` any more."""

    def heard_of(self, places: list[Place]) -> None:
        """There are inboxes at these places too."""

    def lost(self, outbox: Outbox) -> None:
        """Its connection is gone; it has been told to the sink, and will be dialled again."""

    def refused(self, outbox: Outbox, refusal: Refused) -> None:
        """Its peer does not want us."""

    def has_left(self, outbox: Outbox) -> None:
        """Its peer closes for good."""

    def settled(self) -> None:
        """One more is known to answer, or not to."""
