"""
One process of a measurement: a node, the client, or both, told what to do by lines of JSON on its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.contender import Contender, Load, Place, Prepare
from bench.contenders.table import CONTENDERS
from chaos.orders import obey


class Worker:
    """
    Carries out the orders of `side.Side`.

    Args:
        contender: What runs here.
        prepare: The open client, if it runs here.
    """

    def __init__(self, contender: Contender, prepare: Prepare | None) -> None:
        self._contender = contender
        self._prepare = prepare

    async def run(self, order: dict[str, Any]) -> dict[str, Any]:
        """Put a load on the nodes and return what was seen; the first answer is looked at."""
        load = msgspec.convert(order, Load)
        assert self._prepare is not None, "this process is a node"
        ask = self._prepare(load)
        answer = await ask(0)
        if answer != (None if load.oneway else load.payload):
            raise RuntimeError("the answer is not what was sent: this contender does not work")
        timing: dict[str, Any] = msgspec.to_builtins(await self._contender.drive(ask, load))
        return timing

    async def usage(self) -> dict[str, float]:
        """Return what this process has used, and answered as a node."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
        return {"cpu": time.process_time(), "mib": peak / 1024, "handled": self._contender.handled}


async def work(contender: Contender, *, nodes: range, is_client: bool) -> None:
    """Be ``nodes``, or the client, or both, until told to stop."""
    async with AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(contender.serve(node))
        prepare = await stack.enter_async_context(contender.client()) if is_client else None
        worker = Worker(contender, prepare)
        await obey({"run": worker.run, "usage": worker.usage})


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the event loop called ``asyncio`` or ``uvloop``."""
    if name == "uvloop":
        import uvloop  # noqa: PLC0415 -- only where it is measured

        return uvloop.new_event_loop
    return asyncio.new_event_loop


def main() -> None:
    """Read the command line and be what it says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("contender", choices=sorted(CONTENDERS))
    parser.add_argument("role", help="'client', 'both', or a node's number")
    parser.add_argument("place", type=lambda text: msgspec.json.decode(text, type=Place))
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    options = parser.parse_args()
    place: Place = options.place
    contender = CONTENDERS[options.contender].make(place)
    role = options.role
    nodes = {"client": range(0), "both": range(place.nodes)}.get(role) if not role.isdecimal() else None
    chosen = range(int(role), int(role) + 1) if nodes is None else nodes
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        runner.run(work(contender, nodes=chosen, is_client=not role.isdecimal()))


if __name__ == "__main__":
    main()
