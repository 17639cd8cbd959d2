"""Which servers can be used: what HELLO says of them."""

from __future__ import annotations

from typing import Any

from clstr.errors import TransportUnavailableError

OLDEST = (6, 2)


def check_server(hello: dict[bytes, Any]) -> None:
    """
    Raise unless the server whose HELLO this is takes writes and can be used.

    Raises:
        TransportUnavailableError: It cannot; the message says what to do.
    """
    mode, role, version = (bytes(hello[name]).decode() for name in (b"mode", b"role", b"version"))
    if mode == "cluster":
        raise TransportUnavailableError(
            "this is a node of a Redis Cluster, which clstr-redis does not support: use one primary, with Sentinel if "
            "it has to fail over"
        )
    if role != "master":
        raise TransportUnavailableError("this is a read-only replica: name the primary, or use redis+sentinel://")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise TransportUnavailableError(f"the server has version {version}: Redis 6.2 is the oldest that can be used")
