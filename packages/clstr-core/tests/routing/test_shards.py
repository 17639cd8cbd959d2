"""`clstr._routing.shards`: what a shard's number may be."""

from __future__ import annotations

import pytest

from clstr._routing.hashing import MAX_SHARDS
from clstr._routing.shards import check_shard


@pytest.mark.parametrize(("shard", "num_shards"), [(0, 1), (63, 64), (0, None), (MAX_SHARDS - 1, None)])
def test_a_shard_of_the_cluster_is_returned(shard: int, num_shards: int | None) -> None:
    assert check_shard(shard, num_shards) == shard


@pytest.mark.parametrize("shard", ["1", 1.0, None, True], ids=repr)
def test_a_shard_is_an_int(shard: object) -> None:
    with pytest.raises(TypeError, match=f"shard must be an int, not {shard!r}"):
        check_shard(shard, 64)


@pytest.mark.parametrize(
    ("shard", "num_shards", "message"),
    [
        (-1, 64, "shard -1 is out of range: it must be 0 to 63 with num_shards=64$"),
        (64, 64, "shard 64 is out of range: it must be 0 to 63 with num_shards=64$"),
        (MAX_SHARDS, None, f"out of range: it must be 0 to {MAX_SHARDS - 1}$"),
    ],
)
def test_a_shard_out_of_range_is_told_the_range(shard: int, num_shards: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_shard(shard, num_shards)
