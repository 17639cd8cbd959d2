"""The peers that have connected to this one: who they are, what they know, whether they are alive. No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from clstr.spi import Buffer
from clstr_zmq._pieces import Pieces
from clstr_zmq._protocol import MAX_PLACES, Hello, Place

MISSED_HEARTBEATS = 3
MAX_TOLD = 4 * MAX_PLACES  # addresses that a guest was told of and that are remembered: some may be inventions


@dataclass(slots=True, eq=False)
class Guest:
    """
    A peer that said `Hello` and was welcomed.

    Attributes:
        route: What ZeroMQ calls its connection.
        hello: What it said.
        pieces: Joins the pieces of its large messages.
        told: The addresses that it was told of.
        was_heard: Whether anything came from it since the last heartbeat.
        misses: Heartbeats in a row without a word from it.
        received: ZeroMQ messages that came from it.
        sent_bytes: The bytes of answers that it was sent.
        read_bytes: How many of them it has certainly read.
        is_full: Whether an answer was not sent because it had too much to read.
        probe: A ping that it has not answered: its number, and `sent_bytes` when it was sent.
    """

    route: bytes
    hello: Hello
    pieces: Pieces
    told: set[str] = field(default_factory=set)
    was_heard: bool = True
    misses: int = 0
    received: int = 0
    sent_bytes: int = 0
    read_bytes: int = 0
    is_full: bool = False
    probe: tuple[int, int] | None = None

    @property
    def unread_bytes(self) -> int:
        """The bytes of answers that it may not have read."""
        return self.sent_bytes - self.read_bytes

    def receive(self, message: bytes) -> Buffer:
        """
        Note that it lives; return what arrived once it is whole, and nothing as long as pieces are missing.

        Raises:
            ValueError: It is a piece of nothing.
        """
        self.was_heard = True
        self.received += 1
        return self.pieces.add(message)

    def has_read(self, number: int) -> None:
        """It answered the ping of this number."""
        if self.probe is not None and self.probe[0] == number:
            self.read_bytes = self.probe[1]
            self.probe = None

    def beat(self) -> bool:
        """Count a heartbeat; return whether it is alive. Beats are counted, not seconds: our own loop may be late."""
        self.misses = 0 if self.was_heard else self.misses + 1
        self.was_heard = False
        return self.misses < MISSED_HEARTBEATS


class Round:
    """
    Something that every guest of a moment is to acknowledge.

    Attributes:
        number: Its number.
        waiting: Who has not, and is not dead.
        newcomer: The guest that waits for it, without whom nobody does.
        done: Done when nobody is left to wait for.
    """

    def __init__(self, number: int, guests: set[Guest], newcomer: Guest | None = None) -> None:
        self.number: int = number
        self.newcomer: Guest | None = newcomer
        self.waiting: set[Guest] = guests
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._look()

    def leave(self, guest: Guest) -> None:
        """Wait for ``guest`` no longer."""
        self.waiting.discard(guest)
        self._look()

    def _look(self) -> None:
        if not self.waiting and not self.done.done():
            self.done.set_result(None)


class Guests:
    """All guests."""

    def __init__(self) -> None:
        self._by_route: dict[bytes, Guest] = {}
        self._rounds: list[Round] = []

    def __iter__(self) -> Iterator[Guest]:
        return iter(list(self._by_route.values()))

    def get(self, route: bytes) -> Guest | None:
        """Return the guest of a connection."""
        return self._by_route.get(route)

    def enter(self, guest: Guest) -> None:
        """Take a new guest in."""
        self._by_route[guest.route] = guest

    def remove(self, guest: Guest) -> None:
        """Forget a guest; nobody waits for it any more."""
        if self._by_route.pop(guest.route, None) is None:
            return
        self._rounds = [each for each in self._rounds if each.newcomer is not guest]
        for each in list(self._rounds):
            each.leave(guest)
        self._tidy()
        if guest.hello.inbox is not None and not self._has_inbox(guest.hello.inbox.address):
            for other in self._by_route.values():
                other.told.discard(guest.hello.inbox.address)

    def rival(self, hello: Hello) -> Guest | None:
        """Return the guest that has the newcomer's id, but is another life."""
        for guest in self._by_route.values():
            if guest.hello.peer_id == hello.peer_id and guest.hello.epoch != hello.epoch:
                return guest
        return None

    def untold(self, places: list[Place], guests: Iterable[Guest]) -> Iterator[tuple[Guest, list[Place]]]:
        """Yield ``guests``, each with those of ``places`` that it was not told of, and note that it is now."""
        for guest in guests:
            own = guest.hello.inbox.address if guest.hello.inbox is not None else ""
            news = [place for place in places if place.address not in guest.told and place.address != own]
            if news:
                if len(guest.told) > MAX_TOLD:
                    guest.told.clear()  # to be told again does no harm
                guest.told.update(place.address for place in news)
                yield guest, news

    def begin(self, number: int, guests: set[Guest], newcomer: Guest | None = None) -> Round:
        """Begin to wait for ``guests`` to acknowledge ``number``, on behalf of ``newcomer`` as long as it is here."""
        begun = Round(number, guests, newcomer)
        self._rounds.append(begun)
        self._tidy()
        return begun

    def acknowledge(self, guest: Guest, number: int) -> None:
        """``guest`` knows everything up to ``number``."""
        for each in list(self._rounds):
            if each.number <= number:
                each.leave(guest)
        self._tidy()

    def _tidy(self) -> None:
        self._rounds = [each for each in self._rounds if not each.done.done()]

    def _has_inbox(self, address: str) -> bool:
        inboxes = (guest.hello.inbox for guest in self._by_route.values())
        return any(inbox is not None and inbox.address == address for inbox in inboxes)
