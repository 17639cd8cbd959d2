"""Actors whose state is stored slowly, and that must be whole after their shards have moved."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import msgspec

import clstr

POOL = 5  # connections of the store, for each process
STORE_SECONDS = 0.02  # for each connection: 300 actors take 1.2 s
ADDITIONS = 2  # to each actor
AT_ONCE = 32  # calls of one client
TIMEOUT = 20.0  # seconds; nothing but a busy machine makes these calls wait


class Add(msgspec.Struct, clstr.Message[int]):
    """Count one more."""


class Total(msgspec.Struct, clstr.Message[int]):
    """Tell the count."""


TYPES = frozenset({"Add", "Total"})


class Store:
    """
    A folder with a file for each key, behind a small pool of slow connections.

    Args:
        folder: The same for all processes.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._pool = asyncio.Semaphore(POOL)

    def read(self, key: str) -> int:
        """Return the count of ``key``, 0 if it was never stored."""
        path = self._folder / key
        return int(path.read_text(encoding="ascii")) if path.exists() else 0

    async def write(self, key: str, count: int) -> None:
        """Store the count of ``key``."""
        async with self._pool:
            await asyncio.sleep(STORE_SECONDS)
            new = self._folder / f".{key}"
            new.write_text(str(count), encoding="ascii")
            new.replace(self._folder / key)


class Account(clstr.Actor):
    """Counts in memory, and stores the count when it stops."""

    store: Store

    async def on_start(self) -> None:
        """Go on from what is stored."""
        self.count = self.store.read(self.key)

    async def on_stop(self) -> None:
        """Store the count."""
        await self.store.write(self.key, self.count)

    @clstr.handles(Add)
    async def add(self, message: Add, context: clstr.Context) -> int:
        """Count one more."""
        self.count += 1
        return self.count

    @clstr.handles(Total)
    async def total(self, message: Total, context: clstr.Context) -> int:
        """Tell the count."""
        return self.count


def accounts(folder: Path) -> clstr.ActorHandler:
    """Make a node's accounts, stored in ``folder``."""
    store = Store(folder)

    def create(_: str) -> Account:
        account = Account()
        account.store = store
        return account

    return clstr.ActorHandler(create, idle_after=None)


class Depositor:
    """
    Adds to accounts, and says later what is missing.

    Args:
        client: Sends again what did not run.
        num_shards: How many shards there are.
        name: What its keys begin with.
    """

    def __init__(self, client: clstr.Client, num_shards: int, name: str) -> None:
        self._client = client
        self._num_shards = num_shards
        self._name = name
        self._runs = itertools.count()
        self._acknowledged: Counter[str] = Counter()

    async def deposit(self, shards: Collection[int], accounts: int) -> None:
        """Add to so many new accounts of ``shards``, and remember what was acknowledged."""
        run = next(self._runs)
        keys = (f"{self._name}-{run}-{number}" for number in itertools.count())
        ours = (key for key in keys if clstr.shard_for_key(key, self._num_shards) in shards)
        self._acknowledged = Counter(dict.fromkeys(itertools.islice(ours, accounts), 0))
        await self._each(self._add, [*self._acknowledged] * ADDITIONS)

    async def missing(self) -> list[str]:
        """Ask every account, and describe those that have lost an addition, have one too many, or do not answer."""
        wrong: list[str] = []

        async def ask(key: str) -> None:
            try:
                total = await self._client.key(key).request(Total(), timeout=TIMEOUT)
            except clstr.ClstrError as error:
                wrong.append(f"{key} does not answer: {error!r}")
            else:
                if not self._acknowledged[key] <= total <= ADDITIONS:
                    wrong.append(f"{key} has {total} of {self._acknowledged[key]} acknowledged additions")

        await self._each(ask, list(self._acknowledged))
        return wrong

    async def _add(self, key: str) -> None:
        try:
            await self._client.key(key).request(Add(), timeout=TIMEOUT)
        except clstr.ClstrError:
            return  # it was not acknowledged
        self._acknowledged[key] += 1

    async def _each(self, act: Callable[[str], Awaitable[None]], keys: Collection[str]) -> None:
        places = asyncio.Semaphore(AT_ONCE)

        async def one(key: str) -> None:
            async with places:
                await act(key)

        await asyncio.gather(*map(one, keys))
