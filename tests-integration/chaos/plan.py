"""What happens when: a plan of faults, made from a seed and nothing else."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass

# What can happen to a node, to a client, to the link of either, to the broker, and to the load.
NODE_FAULTS = ("kill node", "freeze node", "restart node", "move shards", "block node", "fork node", "move actors")
CLIENT_FAULTS = ("kill client", "block client")
LINK_FAULTS = ("stall link", "cut link", "slow link", "trickle link", "half-close to server", "half-close to client")
BROKER_FAULTS = ("kill broker", "pause broker")
LOAD_FAULTS = ("overload", "misbehave", "large answers")
NATS_FAULTS = ("record everything",)

EXCUSES_NOTHING = frozenset({"record everything"})  # no call may fail because of these
GENTLE = EXCUSES_NOTHING | {"large answers", "move actors"}  # these answer all that they ask, while no other is near

FIRST_STORM = 1.0  # seconds of calm before it
SHORTEST, LONGEST = 0.3, 1.5  # seconds that a fault lasts
MOST_AT_ONCE = 3
CALM = 1.0  # seconds between two storms in which nothing may fail


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """
    One fault.

    Attributes:
        kind: What happens.
        target: The number of the node, client or link that it happens to, to be taken modulo how many there are.
        lasts: Seconds until it is healed.
    """

    kind: str
    target: int
    lasts: float

    def __str__(self) -> str:
        return f"{self.kind} {self.target} for {self.lasts:.1f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """
    Faults that begin together.

    Attributes:
        at: When: seconds from the start.
        faults: Each of another kind.
    """

    at: float
    faults: tuple[Fault, ...]

    @property
    def end(self) -> float:
        """When the last of them is healed, at the earliest: seconds from the start."""
        return self.at + max(fault.lasts for fault in self.faults)


def storms(seed: int, seconds: float, kinds: Collection[str], detection: float) -> Iterator[Storm]:
    """
    Yield the storms of a run.

    Args:
        seed: The same seed, the same plan.
        seconds: How long the run lasts; a storm that would end later is left out.
        kinds: The faults to choose from.
        detection: Seconds after a storm in which calls may still fail of it.
    """
    chance = random.Random(seed)
    at = FIRST_STORM
    while kinds:
        chosen = chance.sample(sorted(kinds), k=min(len(kinds), chance.randint(1, MOST_AT_ONCE)))
        storm = Storm(at=at, faults=tuple(_fault(chance, kind) for kind in chosen))
        if storm.end + detection + CALM > seconds:
            return
        yield storm
        at = storm.end + detection + CALM


def _fault(chance: random.Random, kind: str) -> Fault:
    return Fault(kind=kind, target=chance.randrange(60), lasts=chance.uniform(SHORTEST, LONGEST))
