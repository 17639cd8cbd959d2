"""What a client of a campaign sends."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import clstr
from clstr_testing import Journal

TICK = 0.01  # seconds between two bursts
RATE = 100  # messages a second
MOST_AT_ONCE = 2000  # calls that have not ended; an overload does not grow without a bound
TIMEOUTS = (0.5, 1.0, 2.0)
NOTIFY, CANCEL = 0.15, 0.05  # the shares that are notifies, and that are cancelled
SIZES = (0, 20, 20, 20, 1000, 20_000)  # bytes
PROBE_TIMEOUT = 0.5  # seconds for each try
PROBE_PAUSE = 0.02
LARGE_COPIES = 600  # of a message of `LARGE_SIZE`: 600,000 bytes, which every broker carries by default
LARGE_SIZE = 1000  # bytes
LARGE_TIMEOUT = 20.0  # seconds; a busy machine makes such answers slow, and nothing may lose them


def reply_to(data: bytes, message_type: str = "Echo") -> bytes:
    """Return the one right reply."""
    return data[::-1] * (LARGE_COPIES if message_type == "Large" else 1)


class Load:
    """
    Sends messages at a rate, whether they are answered or not, until it is closed.

    Args:
        client: Sends them.
        patient: Sends again what did not run; for large answers.
        journal: Has a record of each.
        name: What the ids of messages begin with.
        num_shards: How many shards there are.
        seed: For what is left to chance.
        patience: How many times the usual its messages wait.
    """

    def __init__(
        self,
        client: clstr.Client,
        patient: clstr.Client,
        journal: Journal,
        name: str,
        num_shards: int,
        seed: int,
        patience: float,
    ) -> None:
        self._client = client
        self._patient = patient
        self._journal = journal
        self._name = name
        self._num_shards = num_shards
        self._chance = random.Random(seed)
        self._timeouts = [patience * timeout for timeout in TIMEOUTS]
        self._numbers = itertools.count()
        self._calls: set[asyncio.Task[None]] = set()
        self._rate = 0.0
        self._latencies: deque[float] = deque(maxlen=10_000)
        self._types: tuple[str, ...] = ("Echo",)

    async def __aenter__(self) -> Self:
        self._sender = asyncio.create_task(self._send_on())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._sender.cancel()
        await asyncio.gather(self._sender, *self._calls, return_exceptions=True)

    async def change(self, factor: float, *types: str) -> None:
        """Send so many times the usual, of these types."""
        self._rate, self._types = RATE * factor, types

    async def settle(self) -> None:
        """Send no more, and wait until every call has ended."""
        self._rate = 0
        while self._calls:
            await asyncio.wait(self._calls)

    async def latencies(self) -> list[float]:
        """Return how many seconds half of the answers since the last time took at most, and 99 of 100."""
        seconds = list(self._latencies)
        self._latencies.clear()
        if len(seconds) < 2:
            return [0.0, 0.0]
        return [statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]]

    async def ask_for_large_answers(self, count: int, shard: int | None = None) -> list[str]:
        """Ask so many times at once, one shard or any; return how the calls ended that were not answered."""
        shards = [self._chance.randrange(self._num_shards) if shard is None else shard for _ in range(count)]
        return [kind for kind in await asyncio.gather(*map(self._ask_for_large_answer, shards)) if kind]

    async def _ask_for_large_answer(self, shard: int) -> str:
        data = self._chance.randbytes(LARGE_SIZE)
        name, headers = self._new_id()

        def ask() -> Awaitable[bytes]:
            return self._patient.request_shard(shard, "Large", data, headers=headers, timeout=LARGE_TIMEOUT)

        expected = reply_to(data, "Large")
        ended = await self._journal.observe(ask, message_id=name, shard=shard, timeout=LARGE_TIMEOUT, expected=expected)
        return "" if ended.kind == "answered" else ended.error or ended.kind

    async def probe(self, within: float) -> float | list[int]:
        """Ask each shard until it answers; return the seconds that the slowest took, or those that never did."""
        began = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(self._probe(shard, began + within) for shard in range(self._num_shards)))
        silent = [shard for shard, has_answered in enumerate(answers) if not has_answered]
        return silent or asyncio.get_running_loop().time() - began

    async def _probe(self, shard: int, until: float) -> bool:
        data = b"probe"
        while asyncio.get_running_loop().time() < until:
            name, headers = self._new_id()

            def ask(headers: dict[str, str] = headers) -> Awaitable[bytes]:
                return self._client.request_shard(shard, "Echo", data, headers=headers, timeout=PROBE_TIMEOUT)

            if await self._observe(ask, name, shard, PROBE_TIMEOUT, reply_to(data)):
                return True
            await asyncio.sleep(PROBE_PAUSE)
        return False

    async def _send_on(self) -> None:
        due = 0.0
        while True:
            await asyncio.sleep(TICK)
            due += self._rate * TICK
            while due >= 1:
                due -= 1
                if len(self._calls) < MOST_AT_ONCE:
                    self._start(self._call())

    def _start(self, call: Awaitable[None]) -> None:
        task = asyncio.ensure_future(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        if self._chance.random() < CANCEL:
            asyncio.get_running_loop().call_later(self._chance.uniform(0, 0.02), task.cancel)

    async def _call(self) -> None:
        chance = self._chance
        data = chance.randbytes(chance.choice(SIZES))
        timeout = chance.choice(self._timeouts)
        message_type = chance.choice(self._types)
        name, headers = self._new_id()
        key = f"key-{chance.randrange(10_000)}"
        shard = clstr.shard_for_key(key, self._num_shards)

        def call() -> Awaitable[bytes | None]:
            send = self._client.notify_key if is_notify else self._client.request_key
            return send(key, message_type, data, headers=headers, timeout=timeout)

        is_notify = chance.random() < NOTIFY
        await self._observe(call, name, shard, timeout, None if is_notify else reply_to(data))

    def _new_id(self) -> tuple[str, dict[str, str]]:
        name = f"{self._name}-{next(self._numbers)}"
        return name, {"id": name}

    async def _observe(
        self,
        call: Callable[[], Awaitable[bytes | None]],
        name: str,
        shard: int,
        timeout: float,
        expected: bytes | None,
    ) -> bool:
        began = asyncio.get_running_loop().time()
        ended = await self._journal.observe(call, message_id=name, shard=shard, timeout=timeout, expected=expected)
        if ended.kind != "answered":
            return False
        self._latencies.append(asyncio.get_running_loop().time() - began)
        return True
