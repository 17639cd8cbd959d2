"""Keys to shards and shards to nodes: the same numbers as the Go package, minimal moves, clear refusals."""

import json
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clstr._routing import hashing as _hashing
from clstr._routing.hashing import Assignment, assign_shards, check_node_id, shard_for_key, shards_for_node


class KeyVector(NamedTuple):
    key: str
    num_shards: int
    seed: str
    shard: int


class NodeVector(NamedTuple):
    node_ids: list[str]
    num_shards: int
    seed: str
    owned: dict[str, list[int]]


VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "hashing.json").read_text(encoding="utf-8"))
KEYS = [KeyVector(**vector) for vector in VECTORS["shard_from_string"]]
NODES = [NodeVector(**vector) for vector in VECTORS["shards_for_node"]]

# Text that clstr takes as a name: printable, and what controls are left out of it.
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
clusters = st.lists(names, min_size=1, max_size=6, unique=True)
shard_counts = st.integers(1, 40)


@pytest.fixture
def digests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The node ids whose weights are computed, one for each digest."""
    computed: list[str] = []
    scores = _hashing._scores

    def count(prefix: blake2b, nodes: Sequence[bytes]) -> list[bytes]:
        computed.extend(node.decode() for node in nodes)
        return scores(prefix, nodes)

    monkeypatch.setattr(_hashing, "_scores", count)
    return computed


def test_the_vectors_are_all_there() -> None:
    assert (len(KEYS), len(NODES)) == (89, 39)


@pytest.mark.parametrize("number", range(len(KEYS)))
def test_a_key_has_the_shard_that_go_computes(number: int) -> None:
    key, num_shards, seed, shard = KEYS[number]
    assert shard_for_key(key, num_shards, seed) == shard


@pytest.mark.parametrize("number", range(len(NODES)))
def test_nodes_own_the_shards_that_go_computes(number: int) -> None:
    node_ids, num_shards, seed, owned = NODES[number]
    assert assign_shards(node_ids, num_shards, seed) == owned
    assert {node: shards_for_node(node, node_ids, num_shards, seed) for node in node_ids} == owned


def test_the_seed_is_empty_unless_given() -> None:
    assert shard_for_key("user-123", 64) == 7
    assert shards_for_node("node-2", ["node-1", "node-2", "node-3"], 16) == [3, 6, 7, 14, 15]
    assert assign_shards(["node-1", "node-2", "node-3"], 16)["node-3"] == [1, 5, 8, 10, 13]
    assert Assignment.of(["node-2"], 1).seed == ""


@given(st.text(), st.integers(1, 2**32 - 1))
def test_every_text_has_a_shard_in_range(key: str, num_shards: int) -> None:
    assert 0 <= shard_for_key(key, num_shards, "seed") < num_shards


@pytest.mark.parametrize("key", ["", "a\0b", "line\nbreak"])
def test_empty_keys_and_control_characters_hash(key: str) -> None:
    assert shard_for_key(key, 64) == int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") % 64


def test_a_seed_that_was_used_before_still_counts() -> None:
    """The hasher that has read the seed is shared: a key must not leave anything in it."""
    assert len({shard_for_key("user-123", 2**32 - 1, "seed") for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("num_shards", "error", "fact"),
    [
        (0, ValueError, "num_shards must be between 1 and 4294967295, not 0"),
        (-1, ValueError, "not -1"),
        (2**32, ValueError, "not 4294967296"),
        (True, TypeError, "num_shards must be an int, not True"),
        (64.0, TypeError, "not 64.0"),
        ("64", TypeError, "not '64'"),
        (None, TypeError, "not None"),
    ],
)
def test_a_wrong_number_of_shards_is_refused(num_shards: Any, error: type[Exception], fact: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: shard_for_key("key", num_shards),
        lambda: shards_for_node("a", ["a"], num_shards),
        lambda: assign_shards(["a"], num_shards),
        lambda: Assignment.of(["a"], num_shards),
    ]
    for call in calls:
        with pytest.raises(error) as caught:
            call()
        assert fact in str(caught.value)


@pytest.mark.parametrize("key", [None, 7, b"key"])
def test_a_key_that_is_no_str_is_refused(key: Any) -> None:
    with pytest.raises(TypeError, match=f"key must be a str, not {type(key).__name__}"):
        shard_for_key(key, 64)


def test_a_key_with_a_lone_surrogate_is_refused_without_being_quoted() -> None:
    with pytest.raises(ValueError, match=r"^key holds a lone surrogate at index 7, which has no UTF-8") as caught:
        shard_for_key("private\ud800", 64)
    assert "private" not in str(caught.value)


@pytest.mark.parametrize("seed", [None, 7, b"seed", ["seed"]])
def test_a_seed_that_is_no_str_is_refused(seed: Any) -> None:
    with pytest.raises(TypeError, match=f"seed must be a str, not {type(seed).__name__}"):
        shard_for_key("key", 64, seed)
    with pytest.raises(TypeError, match="seed must be a str"):
        Assignment.of(["a"], 1, seed)


@pytest.mark.parametrize("seed", ["a\0b", "a\n", "\ud800"])
def test_a_seed_with_control_characters_is_refused(seed: str) -> None:
    """With NUL in it, seed and key would run into each other: ("a", "b") and ("", "a NUL b") hash alike."""
    with pytest.raises(ValueError, match=r"seed .* holds control characters"):
        shard_for_key("key", 64, seed)
    with pytest.raises(ValueError, match=r"seed .* holds control characters"):
        assign_shards(["a"], 64, seed)


@pytest.mark.parametrize(
    ("node_ids", "error", "fact"),
    [
        ([], ValueError, "node_ids is empty"),
        (["a", ""], ValueError, "a node id is empty"),
        (["a", "b", "a"], ValueError, "node id 'a' is there twice"),
        (["a", "b\n"], ValueError, "node id 'b\\n' holds control characters"),
        (["a", "\ud800"], ValueError, "lone surrogates"),
        (["a", 7], TypeError, "a node id must be a str, not 7"),
        (["a", None], TypeError, "not None"),
        ("abc", TypeError, "not one str: write ['abc']"),
        (b"abc", TypeError, "not one bytes"),
    ],
)
def test_wrong_node_ids_are_refused(node_ids: Any, error: type[Exception], fact: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: shards_for_node("a", node_ids, 8),
        lambda: assign_shards(node_ids, 8),
        lambda: Assignment.of(node_ids, 8),
    ]
    for call in calls:
        with pytest.raises(error) as caught:
            call()
        assert fact in str(caught.value)


def test_one_node_id_can_be_checked_alone() -> None:
    check_node_id("node-☃")
    with pytest.raises(ValueError, match="a node id is empty"):
        check_node_id("")


def test_the_shards_of_a_node_that_is_not_listed_are_an_error() -> None:
    """The Go package answers with an empty list, and the node serves nobody."""
    with pytest.raises(ValueError, match=r"node 'c' is not in node_ids \(a, b\): add it, or correct its name"):
        shards_for_node("c", ["a", "b"], 8)


def test_node_ids_may_come_from_any_iterable() -> None:
    assert assign_shards((node for node in ["b", "a"]), 8) == assign_shards({"a": 1, "b": 2}, 8)


def test_assigned_nodes_keep_their_order_and_nodes_without_shards_are_there() -> None:
    owned = assign_shards(["node-c", "node-a", "node-b"], 1)
    assert list(owned) == ["node-c", "node-a", "node-b"]
    assert sorted(owned.values()) == [[], [], [0]]


@given(clusters, shard_counts, names)
def test_each_shard_has_one_owner_and_every_function_agrees(nodes: list[str], num_shards: int, seed: str) -> None:
    assignment = Assignment.of(nodes, num_shards, seed)
    owned = assign_shards(nodes, num_shards, seed)
    assert sorted(shard for shards in owned.values() for shard in shards) == list(range(num_shards))
    for node, shards in owned.items():
        assert shards == sorted(shards)
        assert shards == assignment.shards(node) == shards_for_node(node, nodes, num_shards, seed)
        assert all(assignment.owner(shard) == node for shard in shards)


@given(clusters, shard_counts, st.randoms(use_true_random=False))
def test_the_order_of_the_nodes_does_not_matter(nodes: list[str], num_shards: int, random: Any) -> None:
    shuffled = random.sample(nodes, len(nodes))
    assert assign_shards(nodes, num_shards) == assign_shards(shuffled, num_shards)
    assert Assignment.of(nodes, num_shards) == Assignment.of(shuffled, num_shards)
    assert Assignment.of(shuffled, num_shards).nodes == tuple(sorted(nodes))


@given(clusters, shard_counts, names)
def test_a_join_moves_shards_to_the_new_node_alone(nodes: list[str], num_shards: int, newcomer: str) -> None:
    before = Assignment.of([node for node in nodes if node != newcomer] or ["only"], num_shards, "seed")
    if newcomer in before.nodes:
        return
    after = before.join(newcomer)
    assert after == Assignment.of((*before.nodes, newcomer), num_shards, "seed")
    assert [after.owner(shard) for shard in range(num_shards)] == owners(after.nodes, num_shards, "seed")
    moved = before.moved(after)
    assert sorted(moved) == after.shards(newcomer)
    assert all(new == newcomer and old == before.owner(shard) for shard, (old, new) in moved.items())


@given(st.lists(names, min_size=2, max_size=6, unique=True), shard_counts)
def test_a_leave_moves_the_leavers_shards_alone(nodes: list[str], num_shards: int) -> None:
    before = Assignment.of(nodes, num_shards)
    after = before.leave(nodes[0])
    assert after == Assignment.of(nodes[1:], num_shards)
    assert [after.owner(shard) for shard in range(num_shards)] == owners(nodes[1:], num_shards, "")
    moved = before.moved(after)
    assert sorted(moved) == before.shards(nodes[0])
    assert all(old == nodes[0] and new == after.owner(shard) for shard, (old, new) in moved.items())


def owners(nodes: list[str] | tuple[str, ...], num_shards: int, seed: str) -> list[str]:
    """The rule in its plainest form, to compare with."""

    def weight(shard: int, node: str) -> int:
        text = (f"{seed}\0" if seed else "") + f"shard:{shard}\0{node}"
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")

    return [max(sorted(nodes), key=lambda node: weight(shard, node)) for shard in range(num_shards)]


def test_a_leave_undoes_a_join() -> None:
    before = Assignment.of(["a", "b"], 64)
    assert before.moved(before.join("c").leave("c")) == {}


def test_an_assignment_costs_one_digest_per_shard_and_node(digests: list[str]) -> None:
    Assignment.of(["a", "b", "c"], 32)
    assert len(digests) == 3 * 32


def test_a_join_costs_one_digest_per_shard(digests: list[str]) -> None:
    before = Assignment.of(["a", "b", "c"], 32)
    digests.clear()
    before.join("d")
    assert digests == ["d"] * 32


def test_a_leave_costs_digests_for_the_leavers_shards_alone(digests: list[str]) -> None:
    before = Assignment.of(["a", "b", "c"], 32)
    digests.clear()
    before.leave("b")
    assert digests == ["a", "c"] * len(before.shards("b"))
    assert digests


@pytest.mark.parametrize("newcomer", ["a", "z"])
def test_of_equal_weights_the_node_that_sorts_first_owns(monkeypatch: pytest.MonkeyPatch, newcomer: str) -> None:
    """As in the Go package, where a weight wins only if it is strictly greater; whoever joins last."""
    monkeypatch.setattr(_hashing, "_scores", lambda prefix, nodes: [bytes(8)] * len(nodes))
    assignment = Assignment.of(["c", "b"], 2).join(newcomer)
    assert [assignment.owner(shard) for shard in range(2)] == [min("b", newcomer)] * 2
    assert assign_shards(["c", "b", newcomer], 2)[min("b", newcomer)] == [0, 1]


def test_joining_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="node id 'a' is there twice"):
        Assignment.of(["a"], 8).join("a")


def test_leaving_without_being_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="node 'b' is not in node_ids"):
        Assignment.of(["a"], 8).leave("b")


def test_the_last_node_cannot_leave() -> None:
    with pytest.raises(ValueError, match="a shard needs a node that owns it"):
        Assignment.of(["a"], 8).leave("a")


@pytest.mark.parametrize(
    ("shard", "error", "fact"),
    [
        (8, ValueError, "shard must be between 0 and 7, not 8"),
        (-1, ValueError, "not -1"),
        (True, TypeError, "shard must be an int, not True"),
        ("1", TypeError, "not '1'"),
    ],
)
def test_a_shard_that_is_not_there_has_no_owner(shard: Any, error: type[Exception], fact: str) -> None:
    with pytest.raises(error, match=fact):
        Assignment.of(["a"], 8).owner(shard)


def test_assignments_of_different_sizes_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="cannot compare 8 with 16 shards"):
        Assignment.of(["a"], 8).moved(Assignment.of(["a"], 16))


def test_a_changed_seed_shows_as_moves() -> None:
    moved = Assignment.of(["a", "b"], 32, "one").moved(Assignment.of(["a", "b"], 32, "two"))
    assert moved
    assert set(moved.values()) <= {("a", "b"), ("b", "a")}


def test_an_assignment_shows_its_facts_and_is_frozen() -> None:
    assignment = Assignment.of(["b", "a"], 8, "seed")
    assert repr(assignment) == "Assignment(nodes=('a', 'b'), num_shards=8, seed='seed')"
    assert (assignment.nodes, assignment.num_shards, assignment.seed) == (("a", "b"), 8, "seed")
    assert hash(assignment) == hash(Assignment.of(["a", "b"], 8, "seed"))
    with pytest.raises(AttributeError):
        assignment.seed = "other"  # type: ignore[misc]  # frozen: that is the test
