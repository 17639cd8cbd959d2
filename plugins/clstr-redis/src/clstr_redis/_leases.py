"""The shards that this peer holds: leases in the server, which end by themselves if they are not renewed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    """

    def __init__(self, names: Names, seconds: float) -> None:
        self._names = names
        self._ms = b"%d" % max(1, int(seconds * 1000))
        self._held: set[int] = set()

    async def take(self, connection: Connection, shards: Sequence[int]) -> None:
        """
        Hold ``shards`` too: on return every peer's script sees it.

        Raises:
            redis.exceptions.ResponseError: The server says no, of some shards or of all.
            TransportUnavailableError: The connection is lost; nothing is held.
        """
        self._held.update(shards)
        try:
            await self._lease(connection, shards)
        except BaseException:
            self._held.difference_update(shards)
            raise

    async def drop(self, connection: Connection | None, shards: Sequence[int]) -> None:
        """
        Let go of ``shards``; without a connection their leases end by themselves.

        Raises:
            redis.exceptions.ResponseError: The server says no.
            TransportUnavailableError: The connection is lost.
        """
        self._held.difference_update(shards)
        if connection is not None:
            for part in _parts(shards):
                await connection.run(DROP, self._keys(part), connection.inbox)

    async def renew(self, connection: Connection) -> None:
        """Lease again what is held, for the inbox of ``connection``; raises as `take` does."""
        await self._lease(connection, sorted(self._held))

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
        if foreign:
            failures.append(ForeignKeysError(foreign))
        if failures:
            raise failures[0]

    def _keys(self, shards: Sequence[int]) -> list[bytes]:
        return [self._names.shard(shard) for shard in shards]


def _parts(shards: Sequence[int]) -> Iterator[Sequence[int]]:
    for first in range(0, len(shards), KEYS_PER_CALL):
        yield shards[first : first + KEYS_PER_CALL]
