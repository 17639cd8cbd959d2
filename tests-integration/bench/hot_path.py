"""
Count what a request costs on the memory transport, and compare it with what it was recorded to cost.

    python tests-integration/bench/hot_path.py
    python tests-integration/bench/hot_path.py --record

Counts are the same on every machine, where seconds are not: Python functions entered (a coroutine that goes on counts
as entered) for each request, and blocks of memory that a request in flight holds on both sides together.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import platform
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

import clstr
from bench.contender import Load, Place
from bench.contenders.clstr_actor import Counter
from bench.contenders.clstr_raw import Raw

RECORD = Path(__file__).with_name("hot_path.json")
CALLERS, TURNS = 50, 80  # fewer callers than slots: every request takes the same way
GROWTH = 1.10
KINDS: dict[str, type[Raw]] = {"raw": Raw, "actor": Counter}
URL = "memory://hot-path"

Work = Callable[[], Awaitable[object]]


class Counts(msgspec.Struct, frozen=True, order=True):
    """
    What one request costs.

    Attributes:
        calls: Python functions that are entered for it.
        blocks: Blocks of memory that it holds while its handler runs.
    """

    calls: float
    blocks: float

    def grown(self, recorded: Counts) -> list[str]:
        """Say what is more than it was, beyond the tolerance."""
        return [
            f"{name} grew from {before:g} to {now:g} for each request"
            for name, now, before in (
                ("calls", self.calls, recorded.calls),
                ("blocks", self.blocks, recorded.blocks),
            )
            if now > GROWTH * before
        ]


class _Gate:
    """Holds every handler until as many as there are callers have begun, and counts blocks then."""

    def __init__(self, handler: clstr.Handler) -> None:
        self._handler = handler
        self._begun = 0
        self._opened = asyncio.Event()
        self.blocks = 0
        self.is_shut = False

    async def __call__(self, envelope: clstr.Envelope) -> bytes | None:
        if self.is_shut:
            self._begun += 1
            if self._begun == CALLERS:
                self.blocks = sys.getallocatedblocks()
                self._opened.set()
            await self._opened.wait()
        return await self._handler(envelope)


async def count(kind: str) -> Counts:
    """Count for a handler of envelopes (``raw``) or for a typed actor (``actor``)."""
    contender = KINDS[kind](Place(url=URL, ports=()))
    gate = _Gate(contender.handler())
    async with clstr.connect(URL) as node_side, clstr.connect(URL) as client_side:
        async with clstr.Node(node_side, contender.handler(), shards=range(64), num_shards=64):
            ask = contender.ask(clstr.Client(client_side, num_shards=64), Load(keys=CALLERS))
            await _turns(ask, 2)  # caches fill
            calls = await _calls(lambda: _turns(ask, TURNS))
        async with clstr.Node(node_side, gate, shards=range(64), num_shards=64):
            await _turns(ask, 2)
            blocks = await _blocks(gate, ask)
    return Counts(calls=round(calls / (CALLERS * TURNS), 1), blocks=round(blocks / CALLERS, 1))


async def _turns(ask: Callable[[int], Awaitable[object]], turns: int) -> None:
    async def call(number: int) -> None:
        for _ in range(turns):
            await ask(number)

    await asyncio.gather(*map(call, range(CALLERS)))


async def _calls(work: Work) -> int:
    entered = 0

    def note(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal entered
        entered += event == "call"

    sys.setprofile(note)
    try:
        await work()
    finally:
        sys.setprofile(None)
    return entered


async def _blocks(gate: _Gate, ask: Callable[[int], Awaitable[object]]) -> int:
    gc.collect()
    gc.disable()
    try:
        gate.is_shut = True
        before = sys.getallocatedblocks()
        await _turns(ask, 1)
    finally:
        gc.enable()
    return gate.blocks - before


def measure() -> dict[str, Counts]:
    """Count everything."""
    return {kind: asyncio.run(count(kind)) for kind in KINDS}


def recorded() -> dict[str, dict[str, Counts]]:
    """Return what was recorded, by Python's minor version and by kind."""
    return msgspec.json.decode(RECORD.read_bytes(), type=dict[str, dict[str, Counts]])


def python() -> str:
    """Return Python's minor version, as in ``3.11``."""
    return ".".join(platform.python_version_tuple()[:2])


def problems(now: dict[str, Counts], known: dict[str, dict[str, Counts]]) -> list[str]:
    """Say what has become dearer, or that nobody knows."""
    if python() not in known:
        return [f"nothing is recorded for Python {python()}: run this with --record"]
    return [f"{kind}: {each}" for kind, counts in now.items() for each in counts.grown(known[python()][kind])]


def main() -> int:
    """Count, and compare or record; return 1 if something has become dearer."""
    parser = argparse.ArgumentParser(description="Count what a request costs.")
    parser.add_argument("--record", action="store_true", help="let what is counted be what is compared with")
    options = parser.parse_args()
    now, known = measure(), recorded()
    for kind, counts in now.items():
        sys.stdout.write(f"{kind}: {counts.calls:g} calls and {counts.blocks:g} blocks for each request\n")
    if options.record:
        known[python()] = now
        RECORD.write_bytes(msgspec.json.format(msgspec.json.encode(dict(sorted(known.items())))) + b"\n")
        return 0
    found = problems(now, known)
    sys.stdout.writelines(f"{problem}\n" for problem in found)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
