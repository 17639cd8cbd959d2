"""The shards that this peer holds: leases in the server, which end by themselves if they are not renewed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence

import redis.exceptions

from clstr_redis._connection import Connection
from clstr_redis._errors import ForeignKeysError
from clstr_redis._names import Names
from clstr_redis._scripts import DROP, HOLD

KEYS_PER_CALL = 500  # a script that holds thousands of shards must not keep the server from others


class Leases:
    """
    What is held, whatever happens to connections.

    Args:
        names: What the keys are called.
        seconds: How long a lease lasts.
        clock: Tells the time, in seconds.
        logger: Told which leases had lapsed.
    """

    def __init__(self, names: Names, seconds: float, clock: Callable[[], float], logger: logging.Logger) -> None:
        self._names = names
        self._seconds = seconds
        self._ms = b"%d" % max(1, int(seconds * 1000))
        self._clock = clock
        self._logger = logger
        self._held: dict[int, float] = {}  # until when the lease of each shard lasts at most; infinite without one

    async def take(self, connection: Connection, shards: Sequence[int]) -> None:
        """
        Hold ``shards`` too: on return every peer's script sees it.

        Raises:
            redis.exceptions.ResponseError: The server says no, of some shards or of all.
            TransportUnavailableError: The connection is lost; nothing is held.
        """
        self._held.update(dict.fromkeys(shards, math.inf))
        try:
            await self._lease(connection, shards)
        except BaseException:
            self._forget(shards)
            raise

    async def drop(self, connection: Connection | None, shards: Sequence[int]) -> None:
        """
        Let go of ``shards``; without a connection their leases end by themselves.

        Raises:
            redis.exceptions.ResponseError: The server says no.
            TransportUnavailableError: The connection is lost.
        """
        self._forget(shards)
        if connection is not None:
            for part in _parts(shards):
                await connection.run(DROP, self._keys(part), connection.inbox)

    async def renew(self, connection: Connection) -> None:
        """Lease again what is held, for the inbox of ``connection``; raises as `take` does."""
        now = self._clock()
        before = {shard: until for shard, until in self._held.items() if until < now}
        try:
            await self._lease(connection, sorted(self._held))
        finally:  # some may be leased again, others not: their lapse goes on
            renewed = [until for shard, until in before.items() if self._held.get(shard, until) > until]
            if renewed:
                self._warn_of_lapse(len(renewed), now - min(renewed))

    def _warn_of_lapse(self, count: int, seconds: float) -> None:
        text = (
            "leases of %d shards had lapsed for %.1f s when they were renewed: the event loop was blocked or the "
            "server was away for longer than a lease, %g s; requests for these shards were refused meanwhile"
        )
        self._logger.warning(text, count, seconds, self._seconds)

    def _forget(self, shards: Sequence[int]) -> None:
        for shard in shards:
            self._held.pop(shard, None)

    async def _lease(self, connection: Connection, shards: Sequence[int]) -> None:
        """Lease all that can be leased, then raise the first reason for what cannot."""
        failures: list[redis.exceptions.ResponseError] = []
        foreign: list[bytes] = []
        for part in _parts(shards):
            # What was let go of since the last call must not be leased again behind its back.
            keys = self._keys([shard for shard in part if shard in self._held])
            if not keys:
                continue
            try:
                numbers = await connection.run(HOLD, keys, connection.inbox, self._ms)
            except redis.exceptions.ReadOnlyError:  # no part can be leased here
                raise
            except redis.exceptions.ResponseError as error:
                failures.append(error)
            else:
                foreign += [keys[number - 1] for number in numbers]
                self._leased(part)
        if foreign:
            failures.append(ForeignKeysError(foreign))
        if failures:
            raise failures[0]

    def _leased(self, shards: Sequence[int]) -> None:
        until = self._clock() + self._seconds
        self._held.update({shard: until for shard in shards if shard in self._held})

    def _keys(self, shards: Sequence[int]) -> list[bytes]:
        return [self._names.shard(shard) for shard in shards]


def _parts(shards: Sequence[int]) -> Iterator[Sequence[int]]:
    for first in range(0, len(shards), KEYS_PER_CALL):
        yield shards[first : first + KEYS_PER_CALL]
