"""What the checks of a directory work with: members of one isolated store, and what each of them hears."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from clstr.spi import CLUSTER_KEY, Directory, Record, Snapshot, Swap, Version
from clstr_testing._check import Isolated


class Ears:
    """
    A sink that writes down what it hears.

    Attributes:
        heard: Each change, in order.
        gaps: How often changes may have been missed.
        downs: How often the store went away.
        ups: The history each time that it came back.
    """

    def __init__(self) -> None:
        self.heard: list[tuple[str, Record]] = []
        self.gaps = 0
        self.downs = 0
        self.ups: list[str] = []
        self._noticed = asyncio.Event()

    def changed(self, key: str, record: Record) -> None:
        """Write down a change."""
        self.heard.append((key, record))
        self._noticed.set()

    def gap(self) -> None:
        """Count a gap."""
        self.gaps += 1
        self._noticed.set()

    def down(self, error: Exception) -> None:
        """Count an outage."""
        assert isinstance(error, Exception)
        self.downs += 1
        self._noticed.set()

    def up(self, history: str) -> None:
        """Write down a return."""
        self.ups.append(history)
        self._noticed.set()

    async def until(self, condition: Callable[[Ears], bool]) -> None:
        """Wait until ``condition`` is true of what was heard; the check's guard bounds it."""
        while not condition(self):
            await self.next()

    async def next(self) -> None:
        """Wait until something is heard that no earlier call has returned for."""
        await self._noticed.wait()
        self._noticed.clear()

    def versions(self, key: str) -> list[Version]:
        """Return the versions of ``key`` that were heard, in order."""
        return [record.version for each, record in self.heard if each == key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One directory of the check's store, open, and what it hears."""

    directory: Directory
    ears: Ears

    async def read(self) -> Snapshot:
        """Return every record."""
        return await self.directory.read()

    async def record(self, key: str) -> Record:
        """Return what ``key`` holds."""
        return (await self.read()).record(key)

    async def put(self, key: str, value: bytes | None) -> Version:
        """Change ``key``, whatever it holds."""
        return await self.directory.swap(Swap(key, (await self.record(key)).expected, value))

    async def found(self) -> str:
        """Create the record of the cluster, and return the history that begins with it."""
        await self.put(CLUSTER_KEY, b"cluster")
        return (await self.read()).history

    async def sees(self, key: str, value: bytes | None) -> None:
        """Wait until the watch has brought ``value``, or has admitted a gap and a read shows it."""
        while not await self._shows(key, value):
            await self.ears.next()

    async def _shows(self, key: str, value: bytes | None) -> bool:
        heard = [record for each, record in self.ears.heard if each == key]
        if heard and heard[-1].value == value:
            return True
        return bool(self.ears.gaps or self.ears.ups) and (await self.record(key)).value == value


class DirectoryBench(Isolated):
    """What a check of a directory works with."""

    async def connect(self) -> Directory:
        """Return one more directory of this check's store, not yet open."""
        raise NotImplementedError(f"{type(self).__name__} needs the method `async def connect(self) -> Directory`")

    async def member(self) -> Member:
        """Open a directory that is closed when the check ends."""
        member = Member(directory=await self.connect(), ears=Ears())
        self._peers.push_async_callback(member.directory.aclose)
        await member.directory.open(member.ears)
        return member

    async def two(self) -> tuple[Member, Member]:
        """Open two members of a cluster that has begun."""
        first, second = await self.member(), await self.member()
        await first.found()
        return first, second
