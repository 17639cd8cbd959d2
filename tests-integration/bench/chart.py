"""The charts of the documentation."""

from __future__ import annotations

from pathlib import Path

from bench.comparison import Result, median
from bench.report import Record

OURS, THEIRS = "#3f51b5", "#b0b4c8"


def draw(record: Record, path: Path) -> None:
    """Draw the throughput of both sides of each comparison, with the ratio beside it."""
    from matplotlib.figure import Figure  # noqa: PLC0415 -- only for who wants a chart

    results = [result for result in record.results if result.scenario.what == "rate"]
    figure = Figure(figsize=(9, 0.8 + 0.62 * len(results)), layout="constrained")
    axes = figure.subplots()
    for row, result in enumerate(reversed(results)):
        ours, theirs = (median(rounds, lambda each: each.rate) for rounds in (result.left, result.right))
        axes.barh(row + 0.2, ours, height=0.36, color=OURS)
        axes.barh(row - 0.2, theirs, height=0.36, color=THEIRS)
        axes.text(ours, row + 0.2, f" {ours:,.0f}: {result.ratio:.2f} x", va="center", fontsize="small")
        axes.text(theirs, row - 0.2, f" {theirs:,.0f}", va="center", fontsize="small")
    axes.set_yticks(range(len(results)), [_label(result) for result in reversed(results)], fontsize="small")
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("requests each second")
    figure.savefig(path)


def _label(result: Result) -> str:
    scenario = result.scenario
    return f"{scenario.name}\n{scenario.left.contender} and {scenario.right.contender}, {result.loop}"
