"""The keys of a cluster's records. An *instance* is one life of a node: its id, escaped, a dot, its generation."""

from __future__ import annotations

import re

from clstr._routing.hashing import check_node_id

MAX_NODE_ID_BYTES = 253  # as long as a host's name may be
PLAN_KEY = "plan"
_KEPT = re.compile(r"[A-Za-z0-9_-]")
_INSTANCE = re.compile(r"((?:[A-Za-z0-9_-]|=[0-9A-F]{2})+)\.([0-9]{1,16})")
_SHARD = re.compile(r"shard/(0|[1-9][0-9]{0,9})")


def instance(node_id: str, generation: int) -> str:
    """
    Return the name of one life of a node.

    Raises:
        TypeError, ValueError: The id is empty, not printable, or longer than 253 bytes.
    """
    check_node_id(node_id)
    encoded = node_id.encode()
    if len(encoded) > MAX_NODE_ID_BYTES:
        raise ValueError(
            f"a node id has {len(encoded)} bytes, at most {MAX_NODE_ID_BYTES} in a live cluster: {node_id[:40]!r}…"
        )
    return f"{''.join(map(_escaped, encoded))}.{generation}"


def _escaped(byte: int) -> str:
    return chr(byte) if _KEPT.fullmatch(chr(byte)) else f"={byte:02X}"


def node_id_of(name: str) -> str | None:
    """Return the node id in an instance's name; ``None`` if it is no such name."""
    found = _INSTANCE.fullmatch(name)
    if not found:
        return None
    raw = re.sub(rb"=([0-9A-F]{2})", lambda escape: bytes.fromhex(escape[1].decode()), found[1].encode())
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def node_key(name: str) -> str:
    """Return the key of what an instance says of itself."""
    return f"node/{name}"


def lease_key(name: str) -> str:
    """Return the key of an instance's lease."""
    return f"lease/{name}"


def shard_key(shard: int) -> str:
    """Return the key of a shard's ownership."""
    return f"shard/{shard}"


def shard_of(key: str) -> int | None:
    """Return the shard whose key it is; ``None`` if it is another record's."""
    found = _SHARD.fullmatch(key)
    return int(found[1]) if found else None
