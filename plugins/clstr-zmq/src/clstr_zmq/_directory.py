"""Which inboxes there are: those that the URL names, and those that peers tell of."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from clstr_zmq._names import Lookup, is_address, tcp_endpoint
from clstr_zmq._outbox import PATIENCE, Outbox
from clstr_zmq._protocol import MAX_PLACES, Place
from clstr_zmq._tasks import Tasks

LOOKUP_INTERVAL = 10.0  # seconds between two look-ups of the URL's names
FORGET_AFTER = 600.0  # seconds without a connection after which a peer that the URL does not name is given up


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """
    What the URL says of an inbox.

    Attributes:
        host: A name or an address; empty for a UNIX socket.
        port: Its port.
        path: The UNIX socket's path.
        key: The inbox's public CURVE key; empty without CURVE.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    key: str = ""


class Directory:
    """
    Keeps an outbox for each inbox.

    Args:
        seeds: What the URL names.
        new_outbox: Makes an outbox.
        settled: Called when a look-up has ended.
        logger: Told of names without an address.
        lookup: Resolves names.
        tasks: Runs what looks up.
    """

    def __init__(
        self,
        seeds: Iterable[Seed],
        new_outbox: Callable[[Place], Outbox],
        settled: Callable[[], None],
        *,
        logger: logging.Logger,
        lookup: Lookup,
        tasks: Tasks,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._seeds = list(seeds)
        self._new_outbox = new_outbox
        self._settled = settled
        self._logger = logger
        self._lookup = lookup
        self._tasks = tasks
        self._outboxes: dict[str, Outbox] = {}
        self._own: set[str] = set()  # this peer's own addresses, as others or the URL call them
        self._named: dict[Seed, set[str]] = {}  # the addresses that each seed stands for
        self._unanswered = set(self._seeds)
        self._looking: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None

    def __iter__(self) -> Iterator[Outbox]:
        return iter(list(self._outboxes.values()))

    @property
    def is_settling(self) -> bool:
        """Whether somebody may still turn out to hold a shard."""
        return bool(self._unanswered) or any(outbox.is_settling for outbox in self._outboxes.values())

    def start(self) -> None:
        """Begin to look up and to connect."""
        for seed in self._seeds:
            if seed.path or is_address(seed.host):
                self._name(seed, [seed.host])
        names = [seed for seed in self._seeds if seed in self._unanswered]
        if names:
            self._looking = self._tasks.start(self._keep_looking(names))
        self._patience = self._loop.call_later(PATIENCE, self._give_up_lookups)

    def is_named(self, outbox: Outbox) -> bool:
        """Tell whether the URL names this inbox."""
        return any(outbox.place.address in addresses for addresses in self._named.values())

    def add(self, place: Place) -> None:
        """There is an inbox at this place."""
        known = self._outboxes.get(place.address)
        if place.address in self._own or known is not None:
            return
        if len(self._outboxes) >= MAX_PLACES:
            self._logger.warning("more than %d peers: %s is not connected to", MAX_PLACES, place.address)
            return
        self._outboxes[place.address] = outbox = self._new_outbox(place)
        outbox.dial()

    def remove(self, outbox: Outbox) -> None:
        """Do not connect to this inbox any more."""
        self._outboxes.pop(outbox.place.address, None)

    def move(self, outbox: Outbox, place: Place) -> None:
        """
        Move an outbox to its peer's own place, and keep the address that led there apart.

        That one is used again when the connection is lost, and before: see `Outbox.look_again_later`.
        """
        way = outbox.place
        other = self._outboxes.get(place.address)
        if place.address in self._own or (other is not None and other.peer is not None):
            return
        other = other or self._new_outbox(way)
        self._outboxes.update({place.address: outbox, way.address: other})
        outbox.place, other.place = place, way
        other.yield_to(outbox)
        other.look_again_later()

    def is_own(self, address: str) -> None:
        """It turned out that this address is this peer's own."""
        self._own.add(address)

    def forget_lost(self) -> list[Outbox]:
        """Give up peers that have not been reached for long, and that the URL does not name; return them."""
        now = self._loop.time()
        lost = [each for each in self if each.lost_at is not None and now - each.lost_at > FORGET_AFTER]
        given_up = [each for each in lost if not self.is_named(each)]
        for each in given_up:
            self.remove(each)
        return given_up

    def dial(self, place: Place) -> None:
        """Somebody at this place has shown that it lives: do not wait for the next attempt."""
        outbox = self._outboxes.get(place.address)
        if outbox is not None:
            outbox.dial()

    def close(self) -> None:
        """Wait for nothing more."""
        if self._patience is not None:
            self._patience.cancel()

    async def _keep_looking(self, seeds: list[Seed]) -> None:
        while True:
            await asyncio.gather(*map(self._look_up, seeds))  # a slow name keeps no other one waiting
            await asyncio.sleep(LOOKUP_INTERVAL)

    async def _look_up(self, seed: Seed) -> None:
        try:
            hosts = await self._lookup(seed.host, seed.port)
        except OSError as error:
            self._logger.warning("cannot look up %s: %s", seed.host, error)
            self._answer(seed)
        else:
            self._name(seed, hosts)

    def _name(self, seed: Seed, hosts: list[str]) -> None:
        places = [Place(address=_address(seed, host), key=seed.key) for host in hosts]
        self._named[seed] = {place.address for place in places}
        for place in places:
            self.add(place)
        self._answer(seed)

    def _answer(self, seed: Seed) -> None:
        if seed in self._unanswered:
            self._unanswered.discard(seed)
            self._settled()

    def _give_up_lookups(self) -> None:
        for seed in list(self._unanswered):
            self._answer(seed)


def _address(seed: Seed, host: str) -> str:
    if seed.path:
        return f"ipc://{seed.path}"
    return tcp_endpoint(host, seed.port)
