"""When a plan is due, who makes it, and which shards move now."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from clstr._membership.placement import Candidate, Plan, Rendezvous, make_plan
from clstr._membership.planning import PlanningOptions, due_in, next_moves, planner_delay

OPTIONS = PlanningOptions(settle=1.0, min_nodes=3, moves_in_flight=2)
A, B, C = (Candidate(node_id=each) for each in "abc")
PLAN = make_plan(Rendezvous(), [A, B], None, 8)


def due(
    members: list[Candidate], plan: Plan | None = PLAN, *, unchanged: float = 0.0, waited: float = 0.0
) -> float | None:
    return due_in(members, plan, unchanged_for=unchanged, waited=waited, options=OPTIONS)


def test_a_plan_of_the_present_members_is_not_due() -> None:
    assert due([B, A]) is None


def test_a_loss_is_planned_at_once() -> None:
    """Even if somebody has just joined."""
    assert due([A]) == 0
    assert due([A, C]) == 0


@pytest.mark.parametrize(("unchanged", "wait"), [(0.0, 1.0), (0.75, 0.25), (1.0, 0.0), (9.0, 0.0)])
def test_joins_settle_into_one_plan(unchanged: float, wait: float) -> None:
    assert due([A, B, C], unchanged=unchanged) == wait


def test_a_node_that_changes_is_planned_after_settling() -> None:
    assert due([A, Candidate(node_id="b", is_cordoned=True)], unchanged=0.5) == 0.5


def test_the_first_plan_waits_for_min_nodes_but_not_for_ever() -> None:
    assert due([A, B], None, unchanged=5.0, waited=10.0) == 20.0
    assert due([A, B], None, unchanged=5.0, waited=30.0) == 0.0
    assert due([A, B, C], None, unchanged=0.5, waited=10.0) == 0.5


def test_later_plans_do_not_wait_for_min_nodes() -> None:
    assert due([A]) == 0


def test_nobody_plans_for_nobody() -> None:
    assert due([], None) is None
    assert due([]) is None


def test_one_node_plans_at_once_and_the_others_after_it() -> None:
    """Which one changes with the plan's version."""
    firsts = set()
    for version in range(20):
        delays = {each.node_id: planner_delay(each.node_id, [A, B, C], version) for each in (A, B, C)}
        assert sorted(delays.values()) == pytest.approx([0.0, 0.2, 0.4])
        firsts.add(min(delays, key=lambda node: delays[node]))
    assert firsts == {"a", "b", "c"}


MOVES = Plan(members=(A, B, C), owners=("b", "a", "c", "b", "b", "b"))


def moves(draining: set[int], active: set[str], owned: Iterable[int] = range(6)) -> list[int]:
    return next_moves("a", MOVES, owned=owned, draining=draining, active=active, options=OPTIONS)


def test_a_node_drains_a_few_shards_at_a_time() -> None:
    assert moves(set(), {"b", "c"}) == [0, 2]
    assert moves({0}, {"b", "c"}) == [2]
    assert moves({0, 2}, {"b", "c"}) == []
    assert moves({0, 2, 3}, {"b", "c"}) == []


def test_a_shard_stays_until_its_next_owner_is_active() -> None:
    assert moves(set(), {"b"}) == [0, 3]
    assert moves(set(), set()) == []


def test_only_what_is_owned_moves() -> None:
    assert moves(set(), {"b", "c"}, {1, 4}) == [4]


def test_a_shard_that_no_plan_knows_stays() -> None:
    assert moves(set(), {"b", "c"}, {99}) == []
