"""pykka: an actor, which is a thread, for each key."""

from __future__ import annotations

import itertools
import threading
import time
from array import array
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pykka

from bench.contender import Ask, Contender, Load, Prepare, Timing


class _Counting(pykka.ThreadingActor):
    def __init__(self, contender: PykkaAsk) -> None:
        super().__init__()
        self._contender = contender
        self._value = 0

    def on_receive(self, message: Any) -> tuple[int, bytes]:
        self._contender.handled += 1
        self._value += 1
        return self._value, message


class PykkaAsk(Contender):
    """Counts, and sends the payload back. Everything is in one process."""

    @asynccontextmanager
    async def serve(self, node: int) -> AsyncIterator[None]:
        """Wait: actors start when they are asked."""
        yield

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Prepare]:
        """Start no actor yet."""
        self._actors: list[pykka.ActorRef[_Counting]] = []
        try:
            yield self._ask
        finally:
            for actor in self._actors:
                actor.stop()

    def _ask(self, load: Load) -> Ask:
        while len(self._actors) < load.keys:
            self._actors.append(_Counting.start(self))

        async def request(number: int) -> bytes:
            future: pykka.Future[tuple[int, bytes]] = self._actors[number].ask(load.payload, block=False)
            return future.get()[1]

        return request

    async def drive(self, ask: Ask, load: Load) -> Timing:
        """Let each caller, a thread, ask and wait."""
        numbers, took, payload = itertools.count(), array("d"), load.payload
        began = time.perf_counter()

        def call() -> None:
            now = time.perf_counter()
            while now < began + load.seconds:
                self._actors[next(numbers) % load.keys].ask(payload)
                asked, now = now, time.perf_counter()
                took.append(now - asked)

        callers = [threading.Thread(target=call) for _ in range(load.callers)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        return Timing.of(took, time.perf_counter() - began)


class PykkaPipelined(PykkaAsk):
    """The same, but one thread keeps as many asks in flight as there are callers, and takes their answers in order."""

    async def drive(self, ask: Ask, load: Load) -> Timing:
        """Ask without waiting."""
        numbers, took, payload = itertools.cycle(range(load.keys)), array("d"), load.payload
        waiting: deque[tuple[float, pykka.Future[Any]]] = deque()
        now = began = time.perf_counter()
        while waiting or now < began + load.seconds:
            if len(waiting) < load.callers and now < began + load.seconds:
                waiting.append((now, self._actors[next(numbers)].ask(payload, block=False)))
            else:
                asked, answer = waiting.popleft()
                answer.get()
                took.append(time.perf_counter() - asked)
            now = time.perf_counter()
        return Timing.of(took, now - began)
