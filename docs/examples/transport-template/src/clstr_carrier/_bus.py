"""A stand-in for the broker and its driver, within one process: delete it when `_link.py` speaks to yours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol
from weakref import WeakValueDictionary


class Listener(Protocol):
    """What a connection calls."""

    def received(self, shard: int, body: bytes, to: object) -> None:
        """Get a message."""

    def answered(self, token: int, body: bytes) -> None:
        """Get an answer."""

    def disconnected(self) -> None:
        """Learn that the connection broke."""

    def connected(self) -> None:
        """Learn that it is back."""


class Bus:
    """Who is connected, and who holds which shard."""

    _all: ClassVar[WeakValueDictionary[str, Bus]] = WeakValueDictionary()

    def __init__(self) -> None:
        """Begin with nobody."""
        self.connections: list[Connection] = []
        self.holders: dict[int, list[Connection]] = {}

    @classmethod
    def named(cls, name: str) -> Bus:
        """Return the bus called ``name``, which lives as long as somebody is connected."""
        return cls._all.setdefault(name, cls())

    def connect(self, listener: Listener) -> Connection:
        """Connect ``listener``."""
        connection = Connection(self, listener)
        self.connections.append(connection)
        return connection

    def cut(self, listener: object = None) -> None:
        """Break the connection of ``listener``, or every one."""
        for connection in self.connections:
            if listener in (None, connection.listener):
                connection.lose()
                connection.listener.disconnected()

    def restore(self) -> None:
        """Undo `cut`."""
        for connection in self.connections:
            if not connection.is_up:
                connection.is_up = True
                connection.listener.connected()


class Connection:
    """One connection to a bus. What was sent to it before it broke never arrives."""

    def __init__(self, bus: Bus, listener: Listener) -> None:
        """Begin connected."""
        self.bus = bus
        self.listener = listener
        self.is_up = True
        self._life = 0

    def subscribe(self, shards: Sequence[int]) -> None:
        """Get messages for ``shards``."""
        for shard in shards:
            self.bus.holders.setdefault(shard, []).append(self)

    def unsubscribe(self, shards: Sequence[int]) -> None:
        """Get none any more."""
        for shard in shards:
            if self in self.bus.holders.get(shard, ()):
                self.bus.holders[shard].remove(self)

    def publish(self, shard: int, token: int, body: bytes, *, oneway: bool) -> bool:
        """Give a message to one holder; ``False`` if there is none."""
        holders = self.bus.holders.get(shard)
        if not holders:
            return False
        holders.append(holders.pop(0))
        receiver = holders[-1]
        receiver.arrive(receiver.listener.received, shard, body, None if oneway else (self, token))
        return True

    def answer(self, to: object, body: bytes) -> bool:
        """Give an answer to who asked; ``False`` if it is not connected."""
        if not (self.is_up and isinstance(to, tuple) and to[0].is_up):
            return False
        to[0].arrive(to[0].listener.answered, to[1], body)
        return True

    def arrive(self, receive: Callable[..., None], *message: Any) -> None:
        """Call ``receive`` in the next turn of the loop, unless the connection breaks before."""
        life = self._life
        asyncio.get_running_loop().call_soon(lambda: receive(*message) if life == self._life else None)

    def lose(self) -> None:
        """Break."""
        self.is_up = False
        self._life += 1
        self.unsubscribe(list(self.bus.holders))

    def close(self) -> None:
        """Leave. May be called twice."""
        self.lose()
        if self in self.bus.connections:
            self.bus.connections.remove(self)
