"""
Which node should own which shard: pure strategies, computed alike on every node.

A plan is a wish and never a right: only a claim says who owns a shard. Each strategy computes a plan from the present
one and moves as little as it can. It is a generator that yields after a bounded number of steps, so that the event
loop can turn between: see `Slices`.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from types import MappingProxyType
from typing import Protocol

from clstr._routing.hashing import check_node_id, check_num_shards, seeded_hasher

SLICE = 4000
"""
Steps of one slice: digests, and shards that are looked at. A step takes 1 to 2 µs on a slow core, so that a slice
blocks the loop for less than 10 ms; the bound is 20.
"""

MIN_WEIGHT, MAX_WEIGHT = 0.01, 100.0  # a cluster whose nodes differ by more than 10,000 times is a mistake in the unit

Slices = Generator[int, None, "Plan"]
"""Yields the steps of each slice, and returns the plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """
    A node that may own shards.

    Attributes:
        node_id: Its id.
        weight: Its share of the shards, relative to the others', 0.01 to 100.
        zone: Where it stands; empty is nowhere in particular.
        is_cordoned: Whether it keeps its shards and gets no more.

    Raises:
        TypeError, ValueError: The id or the weight is out of its bounds.
    """

    node_id: str
    weight: float = 1.0
    zone: str = ""
    is_cordoned: bool = False

    def __post_init__(self) -> None:
        check_node_id(self.node_id)
        if not MIN_WEIGHT <= self.weight <= MAX_WEIGHT:  # not a number fails too
            raise ValueError(f"weight must be {MIN_WEIGHT} to {MAX_WEIGHT}, not {self.weight!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """
    What users say about single shards.

    Attributes:
        pins: The node id that a shard belongs to while that node is a member.
        zones: The zone that a shard belongs to while a node there can take it.
    """

    pins: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    zones: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))


NO_WISHES = Wishes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    Who should own what, and of which nodes it was made.

    Attributes:
        members: The nodes, by id, sorted.
        owners: The node id of each shard.
        wishes: What users said about single shards.
    """

    members: tuple[Candidate, ...]
    owners: tuple[str, ...]
    wishes: Wishes = NO_WISHES

    def moved(self, other: Plan) -> dict[int, tuple[str, str]]:
        """Return what changes from this plan to ``other``: shard -> (owner here, owner there)."""
        pairs = enumerate(zip(self.owners, other.owners, strict=True))
        return {shard: (old, new) for shard, (old, new) in pairs if old != new}


class Strategy(Protocol):
    """Places shards on nodes. Equal arguments give equal plans, in every process."""

    def slices(self, members: Iterable[Candidate], current: Plan | None, num_shards: int, seed: str = "") -> Slices:
        """Compute the plan of ``members`` from the ``current`` one."""


def make_plan(
    strategy: Strategy, members: Iterable[Candidate], current: Plan | None, num_shards: int, seed: str = ""
) -> Plan:
    """Compute a plan at once: for tests, tools and small clusters."""
    slices = strategy.slices(members, current, num_shards, seed)
    while True:
        try:
            next(slices)
        except StopIteration as done:
            plan: Plan = done.value
            return plan


class Scores:
    """
    The nodes' scores for shards: rendezvous hashing, as `clstr.Assignment` does it, with weights.

    With equal weights the digest itself is the score. Otherwise it is ``weight / -ln(u)``, where ``u`` is the digest as
    a number between 0 and 1: each node's share is proportional to its weight, and equal weights give the same order.

    Attributes:
        count: The steps since `take` was called last.
    """

    def __init__(self, members: Iterable[Candidate], seed: str) -> None:
        members = list(members)
        self.count: int = 0
        self._seeded = seeded_hasher(seed)
        self._encoded = {each.node_id: each.node_id.encode() for each in members}
        self._weights = {each.node_id: each.weight for each in members}
        self._is_weighted = len(set(self._weights.values())) > 1

    def take(self) -> int:
        """Return the steps since the last call."""
        count, self.count = self.count, 0
        return count

    def of(self, shard: int, nodes: Iterable[str]) -> list[tuple[float, bytes, str]]:
        """Return a score for each of ``nodes``; the greatest wins, and `best` decides between equal ones."""
        prefix = self._seeded.copy()
        prefix.update(b"shard:%d\0" % shard)
        return [self._score(prefix, node) for node in nodes]

    def _score(self, prefix: blake2b, node: str) -> tuple[float, bytes, str]:
        self.count += 1
        hasher = prefix.copy()
        hasher.update(self._encoded[node])
        digest = hasher.digest()
        return (self._weigh(digest, self._weights[node]) if self._is_weighted else 0.0), digest, node

    @staticmethod
    def _weigh(digest: bytes, weight: float) -> float:
        uniform = (int.from_bytes(digest, "big") + 0.5) / 2.0**64
        return weight / -math.log(min(uniform, 1 - 2.0**-53))  # 1 itself would be divided by zero

    def best(self, shard: int, nodes: Iterable[str]) -> str:
        """Return the node with the greatest score; of equal ones the first in the order of ids, as Go does."""
        return ordered(self.of(shard, nodes))[0]


def ordered(scores: Iterable[tuple[float, bytes, str]]) -> list[str]:
    """Return the nodes of ``scores``, the best first, and equal ones in the order of their ids."""
    by_id = sorted(scores, key=lambda score: score[2])
    return [node for _, _, node in sorted(by_id, key=lambda score: score[:2], reverse=True)]


class Choice:
    """
    Which nodes may own a shard, by the nodes' states and the users' wishes.

    Attributes:
        members: The nodes, by id, sorted.
        open: The ids of those that may get more shards, sorted.
    """

    def __init__(self, members: Iterable[Candidate], num_shards: int, wishes: Wishes) -> None:
        check_num_shards(num_shards)
        self.members = tuple(sorted(members, key=lambda each: each.node_id))
        self._ids = frozenset(each.node_id for each in self.members)
        if not self.members or len(self._ids) < len(self.members):
            raise ValueError("a plan needs at least one node, and no two with one id")
        # A shard needs an owner: if every node is cordoned, none is.
        able = [each for each in self.members if not each.is_cordoned] or self.members
        self.open = tuple(each.node_id for each in able)
        self._open = frozenset(self.open)
        self._zones: dict[str, tuple[str, ...]] = {}
        for each in able:
            self._zones[each.zone] = (*self._zones.get(each.zone, ()), each.node_id)
        self._wishes = wishes

    def pinned(self, shard: int) -> str | None:
        """Return the node that the shard is pinned to, if it is there."""
        node = self._wishes.pins.get(shard)
        return node if node in self._ids else None

    def nodes(self, shard: int) -> tuple[str, ...]:
        """Return the nodes that may get the shard, sorted."""
        pinned = self.pinned(shard)
        if pinned is not None:
            return (pinned,)
        zone = self._wishes.zones.get(shard)
        return self.open if zone is None else self._zones.get(zone, self.open)

    def may_get(self, shard: int, node: str) -> bool:
        """Return whether ``node`` is one of `nodes`."""
        nodes = self.nodes(shard)
        return node in (self._open if nodes is self.open else nodes)

    def is_kept(self, shard: int, owner: str) -> bool:
        """Return whether the owner is cordoned, and keeps the shard: no wish sends it elsewhere."""
        return owner in self._ids and owner not in self._open and self.pinned(shard) is None


def changes(members: Iterable[Candidate], current: Plan) -> list[str]:
    """Return the ids of the nodes that have joined, or whose weight, zone or state is another than in ``current``."""
    before = frozenset(current.members)
    return sorted(each.node_id for each in members if each not in before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendezvous:
    """
    The default: each shard belongs to the node with the greatest score, as in `clstr.Assignment` and in Go.

    A join moves shards to the new node alone, and a leave the leaver's alone. A plan that is computed from the present
    one is the plan that would be computed from nothing, unless nodes are cordoned: those keep what they have.

    Attributes:
        wishes: What users say about single shards.
    """

    wishes: Wishes = NO_WISHES

    def slices(self, members: Iterable[Candidate], current: Plan | None, num_shards: int, seed: str = "") -> Slices:
        """
        Compute the plan of ``members`` from the ``current`` one.

        Raises:
            ValueError: There is no node, two have one id, or ``num_shards`` is out of bounds.
        """
        choice = Choice(members, num_shards, self.wishes)
        scores = Scores(choice.members, seed)
        before = _Before(choice, current, self.wishes) if current and len(current.owners) == num_shards else None
        owners: list[str] = []
        for shard in range(num_shards):
            rivals = before.rivals(shard) if before is not None else choice.nodes(shard)
            owners.append(scores.best(shard, rivals) if len(rivals) > 1 else rivals[0])
            scores.count += 1
            if scores.count >= SLICE:
                yield scores.take()
        yield scores.take()
        return Plan(members=choice.members, owners=tuple(owners), wishes=self.wishes)


class _Before:
    """What the present plan spares: who owned a shard has beaten every node that was there."""

    def __init__(self, choice: Choice, current: Plan, wishes: Wishes) -> None:
        self._choice = choice
        self._owners = current.owners
        self._news = changes(choice.members, current)
        news = frozenset(self._news)
        are_wishes_new = current.wishes != wishes
        # One that was cordoned kept shards for which others have better scores.
        winners = (each.node_id for each in current.members if not each.is_cordoned)
        self._winners = frozenset() if are_wishes_new else frozenset(winners) - news

    def rivals(self, shard: int) -> Sequence[str]:
        """Return the nodes among which the shard's owner is the best."""
        owner = self._owners[shard]
        if self._choice.is_kept(shard, owner):
            return (owner,)
        if owner not in self._winners or not self._choice.may_get(shard, owner):
            return self._choice.nodes(shard)
        return (owner, *(node for node in self._news if self._choice.may_get(shard, node)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Balanced:
    """
    Rendezvous order with bounds: a node has at most ``limit`` times its share, and at least 1 / ``limit`` of it.

    A shard stays where it is while it may: it moves if its owner is gone or has too many, or if another node has too
    few. Pins come before the bounds. A cordoned node keeps what it has, and the others share the rest.

    Attributes:
        limit: The greatest load relative to a node's share, 1 to 10, rounded up to whole shards.
        wishes: What users say about single shards.

    Raises:
        ValueError: ``limit`` is out of its bounds.
    """

    limit: float = 1.1
    wishes: Wishes = NO_WISHES

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= 10:  # noqa: PLR2004 -- above that it is no bound
            raise ValueError(f"limit must be 1 to 10, not {self.limit!r}")

    def slices(self, members: Iterable[Candidate], current: Plan | None, num_shards: int, seed: str = "") -> Slices:
        """
        Compute the plan of ``members`` from the ``current`` one.

        Raises:
            ValueError: There is no node, two have one id, or ``num_shards`` is out of bounds.
        """
        choice = Choice(members, num_shards, self.wishes)
        balancing = _Balancing(choice, Scores(choice.members, seed), num_shards)
        owners = current.owners if current is not None and len(current.owners) == num_shards else ("",) * num_shards
        yield from balancing.keep(owners)
        balancing.bound(self.limit)
        yield from balancing.shed()
        yield from balancing.place()
        yield from balancing.fill()
        return Plan(members=choice.members, owners=tuple(balancing.owners), wishes=self.wishes)


class _Balancing:
    """One plan of `Balanced` in the making; an empty owner is none yet."""

    def __init__(self, choice: Choice, scores: Scores, num_shards: int) -> None:
        self._choice = choice
        self._scores = scores
        self.owners = [""] * num_shards
        self._held: dict[str, set[int]] = {each.node_id: set() for each in choice.members}
        self._caps: dict[str, int] = {}
        self._floors: dict[str, int] = {}

    def _give(self, shard: int, node: str) -> None:
        if owner := self.owners[shard]:
            self._held[owner].discard(shard)
        self.owners[shard] = node
        if node:
            self._held[node].add(shard)

    def keep(self, owners: Iterable[str]) -> Generator[int, None, None]:
        """Leave each shard where it is, if it may stay, or is pinned."""
        for shard, owner in enumerate(owners):
            pinned = self._choice.pinned(shard)
            if pinned is not None or self._choice.may_get(shard, owner) or self._choice.is_kept(shard, owner):
                self._give(shard, pinned or owner)
            self._scores.count += 1
            yield from self._pause()

    def bound(self, limit: float) -> None:
        """Compute the most and the fewest shards that each node may have."""
        weights = {each.node_id: each.weight for each in self._choice.members if each.node_id in self._choice.open}
        kept = sum(len(held) for node, held in self._held.items() if node not in weights)
        share = (len(self.owners) - kept) / sum(weights.values())
        # A little less than the product, so that 1.1 * 10 = 11.000000000000002 is not rounded to 12.
        self._caps = {node: math.ceil(limit * share * weight - 1e-9) for node, weight in weights.items()}
        self._floors = {node: math.floor(share * weight / limit + 1e-9) for node, weight in weights.items()}

    def _movable(self, node: str) -> list[int]:
        return sorted(shard for shard in self._held[node] if self._choice.pinned(shard) is None)

    def shed(self) -> Generator[int, None, None]:
        """Take from nodes with too many the shards that they have the lowest scores for."""
        for node, cap in self._caps.items():
            excess = len(self._held[node]) - cap
            if excess > 0:
                scored = []
                for shard in self._movable(node):
                    scored.append((self._scores.of(shard, [node])[0][:2], shard))
                    yield from self._pause()
                for _, shard in sorted(scored)[:excess]:
                    self._give(shard, "")

    def place(self) -> Generator[int, None, None]:
        """
        Give each shard without an owner to the best node that has room.

        Nodes with too few come first as soon as they need all that is left: nothing must move to them later.
        """
        left = self.owners.count("")
        for shard, owner in enumerate(self.owners):
            if not owner:
                lack = sum(max(0, floor - len(self._held[node])) for node, floor in self._floors.items())
                order = ordered(self._scores.of(shard, self._choice.nodes(shard)))
                needy = self._first_below(self._floors, order) if left <= lack else None
                roomy = self._first_below(self._caps, order) or self._first_below(self._caps, self._choice.open)
                self._give(shard, needy or roomy or order[0])
                left -= 1
                yield from self._pause()

    def _first_below(self, bounds: Mapping[str, int], nodes: Iterable[str]) -> str | None:
        return next((node for node in nodes if len(self._held[node]) < bounds.get(node, 0)), None)

    def fill(self) -> Generator[int, None, None]:
        """Give nodes with too few the shards that they have the greatest scores for, of nodes that can spare them."""
        for node, floor in self._floors.items():
            if len(self._held[node]) < floor:
                scored = []
                for shard in range(len(self.owners)):
                    if self._may_go(shard, node):
                        scored.append((self._scores.of(shard, [node])[0][:2], shard))
                        yield from self._pause()
                self._fill(node, floor, [shard for _, shard in sorted(scored, reverse=True)])
        yield self._scores.take()

    def _may_go(self, shard: int, node: str) -> bool:
        owner = self.owners[shard]
        is_free = owner in self._floors and owner != node and self._choice.pinned(shard) is None
        return is_free and self._choice.may_get(shard, node)

    def _fill(self, node: str, floor: int, shards: Iterable[int]) -> None:
        for shard in shards:
            if len(self._held[node]) >= floor:
                return
            owner = self.owners[shard]
            if len(self._held[owner]) > self._floors[owner]:
                self._give(shard, node)

    def _pause(self) -> Generator[int, None, None]:
        if self._scores.count >= SLICE:
            yield self._scores.take()
