"""Every contender works, in processes of its own: a few requests each."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.contender import Load
from bench.contenders.table import CONTENDERS
from bench.side import Round, Setup, running
from chaos.process import PeerError

BRIEF = Load(callers=4, keys=5, seconds=0.05)
NOTIFIES = [name for name in CONTENDERS if name.startswith("clstr-") or name in {"nats-py", "redis-py", "zmq"}]


async def run(setup: Setup, folder: Path, loop: str = "asyncio") -> Round:
    """Run one brief round."""
    async with running(setup, folder, loop) as side:
        return await side.run(setup.load)


@pytest.mark.parametrize("name", CONTENDERS)
async def test_a_contender_answers_what_it_is_asked(name: str, tmp_path: Path) -> None:
    seen = await run(Setup(contender=name, load=BRIEF), tmp_path)
    assert seen.timing.requests > 0
    assert seen.handled == seen.timing.requests + 1  # the first one, whose answer is looked at
    assert seen.client_cpu > 0
    assert seen.client_mib > 0
    assert (seen.node_mib > 0) is not CONTENDERS[name].is_in_process


@pytest.mark.parametrize("name", NOTIFIES)
async def test_a_contender_takes_notifies(name: str, tmp_path: Path) -> None:
    load = Load(callers=4, keys=5, seconds=0.05, oneway=True)
    seen = await run(Setup(contender=name, load=load), tmp_path)
    assert seen.timing.requests > 0
    assert seen.handled > 0


@pytest.mark.parametrize("name", [name for name, entry in CONTENDERS.items() if not entry.is_in_process])
async def test_a_contender_spreads_over_several_nodes(name: str, tmp_path: Path) -> None:
    seen = await run(Setup(contender=name, load=BRIEF, nodes=3, shards=8), tmp_path)
    assert seen.handled == seen.timing.requests + 1


@pytest.mark.parametrize("name", ["clstr-nats", "nats-py", "grpc"])
async def test_a_contender_runs_on_uvloop(name: str, tmp_path: Path) -> None:
    seen = await run(Setup(contender=name, load=BRIEF), tmp_path, "uvloop")
    assert seen.timing.requests > 0


@pytest.mark.parametrize("name", ["clstr-nats", "nats-py"])
async def test_a_megabyte_fits(name: str, tmp_path: Path) -> None:
    load = Load(callers=2, payload_bytes=1024 * 1024, seconds=0.05)
    setup = Setup(contender=name, load=load, query="codec=msgpack", is_big=True)
    assert (await run(setup, tmp_path)).timing.requests > 0


async def test_a_contender_that_fails_fails_the_run_and_says_why(tmp_path: Path) -> None:
    load = Load(callers=1, payload_bytes=2 * 1024 * 1024, seconds=0.05)
    with pytest.raises(PeerError, match="PayloadTooLargeError"):
        await run(Setup(contender="clstr-nats", load=load), tmp_path)
