"""What is printed and kept of a run."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import msgspec

from bench.comparison import Result, median
from bench.costs import Cost
from bench.side import Round

PACKAGES = ("nats-py", "pyzmq", "redis", "uvloop", "faststream", "grpcio", "pykka", "msgspec")


class Record(msgspec.Struct, kw_only=True):
    """
    All that a run found out.

    Attributes:
        machine: Where.
        results: The comparisons.
        costs: What was measured in one process.
    """

    machine: str
    results: list[Result] = []
    costs: list[Cost] = []

    @property
    def is_met(self) -> bool:
        """Whether every bar was met."""
        return all(each.is_met for each in self.results) and all(each.is_met for each in self.costs)


def machine() -> str:
    """Say on what the figures were taken."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{os.cpu_count()} cores, {_processor()}, {platform.system()}, Python {platform.python_version()}; {packages}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def of_result(result: Result) -> str:
    """Return a comparison in lines: the ratio, and what each side did."""
    scenario, ratios = result.scenario, result.ratios
    title = f"{scenario.name} ({result.loop}): {result.ratio:.2f} x in {scenario.what}"
    lines = [f"{title}, rounds {min(ratios):.2f} to {max(ratios):.2f}; {_verdict(result)}"]
    sides = ((scenario.left.contender, result.left), (scenario.right.contender, result.right))
    lines += [f"  {name:24} {_figures(rounds)}" for name, rounds in sides]
    return "\n".join(lines)


def table(record: Record) -> str:
    """Return the record as Markdown, for the documentation."""
    head = (
        "| scenario | ratio | rounds | bar | clstr, or left | the other | CPU, left | CPU, right |\n"
        + "|---" * 8
        + "|\n"
    )
    costs = "".join(f"* {of_cost(cost)}\n" for cost in record.costs)
    return f"{record.machine}.\n\n{head}{''.join(map(_row, record.results))}\n{costs}"


def _row(result: Result) -> str:
    scenario, ratios = result.scenario, result.ratios
    sides = [_cell(rounds, scenario.what) for rounds in (result.left, result.right)]
    cpu = [_cpu(rounds) for rounds in (result.left, result.right)]
    bar = ", ".join(_bars(result)) or "none"
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    name = f"{scenario.name}, {result.loop}"
    return f"| {' | '.join([name, f'{result.ratio:.2f} x', spread, bar, *sides, *cpu])} |\n"


def _cell(rounds: list[Round], what: str) -> str:
    middle = median(rounds, lambda each: getattr(each, what))
    return f"{middle:,.0f}/s" if what == "rate" else f"{what} {middle * 1e3:.2f} ms"


def _cpu(rounds: list[Round]) -> str:
    return " + ".join(f"{median(rounds, milliseconds):.0f}" for milliseconds in CPU)


def _figures(rounds: list[Round]) -> str:
    rates = [each.rate for each in rounds]
    p50, p99 = median(rounds, lambda each: each.p50) * 1e3, median(rounds, lambda each: each.p99) * 1e3
    client, nodes = max(each.client_mib for each in rounds), max(each.node_mib for each in rounds)
    return (
        f"{statistics.median(rates):>8,.0f}/s ({min(rates):,.0f} to {max(rates):,.0f})  p50 {p50:.2f} ms  "
        f"p99 {p99:.2f} ms  CPU {_cpu(rounds)} ms/1000  memory {client:.0f} + {nodes:.0f} MiB"
    )


# Milliseconds for each thousand requests: of the client, the nodes, the broker.
CPU: tuple[Callable[[Round], float], ...] = (
    lambda each: each.client_cpu * 1e6 / each.timing.requests,
    lambda each: each.node_cpu * 1e6 / each.timing.requests,
    lambda each: each.broker_cpu * 1e6 / each.timing.requests,
)


def of_cost(cost: Cost) -> str:
    """Return a cost as a line."""
    ours = _amount(statistics.median(cost.ours), cost.unit)
    if not cost.theirs:
        return f"{cost.name}: {ours}; {_verdict(cost)}"
    theirs = _amount(statistics.median(cost.theirs), cost.unit)
    return f"{cost.name}: {cost.figure:.2f} x, {ours} against {theirs}; {_verdict(cost)}"


def _amount(value: float, unit: str) -> str:
    return f"{value:,.0f} bytes" if unit == "bytes" else f"{value * 1e3:.2f} ms"


def _verdict(judged: Result | Cost) -> str:
    bar = " and ".join(_bars(judged))
    return f"{'met' if judged.is_met else 'NOT MET'}: {bar}" if bar else "no bar"


def _bars(judged: Result | Cost) -> Iterator[str]:
    source = judged.scenario if isinstance(judged, Result) else judged
    if isinstance(judged, Result) and judged.scenario.at_least is not None:
        yield f"at least {judged.scenario.at_least:.2f}"
    if source.at_most is not None:
        yield f"at most {source.at_most:,g}"
