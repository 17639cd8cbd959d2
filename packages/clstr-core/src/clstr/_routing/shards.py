"""What a shard's number may be."""

from __future__ import annotations

from clstr._routing.hashing import MAX_SHARDS


def check_shard(shard: object, num_shards: int | None) -> int:
    """Return ``shard``; `TypeError` or `ValueError` unless it is an int that a cluster of ``num_shards`` has."""
    if not isinstance(shard, int) or isinstance(shard, bool):
        raise TypeError(f"shard must be an int, not {shard!r}")
    if not 0 <= shard < (num_shards or MAX_SHARDS):
        bound = f"0 to {(num_shards or MAX_SHARDS) - 1}"
        known = "" if num_shards is None else f" with num_shards={num_shards}"
        raise ValueError(f"shard {shard} is out of range: it must be {bound}{known}")
    return shard
