"""
Measure clstr beside what a Python user would pick instead.

    python tests-integration/bench/run.py --list
    python tests-integration/bench/run.py --scenario nats-raw-nats-py --loop uvloop --json figures.json --chart charts/

Every figure is a median over rounds in which both sides took turns; the ratio is the median of the ratios of the pairs.
"""

from __future__ import annotations

import argparse
import asyncio
import fnmatch
import sys
import tempfile
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import chart, costs, report
from bench.comparison import ROUNDS, Result, compare
from bench.scenarios import Scenario, scenarios

LOOPS = ("asyncio", "uvloop")


def main() -> int:
    """Run what the command line says; return 1 if a bar was not met."""
    parser = _parser()
    options = parser.parse_args()
    names = [*scenarios(), *costs.COSTS]
    if options.list:
        sys.stdout.write("\n".join(names) + "\n")
        return 0
    chosen = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in options.scenario or ["*"])]
    if not chosen:
        parser.error(f"no scenario is called {' or '.join(options.scenario)}: --list names them all")
    record = report.Record(machine=report.machine())
    sys.stdout.write(f"{record.machine}\n")
    loops = LOOPS if options.loop == "both" else (options.loop,)
    for name in chosen:
        for loop in loops if name in scenarios() else loops[:1]:
            _measure(name, loop, options, record)
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(record)))
    if options.table:
        options.table.write_text(report.table(record), encoding="utf-8")
    if options.chart:
        chart.draw(record, options.chart)
    return int(not record.is_met)


def _measure(name: str, loop: str, options: argparse.Namespace, record: report.Record) -> None:
    """Measure one scenario, print it and keep it."""
    if name in costs.COSTS:
        cost = asyncio.run(costs.COSTS[name](options.rounds))
        record.costs.append(cost)
        text = report.of_cost(cost)
    else:
        result = _compare(scenarios()[name], loop, options)
        record.results.append(result)
        text = report.of_result(result)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _compare(scenario: Scenario, loop: str, options: argparse.Namespace) -> Result:
    with tempfile.TemporaryDirectory(prefix="clstr-bench-") as folder:
        work = compare(scenario, Path(folder), loop=loop, rounds=options.rounds, seconds=options.seconds)
        return asyncio.run(work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure clstr beside what a Python user would pick instead.")
    parser.add_argument("--scenario", action="append", help="a name, or a pattern as in 'nats-*'; by default all")
    parser.add_argument("--loop", choices=[*LOOPS, "both"], default="asyncio", help="of every process (%(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each side (%(default)d)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round (%(default)g)")
    parser.add_argument("--json", type=Path, help="keep every round's figures in this file")
    parser.add_argument("--table", type=Path, help="write the figures as Markdown into this file")
    parser.add_argument("--chart", type=Path, help="draw the throughputs into this file")
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
