"""Plans are made of their seed."""

from __future__ import annotations

import itertools

from chaos.plan import CALM, LOAD_FAULTS, NODE_FAULTS, storms

KINDS = (*NODE_FAULTS, *LOAD_FAULTS)


def test_a_seed_makes_the_same_plan_again() -> None:
    assert list(storms(7, 60, KINDS, 2.0)) == list(storms(7, 60, KINDS[::-1], 2.0))
    assert list(storms(7, 60, KINDS, 2.0)) != list(storms(8, 60, KINDS, 2.0))


def test_between_storms_there_is_time_in_which_nothing_may_fail() -> None:
    plan = list(storms(7, 600, KINDS, 2.0))
    assert len(plan) > 100
    for one, other in itertools.pairwise(plan):
        assert other.at >= one.end + 2.0 + CALM
    assert plan[-1].end + 2.0 + CALM <= 600


def test_a_long_plan_has_every_fault_alone_and_together() -> None:
    plan = list(storms(7, 600, KINDS, 2.0))
    assert {fault.kind for storm in plan for fault in storm.faults} == set(KINDS)
    assert {len(storm.faults) for storm in plan} == {1, 2, 3}
    assert all(len({fault.kind for fault in storm.faults}) == len(storm.faults) for storm in plan)


def test_a_run_that_is_too_short_has_no_storm() -> None:
    assert not list(storms(7, 3, KINDS, 2.0))
    assert not list(storms(7, 60, (), 2.0))
