"""Which servers can be used: what HELLO says of them."""

from __future__ import annotations

import re

OLDEST = (6, 2)
_VERSION = re.compile(r"(\d+)(?:\.(\d+))?")


def why_unusable(hello: object) -> str:
    """Say why the server whose HELLO this is cannot be used; nothing if it takes writes and can."""
    facts = hello if isinstance(hello, dict) else {}
    mode, role, version = (_text(facts.get(name)) for name in (b"mode", b"role", b"version"))
    found = _VERSION.match(version)
    if mode == "cluster":
        return (
            "it is a node of a Redis Cluster, which clstr-redis does not support: use one primary, with Sentinel if it "
            "has to fail over"
        )
    if mode == "sentinel":
        return "it is a sentinel: write redis+sentinel://host,host/service"
    if role in {"replica", "slave"}:
        return "it is a read-only replica: name the primary, or use redis+sentinel://"
    if found is None or role != "master":
        return "it says of itself what no Redis says: is it one, or a proxy?"
    if (int(found[1]), int(found[2] or 0)) < OLDEST:
        return f"it has version {version}: Redis 6.2 is the oldest that can be used"
    return ""


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""
