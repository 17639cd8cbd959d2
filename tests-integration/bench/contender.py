"""What is measured: something that answers requests, and how it is asked."""

from __future__ import annotations

import asyncio
import itertools
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import msgspec

Ask = Callable[[int], Awaitable[bytes | None]]
"""Asks about the key of that number and returns the payload that came back; `None` if a notify was sent."""

Prepare = Callable[["Load"], Ask]
"""What an open client is: it makes the way of asking that fits a load."""

PACE = 0.001  # seconds between two looks at what is due, for a load with a rate


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """
    Where a contender runs.

    Attributes:
        url: The broker's URL; empty without a broker.
        ports: A free port of 127.0.0.1 for each node, for contenders without a broker.
        nodes: How many nodes there are.
        shards: The number of shards.
        query: More parameters for clstr's URL, as in ``codec=msgpack``.
    """

    url: str
    ports: tuple[int, ...]
    nodes: int = 1
    shards: int = 64
    query: str = ""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a client does in one round.

    Attributes:
        callers: Requests in flight. With a rate they are what comes of it.
        keys: How many keys the requests are spread over.
        payload_bytes: Of each request, and of each reply.
        seconds: How long.
        rate: Requests begun each second; 0 is as many as there are answers.
        oneway: Whether these are notifies.
    """

    callers: int = 256
    keys: int = 100
    payload_bytes: int = 100
    seconds: float = 2.0
    rate: float = 0.0
    oneway: bool = False

    @property
    def payload(self) -> bytes:
        """The payload: text, for those who wrap it in JSON."""
        return b"x" * self.payload_bytes


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a client saw in one round.

    Attributes:
        requests: How many were answered.
        seconds: How long all of them took.
        p50: Seconds in which half of them were answered.
        p99: Seconds in which 99 of 100 were.
    """

    requests: int
    seconds: float
    p50: float
    p99: float

    @classmethod
    def of(cls, took: array[float], seconds: float) -> Timing:
        """Sum up the seconds that each request took."""
        ordered = sorted(took)
        return cls(
            requests=len(ordered),
            seconds=seconds,
            p50=ordered[len(ordered) // 2],
            p99=ordered[len(ordered) * 99 // 100],
        )


class Contender(ABC):
    """
    Something that answers requests. Its nodes and its client are processes of their own.

    Args:
        place: Where.

    Attributes:
        handled: How many messages this process has answered, as a node.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.handled = 0

    @abstractmethod
    def serve(self, node: int) -> AbstractAsyncContextManager[None]:
        """Be the node of that number."""

    @abstractmethod
    def client(self) -> AbstractAsyncContextManager[Prepare]:
        """Be the client; on return every node can be reached."""

    async def drive(self, ask: Ask, load: Load) -> Timing:
        """Put ``load`` on the nodes."""
        return await (at_rate if load.rate else closed_loop)(ask, load)


_numbers = itertools.count()  # goes on from round to round: many keys are all met only over several


async def closed_loop(ask: Ask, load: Load) -> Timing:
    """Let each caller ask again as soon as it is answered."""
    clock, keys, took = time.perf_counter, load.keys, array("d")
    began = clock()
    end = began + load.seconds

    async def call() -> None:
        asked = clock()
        while asked < end:
            await ask(next(_numbers) % keys)
            answered = clock()
            took.append(answered - asked)
            asked = answered

    async with asyncio.TaskGroup() as group:
        for _ in range(load.callers):
            group.create_task(call())
    return Timing.of(took, clock() - began)


async def at_rate(ask: Ask, load: Load) -> Timing:
    """
    Begin requests at a rate, answered or not.

    A request's time counts from when it was due, so that a client that is late for it hides nothing.
    """
    clock, took = time.perf_counter, array("d")
    began = clock()

    async def call(due: float) -> None:
        await ask(next(_numbers) % load.keys)
        took.append(clock() - due)

    async with asyncio.TaskGroup() as group:
        begun, total = 0, int(load.rate * load.seconds)
        while begun < total:
            for number in range(begun, min(total, int((clock() - began) * load.rate) + 1)):
                group.create_task(call(began + number / load.rate))
                begun = number + 1
            await asyncio.sleep(PACE)
    return Timing.of(took, clock() - began)
