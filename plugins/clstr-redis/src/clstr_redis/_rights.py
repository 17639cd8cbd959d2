"""What every peer needs the right to: asked for at connect, since the first request would be too late to learn it."""

from __future__ import annotations

from contextlib import suppress

import redis.exceptions

from clstr.errors import AccessDeniedError
from clstr_redis import _frames as frames
from clstr_redis._connection import Connection
from clstr_redis._errors import is_about_channels
from clstr_redis._names import Names
from clstr_redis._scripts import SEND


async def subscribe(connection: Connection, names: Names) -> None:
    """
    Subscribe to the inbox.

    Raises:
        AccessDeniedError: The user may subscribe to other channels alone: those of another peer id, probably.
        redis.exceptions.ResponseError: The server refuses it for another reason.
        TransportUnavailableError: The connection is lost.
    """
    try:
        await connection.ask(b"SUBSCRIBE", connection.inbox)
        return
    except redis.exceptions.NoPermissionError as error:
        if not is_about_channels(error):
            raise
    raise AccessDeniedError(
        f"the user may not subscribe to its own inbox: grant &{names.own_inboxes}, or connect with a peer_id that its "
        "rights name"
    )


async def check_rights(connection: Connection, names: Names) -> None:
    """
    Publish to the own inbox and run the script that sends, both without effect.

    The message has no frames in it, and the script finds no owner. A user may be confined to publishing to the inboxes
    of nodes, and no node may have loaded the script yet: neither says that a right is missing.

    Raises:
        redis.exceptions.ResponseError: The server refuses one of them.
        TransportUnavailableError: The connection is lost.
    """
    nothing = frames.join(connection.inbox, [])
    try:
        await connection.ask(b"PUBLISH", connection.inbox, nothing)
    except redis.exceptions.NoPermissionError as error:
        if not is_about_channels(error):
            raise
    with suppress(redis.exceptions.NoScriptError):
        await connection.run(SEND, [names.no_shard], nothing, b"0")
