"""What is compared with what: each scenario is two sides that take turns in one run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from bench.contender import Load
from bench.contenders.table import TRANSPORTS, Transport
from bench.side import Setup

GROWTH = 0.85  # of its own throughput that must be left with many keys or shards
LATENCY = 1.3  # times the bare client's, at most
BIG = 1.3  # times the bare client's cost for a megabyte, at most
KIB, MIB = 1024, 1024 * 1024
HALF = 0.5


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """
    Two sides, and what their ratio must be.

    Attributes:
        name: What the command line calls it.
        left: What is judged.
        right: What it is judged by.
        what: Which figure's ratio, left to right.
        at_least: The smallest ratio that is good enough.
        at_most: The largest one.
        part: Of the throughput that each side showed just before, what is sent in each round; 0 is no such limit.
    """

    name: str
    left: Setup
    right: Setup
    what: Literal["rate", "p50", "p99"] = "rate"
    at_least: float | None = None
    at_most: float | None = None
    part: float = 0.0

    def is_met_by(self, ratio: float) -> bool:
        """Tell whether ``ratio`` is good enough; without a bar every one is."""
        return (self.at_least is None or ratio >= self.at_least) and (self.at_most is None or ratio <= self.at_most)


def scenarios() -> dict[str, Scenario]:
    """Return all of them by name."""
    found = [scenario for name, transport in TRANSPORTS.items() for scenario in _of(name, transport)]
    return {scenario.name: scenario for scenario in found}


def _of(name: str, transport: Transport) -> Iterator[Scenario]:
    yield from _reach(name, f"clstr-{name}", "raw", transport.raw)
    yield from _reach(name, f"clstr-{name}-actor", "actor", transport.actor)
    if not transport.is_in_process:
        yield from _shapes(name, f"clstr-{name}", transport)
    yield from _growth(name, f"clstr-{name}", "raw")
    yield from _growth(name, f"clstr-{name}-actor", "actor")


def _reach(name: str, contender: str, kind: str, bars: dict[str, float | None]) -> Iterator[Scenario]:
    """256 callers, 100 keys and 100 bytes, against everything else."""
    for other, bar in bars.items():
        left, right = (Setup(contender=each, load=Load()) for each in (contender, other))
        yield Scenario(name=f"{name}-{kind}-{other}", left=left, right=right, at_least=bar)


def _shapes(name: str, contender: str, transport: Transport) -> Iterator[Scenario]:
    """Other loads and more nodes, against the bare client."""
    plain = Scenario(
        name="", left=Setup(contender=contender, load=Load()), right=Setup(contender=transport.bare, load=Load())
    )
    one_caller = msgspec.structs.replace(plain, what="p50", at_most=LATENCY)
    for label, load, scenario in (
        ("1-caller", Load(callers=1), one_caller),
        ("64-callers", Load(callers=64), plain),
        ("1-key", Load(keys=1), plain),
        ("100000-keys", Load(keys=100_000), plain),
        ("10-KiB", Load(payload_bytes=10 * KIB), plain),
        ("notify", Load(oneway=True), plain),
        ("half-load", Load(), msgspec.structs.replace(plain, what="p99", part=HALF)),
    ):
        yield _both(scenario, f"{name}-{label}", load=load)
    for nodes in (3, 7):
        yield _both(plain, f"{name}-{nodes}-nodes", nodes=nodes)
    big = msgspec.structs.replace(plain, at_least=1 / BIG)
    load = Load(payload_bytes=MIB, callers=8)
    yield _both(big, f"{name}-1-MiB", load=load, is_big=True, query=transport.big)


def _growth(name: str, contender: str, kind: str) -> Iterator[Scenario]:
    """Many keys and many shards, against few of them."""
    few = Setup(contender=contender, load=Load())
    for label, many in (
        ("keys", msgspec.structs.replace(few, load=Load(keys=100_000))),
        ("shards", msgspec.structs.replace(few, shards=4096)),
    ):
        yield Scenario(name=f"{name}-{kind}-{label}", left=many, right=few, at_least=GROWTH)


def _both(scenario: Scenario, name: str, **changes: Any) -> Scenario:  # Any: whatever fields of a setup
    left, right = (msgspec.structs.replace(side, **changes) for side in (scenario.left, scenario.right))
    return msgspec.structs.replace(scenario, name=name, left=left, right=right)
