"""Keys: every node id has one, and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clstr._membership.keys import instance, lease_key, node_id_of, node_key, shard_key, shard_of
from clstr.spi import Swap, Version

printable = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)


@settings(deadline=None)
@given(node_id=printable, generation=st.integers(0, 2**53 - 1))
def test_every_node_id_comes_back_from_a_key_that_every_store_takes(node_id: str, generation: int) -> None:
    name = instance(node_id, generation)
    assert node_id_of(name) == node_id
    assert Swap(lease_key(name), Version.absent("h"), b"").key == f"lease/{name}"
    assert node_key(name) == f"node/{name}"


def test_the_longest_node_id_has_a_key() -> None:
    assert len(Swap(lease_key(instance("é" * 126, 2**53 - 1)), Version.absent("h"), b"").key) == 779
    with pytest.raises(ValueError, match="a node id has 254 bytes, at most 253"):
        instance("é" * 127, 1)


@pytest.mark.parametrize("name", ["", "a", ".1", "a.", "a.x", "a b.1", "a=2.1", "a=zz.1", "=FF.1", "a.1.2", "a/b.1"])
def test_what_names_no_instance_has_no_node_id(name: str) -> None:
    assert node_id_of(name) is None


@pytest.mark.parametrize("shard", [0, 7, 16_383])
def test_a_shard_comes_back_from_its_key(shard: int) -> None:
    assert shard_of(shard_key(shard)) == shard


@pytest.mark.parametrize("key", ["shard/", "shard/07", "shard/-1", "shard/1x", "node/1", "shard/1/2"])
def test_other_keys_are_no_shards(key: str) -> None:
    assert shard_of(key) is None
