"""What is measured in one process: assigning shards, subscribing, and the memory of what waits or idles."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from hashlib import blake2b
from typing import Any

import msgspec
import nats

import clstr
from bench.contender import Place
from bench.contenders.clstr_actor import Counter
from clstr.spi import Engine, Link, Route, Sink
from clstr_testing import nats_server

NODES, SHARDS = 100, 4096
PENDING, ACTORS = 5_000, 20_000
DIGEST_BYTES = 8


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """
    A cost, once for each round.

    Attributes:
        name: What the command line calls it.
        unit: ``s`` or ``bytes``.
        ours: What clstr takes.
        theirs: What the same takes without it; empty if there is no such thing.
        at_most: The largest ratio that is good enough, or the largest figure without ``theirs``.
    """

    name: str
    unit: str
    ours: list[float]
    theirs: list[float]
    at_most: float | None = None

    @property
    def figure(self) -> float:
        """The median of the ratios, or of what clstr takes."""
        if not self.theirs:
            return statistics.median(self.ours)
        return statistics.median(ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True))

    @property
    def is_met(self) -> bool:
        """Whether it is cheap enough."""
        return self.at_most is None or self.figure <= self.at_most


def _texts(nodes: Sequence[str]) -> list[bytes]:
    return [f"shard:{shard}\0{node}".encode() for shard in range(SHARDS) for node in nodes]


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _digest(texts: Sequence[bytes]) -> None:
    for text in texts:
        blake2b(text, digest_size=DIGEST_BYTES).digest()


async def assigning(rounds: int) -> Cost:
    """Every node's shards, beside as many bare digests."""
    nodes = [f"node-{number}" for number in range(NODES)]
    texts = _texts(nodes)
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(_seconds(partial(_digest, texts)))
        ours.append(_seconds(lambda: clstr.assign_shards(nodes, SHARDS)))
    return Cost(name="assign-shards", unit="s", ours=ours, theirs=theirs, at_most=1.5)


async def joining(rounds: int) -> Cost:
    """One node more, beside one bare digest for each shard."""
    assignment = clstr.Assignment.of([f"node-{number}" for number in range(NODES)], SHARDS)
    texts = _texts(["newcomer"])
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(_seconds(partial(_digest, texts)))
        ours.append(_seconds(lambda: assignment.join("newcomer")))
    return Cost(name="join", unit="s", ours=ours, theirs=theirs)


async def subscribing_nats(rounds: int) -> Cost:
    """A node with many shards, beside as many bare subscriptions of nats-py."""

    async def ignore(*_: object) -> None:
        return None

    ours, theirs = [], []
    async with nats_server() as server:
        for _ in range(rounds):
            connection = await nats.connect(server.url)
            began = time.perf_counter()
            for shard in range(SHARDS):
                await connection.subscribe(f"shard.{shard}", cb=ignore)
            await connection.flush()
            theirs.append(time.perf_counter() - began)
            await connection.close()
            ours.append(await _subscribe(server.url))
    return Cost(name="subscribe-nats", unit="s", ours=ours, theirs=theirs)


async def _subscribe(url: str) -> float:
    async def ignore(_: clstr.Envelope) -> None:
        return None

    async with clstr.connect(url) as transport:
        began = time.perf_counter()
        async with clstr.Node(transport, ignore, shards=range(SHARDS)):
            return time.perf_counter() - began


class _Silent(Link):
    """A link on which no answer ever comes: what waits, waits."""

    async def open(self, sink: Sink) -> None: ...

    async def hold(self, shards: Sequence[int]) -> None: ...

    async def drop(self, shards: Sequence[int]) -> None: ...

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        return None

    def reply(self, to: object, body: bytes) -> bool:
        return True

    async def flush(self) -> None: ...

    async def aclose(self) -> None: ...


async def pending_memory(rounds: int) -> Cost:
    """A request that waits for its answer, its task and its payload of 100 bytes included."""
    return Cost(
        name="pending-request",
        unit="bytes",
        ours=[await _pending_bytes() for _ in range(rounds)],
        theirs=[],
        at_most=3 * 1024,
    )


async def _pending_bytes() -> float:
    transport = await Engine(_Silent()).open()
    client = clstr.Client(transport, num_shards=64)
    async with _traced() as traced:
        asks = (client.request_key(f"key-{number}", "Echo", bytes(100)) for number in range(PENDING))
        tasks = [asyncio.create_task(ask) for ask in asks]
        await asyncio.sleep(0)
        assert len(transport.pending) == PENDING
        taken = traced()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await transport.aclose()
    return taken / PENDING


async def actor_memory(rounds: int) -> Cost:
    """An actor that idles, its key and its state included."""
    return Cost(
        name="idle-actor", unit="bytes", ours=[await _actor_bytes() for _ in range(rounds)], theirs=[], at_most=2048
    )


async def _actor_bytes() -> float:
    handler = Counter(Place(url="", ports=())).handler()
    assert isinstance(handler, clstr.ActorHandler)
    async with _traced() as traced:
        for number in range(ACTORS):
            data = b'{"by":1,"note":""}'
            await handler(clstr.Envelope(shard=0, type="Add", data=data, headers={"x-clstr-key": f"key-{number}"}))
        taken = traced()
    await handler.aclose()
    return taken / ACTORS


@asynccontextmanager
async def _traced() -> AsyncIterator[Callable[[], int]]:
    """Provide a function that says by how many bytes memory has grown."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()

        def grown() -> int:
            gc.collect()
            return tracemalloc.get_traced_memory()[0] - before

        yield grown
    finally:
        tracemalloc.stop()


COSTS: dict[str, Callable[[int], Coroutine[Any, Any, Cost]]] = {
    "assign-shards": assigning,
    "join": joining,
    "subscribe-nats": subscribing_nats,
    "pending-request": pending_memory,
    "idle-actor": actor_memory,
}
