"""Records come back as they went; what cannot be read is said to be so, and never raises."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clstr._membership.records import (
    MAX_EPOCH,
    ClusterRecord,
    LeaseRecord,
    NodeRecord,
    ShardRecord,
    Unreadable,
    read,
    write,
)

CLUSTER = ClusterRecord(name="orders", num_shards=256, seed="s", protocols=(1, 2), max_lease_ms=4650, settled="h")
NODE = NodeRecord(state="active", inbox="i", weight=2.0, zone="z", tags={"a": "b"}, app_version="3")
LEASE = LeaseRecord(beat=7, lease_ms=4650)
SHARD = ShardRecord(owner="a.1", epoch=MAX_EPOCH, next="b.2")


def test_records_come_back() -> None:
    assert read(ClusterRecord, write(CLUSTER)) == CLUSTER
    assert read(NodeRecord, write(NODE)) == NODE
    assert read(LeaseRecord, write(LEASE)) == LEASE
    assert read(ShardRecord, write(SHARD)) == SHARD


def test_fields_of_a_later_version_are_skipped() -> None:
    assert read(ShardRecord, b'{"v":1,"epoch":3,"mood":"good"}') == ShardRecord(epoch=3)


def test_a_newer_format_is_a_strangers() -> None:
    assert read(ShardRecord, b'{"v":2,"epoch":3}') == Unreadable("format 2, and only 1 is known: upgrade this node")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (CLUSTER, {"num_shards": 0}),
        (CLUSTER, {"num_shards": 2**32}),
        (CLUSTER, {"max_lease_ms": 0}),
        (CLUSTER, {"max_lease_ms": 600_001}),
        (CLUSTER, {"name": "x" * 1025}),
        (NODE, {"state": "asleep"}),
        (NODE, {"weight": 0.001}),
        (NODE, {"weight": 101.0}),
        (NODE, {"tags": {str(number): "" for number in range(65)}}),
        (LEASE, {"lease_ms": 600_001}),
        (LEASE, {"beat": -1}),
        (SHARD, {"epoch": MAX_EPOCH + 1}),
        (SHARD, {"epoch": -1}),
        (SHARD, {"epoch": 1.5}),
    ],
)
def test_what_is_out_of_bounds_cannot_be_read(
    kind: ClusterRecord | NodeRecord | LeaseRecord | ShardRecord, changes: dict[str, object]
) -> None:
    value = msgspec.json.encode({**msgspec.structs.asdict(kind), **changes})
    assert isinstance(read(type(kind), value), Unreadable)  # type: ignore[type-var]  # each kind is one of the four


@settings(deadline=None)
@given(value=st.binary(max_size=200) | st.text().map(str.encode))
def test_garbage_never_raises(value: bytes) -> None:
    for kind in (ClusterRecord, NodeRecord, LeaseRecord, ShardRecord):
        assert isinstance(read(kind, value), Unreadable)  # type: ignore[type-var]  # each kind is one of the four


@pytest.mark.parametrize("value", [b"", b"null", b"[]", b"{}", b"[" * 100_000, b'{"v":1}', b"\xff", b'{"v":"1"}'])
def test_garbage_that_is_nearly_json_never_raises(value: bytes) -> None:
    found = read(ShardRecord, value)
    assert isinstance(found, Unreadable)
    assert 0 < len(found.why) <= 200
