"""What every peer needs the right to: asked for at connect, since the first request would be too late to learn it."""

from __future__ import annotations

from clstr_redis import _frames as frames
from clstr_redis._connection import Connection
from clstr_redis._names import Names
from clstr_redis._scripts import SEND


async def check_rights(connection: Connection, names: Names) -> None:
    """
    Publish to the own inbox and run the script that sends, both without effect.

    The message has no frames in it, and the script finds no owner.

    Raises:
        redis.exceptions.ResponseError: The server refuses one of them.
        TransportUnavailableError: The connection is lost.
    """
    nothing = frames.join(connection.inbox, [])
    await connection.ask(b"PUBLISH", connection.inbox, nothing)
    await connection.run(SEND, [names.no_shard], nothing, b"0")
