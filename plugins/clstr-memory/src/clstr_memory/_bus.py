"""The bus: who holds which shard, in one event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakValueDictionary

from clstr.errors import NoShardSubscriberError, TransportUnavailableError

if TYPE_CHECKING:
    from clstr_memory._link import MemoryLink


class Bus:
    """Peers and what they hold. Each message goes to one holder, in turn."""

    _named: ClassVar[WeakValueDictionary[str, Bus]] = WeakValueDictionary()

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        self.members: set[MemoryLink] = set()
        self.is_cut = False
        self.longest_delay = 0.0
        self._holders: dict[int, list[MemoryLink]] = {}

    @classmethod
    def named(cls, name: str) -> Bus:
        """
        Return the process's bus called ``name``; the empty name is a new bus of its own.

        Raises:
            TransportUnavailableError: The bus is in use on another loop.
        """
        bus = cls._named.get(name)
        if not name or bus is None or bus.is_abandoned():
            bus = cls()
        elif bus.loop is not asyncio.get_running_loop():
            raise TransportUnavailableError(f"memory://{name} is in use on another event loop: choose another name")
        if name:
            cls._named[name] = bus
        return bus

    @classmethod
    def existing(cls, name: str) -> Bus:
        """
        Return the bus called ``name``.

        Raises:
            LookupError: Nobody is connected to it.
        """
        bus = cls._named.get(name)
        if bus is None or bus.is_abandoned():
            raise LookupError(f"nobody is connected to memory://{name}")
        return bus

    def is_abandoned(self) -> bool:
        """Tell whether nobody can use this bus any more."""
        return self.loop.is_closed() or not self.members or self.pid != os.getpid()

    def enter(self, link: MemoryLink, shards: Iterable[int]) -> None:
        """Let ``link`` hold ``shards``."""
        for shard in shards:
            self._holders.setdefault(shard, []).append(link)

    def leave(self, link: MemoryLink, shards: Iterable[int]) -> None:
        """Let ``link`` hold ``shards`` no longer."""
        for shard in shards:
            holders = self._holders.get(shard, [])
            if link in holders:
                holders.remove(link)

    def pick(self, shard: int) -> MemoryLink:
        """
        Choose the receiver of the next message for ``shard``.

        Raises:
            NoShardSubscriberError: Nobody holds it.
        """
        holders = self._holders.get(shard)
        if not holders:
            raise NoShardSubscriberError(shard)
        if len(holders) > 1:
            holders.append(holders.pop(0))
        return holders[-1]
