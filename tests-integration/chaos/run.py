"""
Run campaigns of faults and print a line for each.

    python tests-integration/chaos/run.py --transport nats --seconds 20 --seed 7
    python tests-integration/chaos/run.py --minutes 30

The same seed makes the same plan of faults and the same load; what the processes make of it is up to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.campaign import run_campaign
from chaos.sites import TRANSPORTS

SECONDS = 20.0


def main() -> int:
    """Run what the command line says; return 1 if a promise was broken."""
    options = _parser().parse_args()
    seconds = options.minutes * 60 if options.minutes else options.seconds
    is_good = True
    for transport in options.transport or TRANSPORTS:
        seed = random.randrange(10**6) if options.seed is None else options.seed
        folder = Path(tempfile.mkdtemp(prefix=f"clstr-chaos-{transport}-"))
        result = asyncio.run(
            run_campaign(
                transport, folder, seed=seed, seconds=seconds, nodes=options.nodes, clients=options.clients,
                kinds=options.fault,
            )
        )  # fmt: skip
        sys.stdout.write(f"{transport} seed {seed}, {seconds:g} s: {result}\n")
        if result.is_good:
            shutil.rmtree(folder)
        else:
            is_good = False
            sys.stdout.write(f"  journals and logs are in {folder}\n")
        sys.stdout.flush()
    return int(not is_good)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Break a cluster of processes at random, and judge what it does.")
    parser.add_argument("--transport", action="append", choices=TRANSPORTS, help="which one; by default each in turn")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long for each transport (%(default)g)")
    parser.add_argument("--minutes", type=float, help="the same in minutes")
    parser.add_argument("--seed", type=int, help="of the plan; drawn and printed by default")
    parser.add_argument("--nodes", type=int, default=4, help="processes that are nodes (%(default)d)")
    parser.add_argument("--clients", type=int, default=2, help="processes that are clients (%(default)d)")
    parser.add_argument("--fault", action="append", help="only this kind; may be given several times")
    return parser


if __name__ == "__main__":
    sys.exit(main())
