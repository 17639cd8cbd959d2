"""A directory that fails at random: what stands on one is tested with it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from clstr.spi import (
    Directory,
    DirectorySink,
    DirectoryUnavailableError,
    Record,
    Snapshot,
    Swap,
    SwapConflictError,
    Version,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryFaults:
    """
    How often a `FaultyDirectory` fails: each probability is 0 to 1, and by default nothing fails.

    Attributes:
        refused: Probability that a call fails before it is sent; a swap then says ``maybe_applied=False``.
        lost: Probability that a swap is made and its answer is lost.
        late: Probability that a swap fails, and is made later all the same.
        late_by: Seconds after which such a swap is made, at most.
        mute: Probability, at each change, that the watch falls silent before it. It tells nobody.
        mute_for: Seconds for which the watch is silent; then it admits a gap.
        delay: Seconds that a call takes on its way and back, at most.
    """

    refused: float = 0.0
    lost: float = 0.0
    late: float = 0.0
    late_by: float = 5.0
    mute: float = 0.0
    mute_for: float = 5.0
    delay: float = 0.0


class FaultyDirectory(Directory):
    """
    A directory over another one, with faults that the contract allows. With one seed it fails in one way.

    Args:
        directory: The one that does the work.
        faults: How often it fails; may be replaced at any time.
        random: Decides; its seed makes a run repeatable, on a `VirtualTimeLoop`.

    Attributes:
        faults: How often it fails.
    """

    def __init__(self, directory: Directory, faults: DirectoryFaults, random: Random) -> None:
        self.faults: DirectoryFaults = faults
        self.failover: float = directory.failover
        self.tells_losses: bool = directory.tells_losses
        self._directory = directory
        self._random = random
        self._late: set[asyncio.Task[None]] = set()
        self._watch: _FaultySink | None = None

    async def open(self, sink: DirectorySink) -> None:
        """Open the directory."""
        self._watch = _FaultySink(sink, self, self._random)
        await self._directory.open(self._watch)

    async def read(self) -> Snapshot:
        """
        Return every record.

        Raises:
            DirectoryUnavailableError: By chance, or because the directory does.
        """
        await self._travel()
        self._refuse()
        snapshot = await self._directory.read()
        await self._travel()
        return snapshot

    async def swap(self, swap: Swap) -> Version:
        """
        Change one record.

        Raises:
            DirectoryUnavailableError: By chance, or because the directory does.
            SwapConflictError: It has another version.
        """
        await self._travel()
        self._refuse()
        if self._random.random() < self.faults.late:
            self._make_later(swap)
            raise DirectoryUnavailableError("no answer yet", maybe_applied=True)
        version = await self._directory.swap(swap)
        if self._random.random() < self.faults.lost:
            raise DirectoryUnavailableError("the answer was lost", maybe_applied=True)
        await self._travel()
        return version

    def _refuse(self) -> None:
        if self._random.random() < self.faults.refused:
            raise DirectoryUnavailableError("the store cannot be reached", maybe_applied=False)

    async def _travel(self) -> None:
        await asyncio.sleep(self._random.uniform(0, self.faults.delay))

    def _make_later(self, swap: Swap) -> None:
        task = asyncio.create_task(self._swap_after(self._random.uniform(0, self.faults.late_by), swap))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _swap_after(self, seconds: float, swap: Swap) -> None:
        await asyncio.sleep(seconds)
        with suppress(SwapConflictError, DirectoryUnavailableError):  # nobody waits for it
            await self._directory.swap(swap)

    async def aclose(self) -> None:
        """Close the directory. Swaps that were to be made later are not."""
        if self._watch is not None:
            self._watch.end()
        late = list(self._late)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        await self._directory.aclose()


class _FaultySink:
    """Hands on what the directory tells, unless the watch is silent."""

    def __init__(self, sink: DirectorySink, owner: FaultyDirectory, random: Random) -> None:
        self._sink = sink
        self._owner = owner
        self._random = random
        self._silence: asyncio.TimerHandle | None = None

    def changed(self, key: str, record: Record) -> None:
        if self._silence is None and self._random.random() < self._owner.faults.mute:
            self._silence = asyncio.get_running_loop().call_later(self._owner.faults.mute_for, self._speak)
        if self._silence is None:
            self._sink.changed(key, record)

    def _speak(self) -> None:
        self._silence = None
        self._sink.gap()

    def gap(self) -> None:
        self._sink.gap()

    def down(self, error: Exception) -> None:
        self._sink.down(error)

    def up(self, history: str) -> None:
        self._sink.up(history)

    def end(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
