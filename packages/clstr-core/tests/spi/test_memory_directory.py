"""What the memory directory does beyond the contract, which `clstr_testing.DirectorySuite` checks: its faults."""

from __future__ import annotations

import asyncio

import pytest

from clstr.spi import (
    CLUSTER_KEY,
    DirectoryUnavailableError,
    MemoryDirectory,
    MemoryRecords,
    Record,
    Swap,
    SwapConflictError,
    Version,
)


class Heard:
    """A sink that writes down what it hears."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def changed(self, key: str, record: Record) -> None:
        self.calls.append((key, record.value))

    def gap(self) -> None:
        self.calls.append("gap")

    def down(self, error: Exception) -> None:
        self.calls.append("down")

    def up(self, history: str) -> None:
        self.calls.append(("up", history))


def new_records() -> MemoryRecords:
    """Return records whose histories are ``h1``, ``h2`` and so on, of which the first has begun."""
    names = iter(["h1", "h2"])
    records = MemoryRecords(new_id=lambda: next(names))
    records.swap(Swap(CLUSTER_KEY, Version.absent(""), b"root"))
    return records


async def opened(records: MemoryRecords) -> tuple[MemoryDirectory, Heard]:
    directory, heard = MemoryDirectory(records), Heard()
    await directory.open(heard)
    return directory, heard


async def test_a_wipe_is_told_to_nobody_and_the_next_history_is_another() -> None:
    """Orders begin at 1 again, so that only the history tells old versions from new ones."""
    records = new_records()
    directory, heard = await opened(records)
    old = await directory.swap(Swap("shard/1", Version.absent("h1.0"), b"x"))
    await asyncio.sleep(0)
    records.wipe()
    await asyncio.sleep(0)
    assert heard.calls == [("shard/1", b"x")]
    assert (await directory.read()).history == ""
    with pytest.raises(SwapConflictError) as conflict:
        await directory.swap(Swap("shard/1", Version.absent("h1.0"), b"y"))
    assert conflict.value.actual == Record(None, Version("", 0))
    await directory.swap(Swap(CLUSTER_KEY, Version.absent(""), b"root"))
    new = await directory.swap(Swap("shard/1", Version.absent("h2.0"), b"y"))
    assert new == Version("h2.0", 2)
    assert old == Version("h1.0", 2)


async def test_a_rollback_forgets_what_came_later_and_is_another_history() -> None:
    """Orders are given again, to other values."""
    records = new_records()
    directory, heard = await opened(records)
    kept = await directory.swap(Swap("a", Version.absent("h1.0"), b"kept"))
    replica = records.read()
    await directory.swap(Swap("b", Version.absent("h1.0"), b"lost"))
    records.roll_back(replica)
    await asyncio.sleep(0)
    assert heard.calls[-1] == ("up", "h1.1")
    snapshot = await directory.read()
    assert snapshot.records.keys() == {CLUSTER_KEY, "a"}
    assert snapshot.record("a") == Record(b"kept", Version("h1.1", kept.order))
    assert await directory.swap(Swap("c", Version.absent("h1.1"), b"new")) == Version("h1.1", 3)


async def test_two_rollbacks_to_one_state_are_two_histories() -> None:
    records = new_records()
    replica = records.read()
    records.roll_back(replica)
    first = records.history
    records.roll_back(replica)
    assert [first, records.history] == ["h1.1", "h1.2"]


async def test_what_is_cut_changes_nothing_and_says_so() -> None:
    records = new_records()
    directory, heard = await opened(records)
    records.cut()
    for call in (directory.read(), directory.swap(Swap("a", Version.absent("h1.0"), b""))):
        with pytest.raises(DirectoryUnavailableError) as error:
            await call
        assert not error.value.maybe_applied
    records.restore()
    await asyncio.sleep(0)
    assert heard.calls == ["down", ("up", "h1.0")]
    assert records.read().records.keys() == {CLUSTER_KEY}


async def test_a_change_that_happens_during_a_cut_is_not_told() -> None:
    records = new_records()
    _, heard = await opened(records)
    records.cut()
    records.swap(Swap("a", Version.absent("h1.0"), b"x"))
    await asyncio.sleep(0)
    assert heard.calls == ["down"]


async def test_a_closed_directory_hears_nothing_more() -> None:
    records = new_records()
    directory, heard = await opened(records)
    records.swap(Swap("a", Version.absent("h1.0"), b"x"))
    await directory.aclose()
    await directory.aclose()
    await asyncio.sleep(0)
    assert heard.calls == []
    with pytest.raises(DirectoryUnavailableError, match="the directory is closed"):
        await directory.open(heard)
