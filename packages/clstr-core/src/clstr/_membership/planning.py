"""When a new plan is due, who makes it, and which shards move now: decisions that take the time as an argument."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from clstr._membership.placement import Candidate, Plan, Scores, changes, ordered

PLANNER_DELAY = 0.2  # seconds between the nodes that may plan: the first does it, unless it is slow or gone
MIN_NODES_WAIT = 30.0  # seconds that the first plan waits for `min_nodes` at most: a node that never comes stops nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanningOptions:
    """
    How plans are made.

    Attributes:
        settle: Seconds that joins wait for further ones, so that several starters are one plan. Losses do not wait.
        min_nodes: Nodes that the very first plan waits for, at most 30 seconds.
        moves_in_flight: Shards that one node drains at a time.
    """

    settle: float = 1.0
    min_nodes: int = 1
    moves_in_flight: int = 8


def due_in(
    members: Collection[Candidate], plan: Plan | None, *, unchanged_for: float, waited: float, options: PlanningOptions
) -> float | None:
    """
    Return the seconds until a new plan is due; 0 is now, ``None`` is never as things are.

    Args:
        members: The nodes that are active.
        plan: The present plan.
        unchanged_for: Seconds for which ``members`` has been as it is.
        waited: Seconds since this node was first ready to plan.
        options: How plans are made.
    """
    if not members:
        return None
    if plan is None:
        return _first_due_in(len(members), unchanged_for, waited, options)
    present = {each.node_id for each in members}
    if any(each.node_id not in present for each in plan.members):
        return 0.0
    return max(0.0, options.settle - unchanged_for) if changes(members, plan) else None


def _first_due_in(count: int, unchanged_for: float, waited: float, options: PlanningOptions) -> float:
    until_settled = max(0.0, options.settle - unchanged_for)
    if count >= options.min_nodes:
        return until_settled
    return max(until_settled, MIN_NODES_WAIT - waited)


def planner_delay(node_id: str, members: Iterable[Candidate], version: int, seed: str = "") -> float:
    """
    Return the seconds that ``node_id`` waits before it makes a plan that is due.

    The nodes come in rendezvous order of the plan's version, so that the work is not always the same node's. Two that
    plan at once do no harm: one plan is kept.
    """
    members = list(members)
    order = ordered(Scores(members, seed).of(version, [each.node_id for each in members]))
    return PLANNER_DELAY * order.index(node_id)


def next_moves(
    node_id: str,
    plan: Plan,
    *,
    owned: Iterable[int],
    draining: Collection[int],
    active: Collection[str],
    options: PlanningOptions,
) -> list[int]:
    """
    Return the shards that ``node_id`` begins to drain now, in order.

    Args:
        node_id: The node that asks.
        plan: The present plan.
        owned: The shards that it owns.
        draining: Those of them that it drains already.
        active: The nodes that can take a shard: the others would leave it without an owner.
        options: How plans are made.
    """
    room = options.moves_in_flight - len(draining)
    owners: Mapping[int, str] = dict(enumerate(plan.owners))
    leaving = (shard for shard in sorted(owned) if shard not in draining and owners.get(shard, node_id) != node_id)
    return [shard for shard in leaving if owners[shard] in active][: max(0, room)]
