"""
Replace every node of a loaded cluster, one after another, and count what fails.

    python tests-integration/chaos/rolling.py --transport nats --rate 2000
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.campaign import MARGIN
from chaos.cluster import ProcessCluster
from chaos.load import RATE
from chaos.sites import TRANSPORTS, site_of
from clstr_testing import Verdict, judge

STEADY = 0.5  # seconds of load before, between and after the replacements
CLIENTS = 2
PATIENCE = 10  # no fault is under way, so nothing but a busy machine makes a request wait


async def roll(transport: str, folder: Path, *, nodes: int = 5, rate: float = 2000) -> Verdict:
    """
    Replace each of ``nodes`` nodes, under ``rate`` messages a second from clients that send again what did not run.

    For each a new node starts and owns nothing, the old one releases its shards, the new one acquires them, and the old
    one ends. Nothing may fail: there is no fault that would excuse it.
    """
    async with site_of(transport) as site, AsyncExitStack() as stack:
        cluster = ProcessCluster(site, folder, stack, options=["--retry", f"--patience={PATIENCE}"])
        await cluster.start(nodes, CLIENTS, seed=1)
        await _load(cluster, rate / RATE / CLIENTS)
        for old in cluster.nodes:
            new = old.replace("node", "successor")
            await cluster.start_node(new, [])
            await cluster.move(cluster.shards[old], old, new)
            await cluster.stop(old)
            cluster.forget(old)
            await asyncio.sleep(STEADY)
        for client in cluster.clients:
            await cluster.processes[client].tell("settle")
        await cluster.stop_all()
    return judge(cluster.records(), margin=MARGIN, faults=[])


async def _load(cluster: ProcessCluster, factor: float) -> None:
    for client in cluster.clients:
        await cluster.processes[client].tell("load", factor, "Echo")
    await asyncio.sleep(STEADY)


def main() -> int:
    """Run what the command line says; return 1 if anything failed."""
    parser = argparse.ArgumentParser(description="Replace every node of a cluster under load; nothing may fail.")
    parser.add_argument("--transport", action="append", choices=TRANSPORTS, help="which one; by default each in turn")
    parser.add_argument("--nodes", type=int, default=5, help="how many (%(default)d)")
    parser.add_argument("--rate", type=float, default=2000, help="messages a second (%(default)g)")
    options = parser.parse_args()
    is_safe = True
    for transport in options.transport or TRANSPORTS:
        with tempfile.TemporaryDirectory(prefix="clstr-rolling-") as folder:
            verdict = asyncio.run(roll(transport, Path(folder), nodes=options.nodes, rate=options.rate))
        sys.stdout.write(f"{transport}, {options.nodes} nodes replaced: {verdict}\n")
        is_safe &= verdict.is_safe
    return int(not is_safe)


if __name__ == "__main__":
    sys.exit(main())
