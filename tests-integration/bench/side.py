"""One side of a comparison: a contender, its broker, its processes, and a round of it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from bench.contender import Load, Place, Timing
from bench.contenders.table import CONTENDERS, Entry
from chaos.process import Process
from clstr_testing import Server, free_port, nats_server

WORKER = Path(__file__).with_name("worker.py")
PATIENCE = 120.0  # seconds for an answer: longer than any round
BIG_MESSAGES = "max_payload: 8388608"  # for NATS: a megabyte of payload and its envelope fit
# Else glibc gives megabytes back to the system and takes them again, or not, as chance has placed them.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "134217728"}


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """
    What one side consists of.

    Attributes:
        contender: Its name in the table.
        load: What its client does.
        nodes: How many processes answer.
        shards: The number of shards, for clstr.
        query: More parameters for clstr's URL.
        is_big: Whether the broker's limit on the size of a message is raised, and memory is kept for large messages.
    """

    contender: str
    load: Load
    nodes: int = 1
    shards: int = 64
    query: str = ""
    is_big: bool = False


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """
    What one side did in one round.

    Attributes:
        timing: What its client saw.
        handled: What its nodes answered.
        client_cpu: Seconds that the client's process computed.
        node_cpu: The same of the nodes' processes; 0 where they are the client's.
        broker_cpu: The same of the broker's.
        client_mib: The most memory that the client's process had so far.
        node_mib: The most that a node's had.
    """

    timing: Timing
    handled: int
    client_cpu: float
    node_cpu: float
    broker_cpu: float
    client_mib: float
    node_mib: float

    @property
    def rate(self) -> float:
        """Messages answered each second; notifies count when a node has them."""
        return min(self.timing.requests, self.handled) / self.timing.seconds

    @property
    def p50(self) -> float:
        """Seconds in which half of the requests were answered."""
        return self.timing.p50

    @property
    def p99(self) -> float:
        """Seconds in which 99 of 100 were."""
        return self.timing.p99


class Usage(msgspec.Struct, frozen=True):
    """What processes have used so far."""

    cpu: float = 0.0
    mib: float = 0.0
    handled: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.cpu + other.cpu, max(self.mib, other.mib), self.handled + other.handled)


class Side:
    """The processes of one side. Made by `running`."""

    def __init__(self, client: Process, nodes: list[Process], broker: Server | None) -> None:
        self._client = client
        self._nodes = nodes
        self._broker = broker

    async def stop(self) -> None:
        """Let every process end in good order, and fail if one does not."""
        for process in (self._client, *self._nodes):
            await process.stop()

    async def run(self, load: Load) -> Round:
        """Let the client do ``load`` once, and see what that took."""
        before = await self._usage()
        timing = msgspec.convert(await self._client.tell("run", msgspec.to_builtins(load)), Timing)
        after = await self._usage()
        (client, nodes, broker), (client_then, nodes_then, broker_then) = after, before
        return Round(
            timing=timing,
            handled=(client + nodes).handled - (client_then + nodes_then).handled,
            client_cpu=client.cpu - client_then.cpu,
            node_cpu=nodes.cpu - nodes_then.cpu,
            broker_cpu=broker - broker_then,
            client_mib=client.mib,
            node_mib=nodes.mib,
        )

    async def _usage(self) -> tuple[Usage, Usage, float]:
        client = await _usage_of(self._client)
        nodes = sum([await _usage_of(node) for node in self._nodes], Usage())
        return client, nodes, 0.0 if self._broker is None else cpu_of(self._broker.pid)


async def _usage_of(process: Process) -> Usage:
    return msgspec.convert(await process.tell("usage"), Usage)


def cpu_of(pid: int) -> float:
    """Return the seconds that a process has computed, as Linux tells."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime


@asynccontextmanager
async def running(setup: Setup, folder: Path, loop: str) -> AsyncIterator[Side]:
    """Start the broker, the nodes and the client of a side; they end with the block."""
    entry = CONTENDERS[setup.contender]
    async with AsyncExitStack() as stack:
        broker = await _broker(entry, stack, is_big=setup.is_big)
        place = Place(
            url=entry.url if broker is None else broker.url,
            ports=tuple(free_port() for _ in range(setup.nodes)),
            nodes=setup.nodes,
            shards=setup.shards,
            query=setup.query,
        )

        async def start(role: str) -> Process:
            arguments = [setup.contender, role, msgspec.json.encode(place).decode(), f"--loop={loop}"]
            process = Process(
                arguments,
                folder / f"{setup.contender}-{role}.log",
                program=WORKER,
                patience=PATIENCE,
                environment=KEEP_MEMORY if setup.is_big else None,
            )
            stack.push_async_callback(process.kill)
            await process.start()
            return process

        nodes = [] if entry.is_in_process else [await start(str(node)) for node in range(setup.nodes)]
        side = Side(await start("both" if entry.is_in_process else "client"), nodes, broker)
        yield side
        await side.stop()


async def _broker(entry: Entry, stack: AsyncExitStack, *, is_big: bool) -> Server | None:
    if entry.broker is None:
        return None
    config = BIG_MESSAGES if is_big and entry.broker is nats_server else ""
    return await stack.enter_async_context(entry.broker(config=config))
