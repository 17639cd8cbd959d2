"""Directories with one fault each, labelled with exactly the sentences that they break."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from clstr.spi import (
    CLUSTER_KEY,
    Directory,
    DirectorySink,
    DirectoryUnavailableError,
    MemoryDirectory,
    MemoryRecords,
    Record,
    Snapshot,
    Swap,
    SwapConflictError,
    Version,
)
from clstr.spi._directory import Outcome
from clstr_testing._memory_directory_suite import MemoryDirectorySuite

T = TypeVar("T", bound=type)


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryMutant:
    """One fault: a class of the store or of the directory, and the sentences that it breaks."""

    name: str
    label: frozenset[str]
    fault: type

    def suite(self) -> type[MemoryDirectorySuite]:
        store = self.fault if issubclass(self.fault, MemoryRecords) else MemoryRecords
        directory = self.fault if issubclass(self.fault, MemoryDirectory) else MemoryDirectory

        class Suite(MemoryDirectorySuite):
            guard = 3.0

            @cached_property
            def records(self) -> MemoryRecords:
                records: MemoryRecords = store()
                return records

            async def connect(self) -> Directory:
                opened: Directory = directory(self.records)
                return opened

        return Suite


MUTANTS: list[DirectoryMutant] = []


def breaks(*sentences: str) -> Callable[[T], T]:
    def decorate(fault: T) -> T:
        MUTANTS.append(DirectoryMutant(name=fault.__name__, label=frozenset(sentences), fault=fault))
        return fault

    return decorate


def actual(records: MemoryRecords, key: str) -> Version:
    order, _ = records._values.get(key, (0, None))
    return Version(records.history, order)


def there(records: MemoryRecords, key: str) -> Version:
    """Return the version that ``key`` has."""
    return Version(records.history, records._values.get(key, (0, b""))[0])


@breaks("D1.1", "D1.2", "D2.2")
class LastWriterWins(MemoryRecords):
    """A key that is there is overwritten, whatever version is expected."""

    def swap(self, swap: Swap) -> Version:
        now = there(self, swap.key)
        is_stale = now.order and swap.expected.order and now.history == swap.expected.history
        return super().swap(Swap(swap.key, now, swap.value) if is_stale else swap)


@breaks("D1.1", "D1.2", "D1.5")
class CreatesOverWhatIsThere(MemoryRecords):
    """A swap that expects a key to be absent overwrites it."""

    def swap(self, swap: Swap) -> Version:
        now = there(self, swap.key)
        is_wrong = now.order and not swap.expected.order and now.history == swap.expected.history
        return super().swap(Swap(swap.key, now, swap.value) if is_wrong else swap)


@breaks("D1.1", "D1.2", "D6.2")
class ChecksBeforeItWrites(MemoryDirectory):
    """The version is compared, and the value is written in the next turn of the loop."""

    async def swap(self, swap: Swap) -> Version:
        is_expected = there(self._records, swap.key) == swap.expected
        is_allowed = bool(self._records.history) or swap.key == CLUSTER_KEY
        await asyncio.sleep(0)
        if is_expected and is_allowed:
            swap = Swap(swap.key, there(self._records, swap.key), swap.value)
        return await super().swap(swap)


@breaks("D1.1", "D1.2", "D1.5", "D2.2", "D2.3", "D6.3")
class ConflictWithoutFacts(MemoryRecords):
    """The error of a conflict does not say what is there."""

    def swap(self, swap: Swap) -> Version:
        try:
            return super().swap(swap)
        except SwapConflictError as error:
            raise SwapConflictError(swap.key, Record(None, error.actual.version)) from None


@breaks("D1.1", "D1.2", "D1.3", "D1.4", "D1.5", "D2.1", "D3.1", "D3.2", "D7.1", "D7.2")
class ReadsAReplica(MemoryDirectory):
    """A read shows what the replica held before the last change."""

    async def read(self) -> Snapshot:
        snapshot = await super().read()
        records = {key: each for key, each in snapshot.records.items() if each.version.order < max(snapshot.order, 3)}
        return Snapshot(history=snapshot.history, order=snapshot.order, records=records)


@breaks("D1.1", "D1.2", "D1.4", "D2.1", "D3.1", "D5.1")
class DeletesToEmpty(MemoryRecords):
    """A key that is deleted is empty instead."""

    def swap(self, swap: Swap) -> Version:
        return super().swap(Swap(swap.key, swap.expected, swap.value or b""))


@breaks("D1.5")
class OneConflictStopsTheRest(MemoryDirectory):
    """Several swaps end with the first that conflicts."""

    async def swap_many(self, swaps: Sequence[Swap]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for swap in swaps:
            outcomes.append(await self._outcome(swap))
            if isinstance(outcomes[-1], SwapConflictError):
                return outcomes + [outcomes[-1]] * (len(swaps) - len(outcomes))
        return outcomes


@breaks("D1.5")
class OutcomesAsTheyCome(MemoryDirectory):
    """The outcomes of several swaps come with the failures first."""

    async def swap_many(self, swaps: Sequence[Swap]) -> list[Outcome]:
        return sorted(await super().swap_many(swaps), key=lambda outcome: isinstance(outcome, Version))


@breaks("D1.4", "D2.1", "D2.2")
class CountsEachKeyAnew(MemoryRecords):
    """A key that is created again begins with the order that it had at first."""

    def _put(self, swap: Swap) -> Version:
        if swap.key in self._values or swap.key == CLUSTER_KEY:
            return super()._put(swap)
        highest, self._order = self._order, 1
        version = super()._put(swap)
        self._order = highest + 1
        return version


@breaks("D1.1", "D1.2", "D1.3", "D1.4", "D2.1", "D2.2", "D3.2")
class RevisionIsTheValue(MemoryRecords):
    """The version of a value is computed from the value, as an entity tag may be."""

    def _put(self, swap: Swap) -> Version:
        highest, self._order = self._order, 10**6 + len(swap.value or b"")
        version = super()._put(swap)
        self._order = highest + 1
        return version


@breaks("D2.3")
class HidesLosses(MemoryRecords):
    """A rollback does not change the history."""

    @property
    def history(self) -> str:
        return super().history.partition(".")[0]


@breaks("D3.1")
class DeafToDeletions(MemoryDirectory):
    """The watch does not bring deletions."""

    def notify(self, key: str, record: Record) -> None:
        if record.value is not None:
            super().notify(key, record)


@breaks("D3.1", "D3.3", "D8.2")
class DeafToOwnChanges(MemoryDirectory):
    """The watch leaves out what this directory has changed."""

    _own = False

    async def swap(self, swap: Swap) -> Version:
        self._own = True
        try:
            return await super().swap(swap)
        finally:
            self._own = False

    def notify(self, key: str, record: Record) -> None:
        if not self._own:
            super().notify(key, record)


@breaks("D3.2")
class WatchOvertakes(MemoryDirectory):
    """Every third change is told before the one that came before it."""

    _kept: tuple[str, Record] | None = None

    def notify(self, key: str, record: Record) -> None:
        if self._kept is None and record.version.order % 3 == 0:
            self._kept = key, record
            self._loop.call_soon(self._let_go)
        else:
            super().notify(key, record)

    def _let_go(self) -> None:
        if self._kept is not None:
            kept, self._kept = self._kept, None
            self._loop.call_soon(super().notify, *kept)


@breaks("D2.3", "D3.3", "D3.4", "D4.2", "D4.3")
class ForgetsTheGap(MemoryDirectory):
    """What was on its way when the connection broke is lost, and nobody is told that it came back."""

    _life = 0

    def notify(self, key: str, record: Record) -> None:
        self._loop.call_soon(self._tell_in, self._life, key, record)

    def _tell_in(self, life: int, key: str, record: Record) -> None:
        if life == self._life and self._sink is not None:
            self._sink.changed(key, record)

    def lose(self, error: Exception) -> None:
        self._life += 1
        super().lose(error)

    def regain(self, history: str) -> None:
        """Say nothing."""


@breaks("D3.4")
class DeafAfterAnOutage(MemoryDirectory):
    """The watch is not set up again."""

    _is_deaf = False

    def lose(self, error: Exception) -> None:
        self._is_deaf = True
        super().lose(error)

    def notify(self, key: str, record: Record) -> None:
        if not self._is_deaf:
            super().notify(key, record)


@breaks("D4.1")
class DeniesWhatIsUnknown(MemoryDirectory):
    """A swap whose answer is lost is said not to have been applied."""

    async def swap(self, swap: Swap) -> Version:
        try:
            return await super().swap(swap)
        except DirectoryUnavailableError as error:
            raise DirectoryUnavailableError(str(error), maybe_applied=False) from None


@breaks("D4.2")
class SilentOutage(MemoryDirectory):
    """The sink does not hear that the store is away."""

    def lose(self, error: Exception) -> None:
        """Say nothing."""


@breaks("D4.3")
class KeepsSwapsForLater(MemoryDirectory):
    """A swap that fails in an outage is made after it, although it was said not to be."""

    async def swap(self, swap: Swap) -> Version:
        try:
            return await super().swap(swap)
        except DirectoryUnavailableError:
            self._later = [*getattr(self, "_later", []), swap]
            raise

    def regain(self, history: str) -> None:
        for swap in getattr(self, "_later", []):
            self._loop.call_soon(self._records.swap, swap)
        super().regain(history)


@breaks("D5.1")
class SendsAgain(MemoryDirectory):
    """A swap whose answer is lost is sent until it is answered."""

    async def swap(self, swap: Swap) -> Version:
        try:
            return await super().swap(swap)
        except DirectoryUnavailableError as error:
            if error.maybe_applied:
                self._again(swap, 40)
            raise

    def _again(self, swap: Swap, times: int) -> None:
        if self._sink is not None and times:
            with suppress(SwapConflictError, DirectoryUnavailableError):
                self._records.swap(swap)
                return
            self._loop.call_soon(self._again, swap, times - 1)


@breaks("D2.2", "D3.3", "D6.1", "D6.4")
class BeginsByItself(MemoryRecords):
    """Any record begins a history."""

    def swap(self, swap: Swap) -> Version:
        if not self.history and not swap.expected.order:
            super().swap(Swap(CLUSTER_KEY, Version.absent(""), b"by itself"))
            if swap.key != CLUSTER_KEY:
                return super().swap(Swap(swap.key, Version.absent(self.history), swap.value))
            return there(self, CLUSTER_KEY)
        return super().swap(swap)


@breaks("D6.2")
class BeginsTwice(MemoryDirectory):
    """Each directory that creates the record of the cluster begins a history of its own."""

    async def swap(self, swap: Swap) -> Version:
        if swap.key == CLUSTER_KEY and not swap.expected.history:
            self._records.wipe()
        return await super().swap(swap)


@breaks("D2.2", "D2.3", "D6.3", "D6.4")
class IgnoresTheHistory(MemoryRecords):
    """A swap is conditional on the order alone."""

    def swap(self, swap: Swap) -> Version:
        expected = Version(self.history, swap.expected.order) if self.history else swap.expected
        return super().swap(Swap(swap.key, expected, swap.value))


@breaks("D2.2", "D6.4")
class HistoryOfTheStoreAlone(MemoryRecords):
    """There is no incarnation: after a wipe the history is the same, as the replication id of Redis is."""

    def _begin(self) -> None:
        self._incarnation = "the same"
        self._values.clear()


@breaks("D7.1")
class TextOnly(MemoryRecords):
    """Values pass through a text."""

    def swap(self, swap: Swap) -> Version:
        value = swap.value if swap.value is None else swap.value.decode(errors="ignore").encode()
        return super().swap(Swap(swap.key, swap.expected, value))


@breaks("D7.2")
class PagesOfAThousand(MemoryDirectory):
    """A read brings the first thousand records."""

    async def read(self) -> Snapshot:
        snapshot = await super().read()
        records = dict(sorted(snapshot.records.items())[:1000])
        return Snapshot(history=snapshot.history, order=snapshot.order, records=records)


@breaks("D8.1")
class WorksWhenClosed(MemoryDirectory):
    """Calls after the end go on."""

    async def aclose(self) -> None:
        await super().aclose()
        self._is_closed = False


@breaks("D5.1", "D8.1", "D8.2", "D8.3")
class ClosesOnce(MemoryDirectory):
    """To close it again is an error."""

    async def aclose(self) -> None:
        if self._is_closed:
            raise RuntimeError("closed already")
        await super().aclose()


@breaks("D8.2")
class TellsAfterTheEnd(MemoryDirectory):
    """The watch goes on after the end."""

    async def aclose(self) -> None:
        self._is_closed = True


@breaks("D8.3", "D8.4")
class LeavesATask(MemoryDirectory):
    """Its watcher outlives it."""

    async def open(self, sink: DirectorySink) -> None:
        await super().open(sink)
        self._task = asyncio.create_task(asyncio.Event().wait())


@breaks("D8.4")
class ClosesWhatIsOpen(MemoryDirectory):
    """Closing takes for granted that it was opened."""

    async def aclose(self) -> None:
        assert self._loop.is_running()
        await super().aclose()
