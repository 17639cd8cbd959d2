"""Plans: the same everywhere, within their bounds, and with as few moves as there can be."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clstr import Assignment
from clstr._membership.placement import (
    SLICE,
    Balanced,
    Candidate,
    Plan,
    Rendezvous,
    Scores,
    Strategy,
    Wishes,
    make_plan,
)

SHARDS = 40
examples = settings(max_examples=25, deadline=None)
names = st.text("abcdef-0123", min_size=1, max_size=6)
some_nodes = st.sets(names, min_size=1, max_size=9)
limits = st.sampled_from([1.0, 1.05, 1.1, 1.5, 3.0])
seeds = st.sampled_from(["", "blue"])


def nodes(*ids: str, weight: float = 1.0) -> list[Candidate]:
    return [Candidate(node_id=each, weight=weight) for each in ids]


def numbered(count: int) -> list[Candidate]:
    return nodes(*(f"node-{number}" for number in range(count)))


def load(plan: Plan) -> dict[str, int]:
    return {each.node_id: plan.owners.count(each.node_id) for each in plan.members}


def slices(strategy: Strategy, members: list[Candidate], current: Plan | None, num_shards: int) -> list[int]:
    return list(strategy.slices(members, current, num_shards))


@examples
@given(ids=some_nodes, seed=seeds, weight=st.sampled_from([0.5, 1.0, 7.0]))
def test_rendezvous_is_the_assignment_that_go_makes(ids: set[str], seed: str, weight: float) -> None:
    plan = make_plan(Rendezvous(), nodes(*ids, weight=weight), None, SHARDS, seed)
    assignment = Assignment.of(ids, SHARDS, seed)
    assert plan.owners == tuple(map(assignment.owner, range(SHARDS)))


@examples
@given(before=some_nodes, after=some_nodes, seed=seeds)
def test_rendezvous_moves_exactly_what_the_assignment_moves(before: set[str], after: set[str], seed: str) -> None:
    """From one set of nodes to any other."""
    old = make_plan(Rendezvous(), nodes(*before), None, SHARDS, seed)
    new = make_plan(Rendezvous(), nodes(*after), old, SHARDS, seed)
    assert old.moved(new) == Assignment.of(before, SHARDS, seed).moved(Assignment.of(after, SHARDS, seed))


candidates = st.builds(
    Candidate,
    node_id=names,
    weight=st.sampled_from([0.5, 1.0, 2.0]),
    zone=st.sampled_from(["", "east", "west"]),
    is_cordoned=st.booleans(),
)
clusters = st.lists(candidates, min_size=1, max_size=7, unique_by=lambda each: each.node_id)
wishes = st.builds(
    Wishes,
    pins=st.dictionaries(st.integers(0, SHARDS - 1), names, max_size=5),
    zones=st.dictionaries(st.integers(0, SHARDS - 1), st.sampled_from(["east", "west", "mars"]), max_size=20),
)


@examples
@given(stages=st.lists(st.tuples(clusters, wishes), min_size=2, max_size=4))
def test_rendezvous_from_the_present_plan_is_rendezvous_from_nothing(
    stages: list[tuple[list[Candidate], Wishes]],
) -> None:
    """Except for what cordoned nodes keep, whatever weights, zones, pins and cordons were before."""
    plan: Plan | None = None
    for members, wished in stages:
        strategy = Rendezvous(wishes=wished)
        before = plan
        plan = make_plan(strategy, members, before, SHARDS)
        fresh = make_plan(strategy, members, None, SHARDS)
        cordoned = {each.node_id for each in members if each.is_cordoned} if not all_cordoned(members) else set()
        kept = before or fresh
        for shard in range(SHARDS):
            if plan.owners[shard] != fresh.owners[shard]:
                assert plan.owners[shard] == kept.owners[shard]
                assert plan.owners[shard] in cordoned


def all_cordoned(members: list[Candidate]) -> bool:
    return all(each.is_cordoned for each in members)


@examples
@given(members=clusters, wished=wishes, before=clusters, limit=limits)
def test_plans_do_not_depend_on_the_order_of_members(
    members: list[Candidate], wished: Wishes, before: list[Candidate], limit: float
) -> None:
    for strategy in (Rendezvous(wishes=wished), Balanced(limit=limit, wishes=wished)):
        current = make_plan(strategy, before, None, SHARDS)
        assert make_plan(strategy, members, current, SHARDS) == make_plan(strategy, members[::-1], current, SHARDS)


@examples
@given(members=clusters, wished=wishes, before=clusters, limit=limits)
def test_a_plan_of_the_present_members_moves_nothing(
    members: list[Candidate], wished: Wishes, before: list[Candidate], limit: float
) -> None:
    """Two nodes that plan one after the other agree, and nothing moves twice."""
    for strategy in (Rendezvous(wishes=wished), Balanced(limit=limit, wishes=wished)):
        current = make_plan(strategy, members, make_plan(strategy, before, None, SHARDS), SHARDS)
        assert make_plan(strategy, members, current, SHARDS).moved(current) == {}


@examples
@given(members=clusters, wished=wishes, before=clusters)
def test_pins_zones_and_cordons_are_kept(members: list[Candidate], wished: Wishes, before: list[Candidate]) -> None:
    zones = {each.node_id: each.zone for each in members}
    able = {each.node_id for each in members if not each.is_cordoned} or zones.keys()
    for strategy in (Rendezvous(wishes=wished), Balanced(wishes=wished)):
        current = make_plan(strategy, before, None, SHARDS)
        plan = make_plan(strategy, members, current, SHARDS)
        for shard, owner in enumerate(plan.owners):
            pin, zone = wished.pins.get(shard), wished.zones.get(shard)
            if pin in zones:
                assert owner == pin
            elif owner not in able:
                assert owner == current.owners[shard]
            elif zone in {zones[node] for node in able} and isinstance(strategy, Rendezvous):
                assert zones[owner] == zone


def bounds(members: list[Candidate], limit: float) -> tuple[dict[str, int], dict[str, int]]:
    share = SHARDS / sum(each.weight for each in members)
    most = {each.node_id: math.ceil(limit * share * each.weight - 1e-9) for each in members}
    least = {each.node_id: math.floor(share * each.weight / limit + 1e-9) for each in members}
    return most, least


open_clusters = st.lists(
    st.builds(Candidate, node_id=names, weight=st.sampled_from([0.5, 1.0, 2.0])),
    min_size=1,
    max_size=9,
    unique_by=lambda each: each.node_id,
)


@examples
@given(stages=st.lists(open_clusters, min_size=1, max_size=4), limit=limits)
def test_balanced_keeps_its_bounds_and_moves_as_few_shards_as_it_can(
    stages: list[list[Candidate]], limit: float
) -> None:
    """What has no owner or is too many must move; what is too few must come, from those if there are enough."""
    plan = make_plan(Balanced(limit=limit), stages[0], None, SHARDS)
    for members in stages:
        before, plan = plan, make_plan(Balanced(limit=limit), members, plan, SHARDS)
        most, least = bounds(members, limit)
        counts = load(plan)
        assert all(least[node] <= count <= most[node] for node, count in counts.items())
        held = {node: before.owners.count(node) for node in most}
        leaving = SHARDS - sum(held.values()) + sum(max(0, held[node] - most[node]) for node in held)
        lacking = sum(max(0, least[node] - held[node]) for node in held)
        assert len(before.moved(plan)) == max(leaving, lacking)


def test_balanced_spreads_what_rendezvous_leaves_uneven() -> None:
    """Plain rendezvous gives 4 to 14 of 64 shards to each of seven nodes."""
    members = numbered(7)
    uneven = load(make_plan(Rendezvous(), members, None, 64)).values()
    even = load(make_plan(Balanced(), members, None, 64)).values()
    assert max(uneven) - min(uneven) > 5
    assert min(even) >= 8
    assert max(even) <= 11


def test_weights_are_shares() -> None:
    members = [*nodes("a", "b"), Candidate(node_id="c", weight=2.0)]
    plan = make_plan(Rendezvous(), members, None, 40_000)
    assert {node: round(count / 1000) for node, count in load(plan).items()} == {"a": 10, "b": 10, "c": 20}


def test_a_digest_that_is_all_ones_has_a_weight() -> None:
    assert Scores._weigh(b"\xff" * 8, 2.0) > Scores._weigh(b"\xfe" * 8, 2.0) > Scores._weigh(b"\x00" * 8, 2.0) > 0


@pytest.mark.parametrize("num_shards", [4096, 16_384])
def test_a_join_into_a_hundred_nodes_is_planned_in_slices(num_shards: int) -> None:
    """No slice is longer than a bounded number of steps, and all together are a few for each shard."""
    old = make_plan(Rendezvous(), numbered(100), None, num_shards)
    work = slices(Rendezvous(), numbered(101), old, num_shards)
    assert max(work) < SLICE + 101  # what one shard takes comes on top
    assert sum(work) == 3 * num_shards  # its turn, its owner's digest and the new node's


def test_a_loss_among_a_hundred_nodes_computes_the_lost_shards_alone() -> None:
    old = make_plan(Rendezvous(), numbered(100), None, 4096)
    lost = load(old)["node-99"]
    assert sum(slices(Rendezvous(), numbered(99), old, 4096)) == 4096 + 99 * lost


@pytest.mark.parametrize("count", [99, 101])
def test_balanced_is_planned_in_slices_too(count: int) -> None:
    old = make_plan(Balanced(), numbered(100), None, 4096)
    assert max(slices(Balanced(), numbered(count), old, 4096)) < SLICE + 101


@examples
@given(ids=some_nodes)
def test_a_plan_of_another_number_of_shards_is_none(ids: set[str]) -> None:
    old = make_plan(Rendezvous(), nodes(*ids), None, 8)
    for strategy in (Rendezvous(), Balanced()):
        assert make_plan(strategy, nodes(*ids), old, 16) == make_plan(strategy, nodes(*ids), None, 16)


@pytest.mark.parametrize("members", [[], nodes("a", "a")])
def test_a_plan_needs_nodes_with_names_of_their_own(members: list[Candidate]) -> None:
    with pytest.raises(ValueError, match="at least one node, and no two with one id"):
        make_plan(Rendezvous(), members, None, 8)


@pytest.mark.parametrize("weight", [0.0, -1.0, 0.009, 100.1, math.inf, math.nan])
def test_a_weight_is_bounded(weight: float) -> None:
    with pytest.raises(ValueError, match=r"weight must be 0\.01 to 100\.0"):
        Candidate(node_id="a", weight=weight)


@pytest.mark.parametrize("limit", [0.99, 10.1, math.nan])
def test_a_limit_is_bounded(limit: float) -> None:
    with pytest.raises(ValueError, match="limit must be 1 to 10"):
        Balanced(limit=limit)
