"""
Load a cluster of processes for a long time and see what grows.

    python tests-integration/chaos/soak.py --transport nats --minutes 60 --chart soak.svg

Nothing goes wrong on purpose here, but for handlers that fail. Memory is the largest of any process; its slope is that
of a straight line through all samples after the first fifth of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.campaign import MARGIN
from chaos.cluster import ProcessCluster
from chaos.load import RATE
from chaos.sites import TRANSPORTS, site_of
from clstr_testing import judge

NODES, CLIENTS = 3, 2
SAMPLES = 60
TYPES = ("Echo", "Echo", "Echo", "Raise")
MAX_SLOPE = 6.0  # MiB an hour; judged in runs of ten minutes and more, in shorter ones it says nothing
LONG = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """
    One look at all processes.

    Attributes:
        at: Seconds since the start.
        mib: The memory of the largest process.
        descriptors: Open descriptors of all.
        tasks: Tasks of all.
        p50: Seconds in which half of the answers came.
        p99: Seconds in which 99 of 100 came.
    """

    at: float
    mib: float
    descriptors: int
    tasks: int
    p50: float
    p99: float


async def soak(transport: str, folder: Path, *, seconds: float, rate: float) -> tuple[list[Sample], list[str]]:
    """Load ``transport`` and return what was seen, and what is wrong."""
    async with site_of(transport) as site, AsyncExitStack() as stack:
        cluster = ProcessCluster(site, folder, stack)
        await cluster.start(NODES, CLIENTS, seed=1)
        await cluster.tell_clients("probe", 10)
        before = await cluster.reports()
        await cluster.tell_clients("load", rate / RATE / CLIENTS, *TYPES)
        samples = await _watch(cluster, seconds)
        await cluster.tell_clients("settle")
        problems = await cluster.compare(before)
        await cluster.stop_all()
        verdict = judge(cluster.records(), margin=MARGIN)
    return samples, [*problems, *map(str, verdict.violations)]


async def _watch(cluster: ProcessCluster, seconds: float) -> list[Sample]:
    began, samples = time.monotonic(), []
    for number in range(1, SAMPLES + 1):
        await asyncio.sleep(began + number * seconds / SAMPLES - time.monotonic())
        reports = (await cluster.reports()).values()
        latencies = await cluster.tell_clients("latencies")
        samples.append(
            Sample(
                at=time.monotonic() - began,
                mib=max(report["KiB"] for report in reports) / 1024,
                descriptors=sum(report["descriptors"] for report in reports),
                tasks=sum(report["tasks"] for report in reports),
                p50=max(p50 for p50, _ in latencies),
                p99=max(p99 for _, p99 in latencies),
            )
        )
    return samples


def slope(samples: list[Sample], what: str) -> float:
    """Return by how much ``what`` grew in an hour, after the first fifth."""
    settled = samples[len(samples) // 5 :]
    values = [getattr(sample, what) for sample in settled]
    return statistics.linear_regression([sample.at for sample in settled], values).slope * 3600


def seen(samples: list[Sample]) -> str:
    """Compare the end with the time after the first fifth."""
    first, last = samples[len(samples) // 5], samples[-1]
    counts = f"descriptors {first.descriptors} to {last.descriptors}, tasks {first.tasks} to {last.tasks}"
    p50 = f"p50 {first.p50 * 1e3:.1f} to {last.p50 * 1e3:.1f} ms"
    p99 = f"p99 {first.p99 * 1e3:.1f} to {last.p99 * 1e3:.1f} ms"
    return f"{last.mib:.1f} MiB, {slope(samples, 'mib'):+.1f} MiB an hour; {counts}, {p50}, {p99}"


def draw(path: Path, transport: str, samples: list[Sample]) -> None:
    """Draw memory, descriptors, tasks and latencies over time."""
    from matplotlib.figure import Figure  # noqa: PLC0415 -- only for who wants a chart

    figure = Figure(figsize=(8, 9), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(4, 1, sharex=True), CHARTS.items(), strict=True):
        for name in names:
            axes.plot([sample.at / 60 for sample in samples], [getattr(sample, name) for sample in samples], label=name)
        axes.set_title(title, loc="left", fontsize="medium")
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower right")
    figure.supxlabel("minutes")
    figure.suptitle(f"clstr on {transport} under load")
    figure.savefig(path)


CHARTS = {
    "Memory of the largest process, MiB": ("mib",),
    "Open descriptors, all processes": ("descriptors",),
    "Tasks, all processes": ("tasks",),
    "Latency, seconds": ("p50", "p99"),
}


def main() -> int:
    """Run what the command line says; return 1 if something grew or a promise was broken."""
    options = _parser().parse_args()
    is_good = True
    for transport in options.transport or TRANSPORTS:
        with tempfile.TemporaryDirectory(prefix="clstr-soak-") as folder:
            seconds = options.minutes * 60
            samples, problems = asyncio.run(soak(transport, Path(folder), seconds=seconds, rate=options.rate))
        growth = slope(samples, "mib")
        if seconds >= LONG and growth > MAX_SLOPE:
            problems.append(f"memory grows by {growth:.1f} MiB an hour")
        found = "; ".join(problems) or "no violation"
        sys.stdout.write(f"{transport}, {options.minutes:g} min at {options.rate:g}/s: {seen(samples)}; {found}\n")
        sys.stdout.flush()
        if options.chart:
            draw(options.chart.with_stem(f"{options.chart.stem}-{transport}"), transport, samples)
        is_good &= not problems
    return int(not is_good)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Load a cluster of processes for a long time and see what grows.")
    parser.add_argument("--transport", action="append", choices=TRANSPORTS, help="which one; by default each in turn")
    parser.add_argument("--minutes", type=float, default=60, help="how long for each transport (%(default)g)")
    parser.add_argument("--rate", type=float, default=500, help="messages a second (%(default)g)")
    parser.add_argument("--chart", type=Path, help="draw it, into this file with the transport's name in it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
