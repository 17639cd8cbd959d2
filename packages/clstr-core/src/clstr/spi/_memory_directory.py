"""A directory in this process' memory: for the memory transport, for tests, and for the simulation of the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import uuid4

from clstr.spi._directory import (
    CLUSTER_KEY,
    Directory,
    DirectorySink,
    DirectoryUnavailableError,
    Record,
    Snapshot,
    Swap,
    SwapConflictError,
    Version,
)

_AWAY = "the memory directory is cut"


def _new_id() -> str:
    return uuid4().hex


class MemoryRecords:
    """
    The store that the memory directories of one cluster share. It belongs to one event loop.

    It can fail as real stores do: `cut` and `restore`, `loses_answers`, `wipe`, `roll_back`.

    Args:
        new_id: Makes the random part of a history's name.

    Attributes:
        is_cut: Whether nobody reaches it.
        loses_answers: Whether it makes swaps that nobody gets the answer to.
    """

    def __init__(self, *, new_id: Callable[[], str] = _new_id) -> None:
        self.is_cut: bool = False
        self.loses_answers: bool = False
        self._new_id = new_id
        self._values: dict[str, tuple[int, bytes]] = {}
        self._order = 0
        self._incarnation = ""
        self._losses = 0
        self._watchers: list[MemoryDirectory] = []

    @property
    def history(self) -> str:
        """The name of the records' history: empty without the record `CLUSTER_KEY`, and another after `roll_back`."""
        return f"{self._incarnation}.{self._losses}" if CLUSTER_KEY in self._values else ""

    def read(self) -> Snapshot:
        """Return every record."""
        history = self.history
        records = {key: Record(value, Version(history, order)) for key, (order, value) in self._values.items()}
        return Snapshot(history=history, order=self._order, records=records)

    def swap(self, swap: Swap) -> Version:
        """
        Change one record.

        Raises:
            SwapConflictError: It has another version, or the store has another history.
        """
        order, value = self._values.get(swap.key, (0, None))
        actual = Version(self.history, order)
        if swap.expected != actual or not (actual.history or swap.key == CLUSTER_KEY):
            raise SwapConflictError(swap.key, Record(value, actual))
        return self._put(swap)

    def _put(self, swap: Swap) -> Version:
        if not self.history:
            self._begin()
        self._order += 1
        if swap.value is None:
            self._values.pop(swap.key, None)
        else:
            self._values[swap.key] = self._order, swap.value
        record = Record(swap.value, Version(self.history, self._order))
        for watcher in self._watchers:
            watcher.notify(swap.key, record)
        return record.version

    def _begin(self) -> None:
        """Begin a history. What is left of an earlier one goes with it."""
        self._incarnation = self._new_id()
        self._values.clear()

    def cut(self) -> None:
        """Let nobody reach it, until `restore`."""
        self.is_cut = True
        for watcher in self._watchers:
            watcher.lose(ConnectionResetError(_AWAY))

    def restore(self) -> None:
        """Let everybody reach it again."""
        self.is_cut = False
        for watcher in self._watchers:
            watcher.regain(self.history)

    def wipe(self) -> None:
        """Lose every record and count orders from 1 again, and tell nobody: as ``FLUSHALL`` does."""
        self._values.clear()
        self._order = 0

    def roll_back(self, snapshot: Snapshot) -> None:
        """
        Hold what ``snapshot`` does, and count orders from there, as if a replica that lagged was promoted.

        The history changes.

        Args:
            snapshot: What `read` returned.
        """
        self._values = {
            key: (record.version.order, record.value)
            for key, record in snapshot.records.items()
            if record.value is not None
        }
        self._order = snapshot.order
        self._incarnation = snapshot.history.rpartition(".")[0]
        self._losses += 1
        for watcher in self._watchers:
            watcher.regain(self.history)

    def enter(self, watcher: MemoryDirectory) -> None:
        """Tell ``watcher`` of every change from now on."""
        self._watchers.append(watcher)

    def leave(self, watcher: MemoryDirectory) -> None:
        """Tell it nothing any more."""
        if watcher in self._watchers:
            self._watchers.remove(watcher)


class MemoryDirectory(Directory):
    """
    One connection to `MemoryRecords`.

    Args:
        records: The store, the same for every node of the cluster.
    """

    def __init__(self, records: MemoryRecords) -> None:
        self._records = records
        self._sink: DirectorySink | None = None
        self._is_closed = False

    async def open(self, sink: DirectorySink) -> None:
        """
        Watch the records.

        Raises:
            DirectoryUnavailableError: They are cut, or this directory is closed.
        """
        self._check()
        self._loop = asyncio.get_running_loop()
        self._sink = sink
        self._records.enter(self)

    async def read(self) -> Snapshot:
        """
        Return every record.

        Raises:
            DirectoryUnavailableError: They are cut, or this directory is closed.
        """
        self._check()
        return self._records.read()

    async def swap(self, swap: Swap) -> Version:
        """
        Change one record.

        Raises:
            DirectoryUnavailableError: The records are cut, or this directory is closed, and nothing was changed; or the
                answer was lost.
            SwapConflictError: It has another version.
        """
        self._check()
        version = self._records.swap(swap)
        if self._records.loses_answers:
            raise DirectoryUnavailableError("the answer was lost", maybe_applied=True)
        return version

    async def aclose(self) -> None:
        """Watch no more."""
        self._is_closed = True
        self._sink = None
        self._records.leave(self)

    def _check(self) -> None:
        if self._is_closed:
            raise DirectoryUnavailableError("the directory is closed: open another", maybe_applied=False)
        if self._records.is_cut:
            raise DirectoryUnavailableError(_AWAY, maybe_applied=False)

    def notify(self, key: str, record: Record) -> None:
        """Tell the sink of a change, in the loop's next turn: as with any store, after the swap has returned."""
        if not self._records.is_cut:
            self._loop.call_soon(self._tell, lambda sink: sink.changed(key, record))

    def lose(self, error: Exception) -> None:
        """Tell the sink that the store is away."""
        self._loop.call_soon(self._tell, lambda sink: sink.down(error))

    def regain(self, history: str) -> None:
        """Tell the sink that the store is back."""
        self._loop.call_soon(self._tell, lambda sink: sink.up(history))

    def _tell(self, say: Callable[[DirectorySink], None]) -> None:
        if self._sink is not None:
            say(self._sink)
