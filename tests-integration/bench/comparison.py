"""Two sides take turns, and what came of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from bench.contender import Load
from bench.scenarios import Scenario
from bench.side import Round, Side, running

WARM_UP = 0.5  # of a round's length, before the first: caches fill, and connections find their windows
ROUNDS = 5


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a scenario's rounds were, in pairs.

    Attributes:
        scenario: The scenario.
        loop: The event loop of both sides.
        left: The rounds of the side that is judged.
        right: Those of the other.
    """

    scenario: Scenario
    loop: str
    left: list[Round]
    right: list[Round]

    @property
    def ratios(self) -> list[float]:
        """Left to right, for each pair of rounds, which saw the same minute of the machine."""
        what = self.scenario.what
        return [getattr(left, what) / getattr(right, what) for left, right in zip(self.left, self.right, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def is_met(self) -> bool:
        """Whether the ratio is good enough."""
        return self.scenario.is_met_by(self.ratio)


def median(rounds: list[Round], figure: Callable[[Round], float]) -> float:
    """Return the median of a figure over rounds."""
    return statistics.median(map(figure, rounds))


async def compare(
    scenario: Scenario, folder: Path, *, loop: str = "asyncio", rounds: int = ROUNDS, seconds: float = 2.0
) -> Result:
    """
    Run ``rounds`` of each side, in turns; which side begins alternates too.

    Args:
        scenario: What to compare.
        folder: For the logs of the processes.
        loop: The event loop of both.
        rounds: Of each side.
        seconds: The length of a round.
    """
    setups = {"left": scenario.left, "right": scenario.right}
    seen: dict[str, list[Round]] = {name: [] for name in setups}
    async with AsyncExitStack() as stack:
        sides: dict[str, Side] = {}
        loads: dict[str, Load] = {}
        for name, setup in setups.items():
            logs = folder / name
            logs.mkdir()
            sides[name] = await stack.enter_async_context(running(setup, logs, loop))
            loads[name] = msgspec.structs.replace(setup.load, seconds=seconds)
        for name, side in sides.items():
            warm = await side.run(msgspec.structs.replace(loads[name], seconds=seconds * WARM_UP))
            if scenario.part:
                loads[name] = msgspec.structs.replace(loads[name], rate=warm.rate * scenario.part)
        for number in range(rounds):
            for name in ("left", "right") if number % 2 else ("right", "left"):
                seen[name].append(await sides[name].run(loads[name]))
    return Result(scenario=scenario, loop=loop, **seen)
