"""Nodes in processes of their own that are killed, frozen and restarted under load, before a judge."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import clstr
from clstr_testing import Journal, judge, read_journals

NODE = Path(__file__).with_name("node_program.py")
HEARTBEAT = 0.2
DETECTION = 4 * HEARTBEAT
CALLERS = 20
NewPort = Callable[[], int]


class Cluster:
    """Node processes, a client, and their journals."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[asyncio.subprocess.Process] = []
        self._lives = itertools.count()
        self._ids = itertools.count()

    async def start(self, url: str, peer_id: str, shards: str) -> asyncio.subprocess.Process:
        """Start a node; return when it is ready."""
        journal = self.folder / f"{peer_id}-{next(self._lives)}"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, NODE, url, peer_id, shards, journal), stdout=asyncio.subprocess.PIPE
        )
        self.processes.append(process)
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"ready\n"
        return process

    async def stop(self) -> list[int]:
        """Let every process end; return how they did."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        async with asyncio.timeout(30):
            return [await process.wait() for process in self.processes]

    async def call(self, client: clstr.Transport, journal: Journal, shard: int, timeout: float = 5) -> str:
        """Send one message; return how it ended."""
        message_id = f"m{next(self._ids)}"
        data = message_id.encode()
        envelope = clstr.Envelope(shard=shard, type="t", data=data, headers={"id": message_id})
        ended = await journal.observe(
            lambda: client.request(envelope, timeout=timeout),
            message_id=message_id,
            shard=shard,
            timeout=timeout,
            expected=data,
        )
        return ended.error

    @asynccontextmanager
    async def load(self, client: clstr.Transport, journal: Journal, *shards: int) -> AsyncIterator[list[str]]:
        """Send to ``shards`` from many callers meanwhile; yields how the calls ended, as they do."""
        errors: list[str] = []

        async def caller(shard: int) -> None:
            while True:
                errors.append(await self.call(client, journal, shard))
                await asyncio.sleep(0.002)

        tasks = [asyncio.create_task(caller(shards[number % len(shards)])) for number in range(CALLERS)]
        try:
            yield errors
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def until(self, client: clstr.Transport, journal: Journal, shard: int, *errors: str) -> None:
        """Send until a call ends as one of ``errors`` says; empty is an answer."""
        async with asyncio.timeout(20):
            while await self.call(client, journal, shard) not in errors:  # noqa: ASYNC110 -- a call is no event
                await asyncio.sleep(0.01)

    def judge(self) -> None:
        verdict = judge(read_journals(self.folder.iterdir()), margin=5.0)
        assert verdict.is_safe, str(verdict)
        assert verdict.counts["answered"] > 100, str(verdict)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    folder = tmp_path / "journals"
    folder.mkdir()
    running = Cluster(folder)
    yield running
    for process in running.processes:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
async def journal(cluster: Cluster) -> AsyncIterator[Journal]:
    with Journal(cluster.folder / "client") as opened:
        yield opened


@asynccontextmanager
async def client_of(port: int) -> AsyncIterator[Any]:
    url = f"zmq://127.0.0.1:{port}?heartbeat={HEARTBEAT}"
    async with clstr.connect(url, drain_timeout=1, reconnect_wait=0.1) as transport:
        yield transport


async def test_a_node_that_is_killed_and_restarted_on_its_port_runs_nothing_twice_or_late(
    cluster: Cluster, journal: Journal, new_port: NewPort
) -> None:
    """What was sent while it was dead fails at once, and never runs in its next life."""
    seed, port = new_port(), new_port()
    await cluster.start(f"zmq://?bind=tcp://127.0.0.1:{seed}&heartbeat={HEARTBEAT}", "seed", "1")
    url = f"zmq://127.0.0.1:{seed}?bind=tcp://127.0.0.1:{port}&heartbeat={HEARTBEAT}"
    victim = await cluster.start(url, "victim", "0")
    async with client_of(seed) as client:
        await cluster.until(client, journal, 0, "")
        async with cluster.load(client, journal, 0, 1) as errors:
            for _ in range(2):
                answered = errors.count("")
                while errors.count("") < answered + 100:  # noqa: ASYNC110 -- the callers tell no event
                    await asyncio.sleep(0.01)
                victim.kill()
                await victim.wait()
                await cluster.until(client, journal, 0, "NoShardSubscriberError", "TransportUnavailableError")
                victim = await cluster.start(url, "victim", "0")
                await cluster.until(client, journal, 0, "")
    assert set(errors) <= {"", "NoShardSubscriberError", "ConnectionLostError", "TransportUnavailableError"}
    codes = await cluster.stop()
    assert sorted(codes) == [-signal.SIGKILL] * 2 + [0, 0]
    cluster.judge()


async def test_a_node_that_is_frozen_for_twice_the_detection_time_comes_back(
    cluster: Cluster, journal: Journal, new_port: NewPort
) -> None:
    """Under load, in both directions; nobody's process is aborted, and the others go on."""
    seed, port = new_port(), new_port()
    await cluster.start(f"zmq://?bind=tcp://127.0.0.1:{seed}&heartbeat={HEARTBEAT}", "seed", "1")
    url = f"zmq://127.0.0.1:{seed}?bind=tcp://127.0.0.1:{port}&heartbeat={HEARTBEAT}"
    frozen = await cluster.start(url, "frozen", "0")
    async with client_of(seed) as client:
        await cluster.until(client, journal, 0, "")
        async with cluster.load(client, journal, 0, 1) as errors:
            for _ in range(2):
                frozen.send_signal(signal.SIGSTOP)
                await cluster.until(client, journal, 0, "NoShardSubscriberError")
                await cluster.until(client, journal, 1, "")
                await asyncio.sleep(2 * DETECTION)  # how long the fault lasts
                frozen.send_signal(signal.SIGCONT)
                await cluster.until(client, journal, 0, "")
    assert set(errors) <= {"", "NoShardSubscriberError", "ConnectionLostError"}
    assert await cluster.stop() == [0, 0]
    cluster.judge()


async def test_a_frozen_seed_does_not_keep_peers_apart_that_know_each_other(
    cluster: Cluster, journal: Journal, new_port: NewPort
) -> None:
    seed, port = new_port(), new_port()
    first = await cluster.start(f"zmq://?bind=tcp://127.0.0.1:{seed}&heartbeat={HEARTBEAT}", "seed", "1")
    url = f"zmq://127.0.0.1:{seed}?bind=tcp://127.0.0.1:{port}&heartbeat={HEARTBEAT}"
    await cluster.start(url, "other", "0")
    async with client_of(seed) as client:
        await cluster.until(client, journal, 0, "")
        first.send_signal(signal.SIGSTOP)
        await cluster.until(client, journal, 1, "NoShardSubscriberError")
        for _ in range(100):
            assert await cluster.call(client, journal, 0) == ""
        first.send_signal(signal.SIGCONT)
        await cluster.until(client, journal, 1, "")
    assert await cluster.stop() == [0, 0]
    cluster.judge()
