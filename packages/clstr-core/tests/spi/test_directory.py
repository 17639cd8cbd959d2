"""Versions, records and swaps; and what a directory inherits."""

from __future__ import annotations

import pytest

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
from clstr.spi._directory import MAX_KEY_CHARACTERS, MAX_VALUE_BYTES

ABSENT = Version.absent("h")


def test_versions_of_one_history_have_an_order() -> None:
    assert Version("h", 2).is_after(Version("h", 1))
    assert not Version("h", 1).is_after(Version("h", 1))
    assert Version("h", 1).is_after(ABSENT)


def test_versions_of_two_histories_have_none() -> None:
    assert not Version("h", 2).is_after(Version("g", 1))
    assert not Version("g", 1).is_after(Version("h", 2))


def test_a_swap_expects_a_record_or_its_absence() -> None:
    """A key that was deleted is created again as one that never was."""
    assert Record(b"x", Version("h", 7)).expected == Version("h", 7)
    assert Record(None, Version("h", 7)).expected == ABSENT


def test_a_snapshot_knows_since_when_a_key_is_absent() -> None:
    record = Record(b"", Version("h", 3))
    snapshot = Snapshot(history="h", order=9, records={"a": record})
    assert snapshot.record("a") is record  # an empty value is one
    assert snapshot.record("b") == Record(None, Version("h", 9))


@pytest.mark.parametrize("key", ["a", "node/x=2Ey.7", "shard/16383", "A-Z_0.9", "k" * MAX_KEY_CHARACTERS])
def test_a_key_that_every_store_takes(key: str) -> None:
    assert Swap(key, ABSENT, b"").key == key


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", ".a", "a.", "a..b", "a./b", "a b", "a:b", "a*", "é", "a\n", "k" * 1025]
)
def test_a_key_that_some_store_refuses(key: str) -> None:
    with pytest.raises(ValueError, match="cannot be a key: use 1 to 1024 of"):
        Swap(key, ABSENT, b"")


def test_a_value_is_bounded() -> None:
    assert Swap("plan", ABSENT, b"x" * MAX_VALUE_BYTES).value
    with pytest.raises(ValueError, match="262145 bytes are too many for the record 'plan': at most 262144"):
        Swap("plan", ABSENT, b"x" * (MAX_VALUE_BYTES + 1))


def test_the_record_of_the_cluster_cannot_be_deleted() -> None:
    with pytest.raises(ValueError, match="its history would end with it"):
        Swap("cluster", Version("h", 1), None)


def test_a_conflict_says_what_is_there() -> None:
    error = SwapConflictError("shard/1", Record(b"x", Version("h", 7)))
    assert (error.key, error.actual.version.order) == ("shard/1", 7)
    assert str(error) == "'shard/1' has changed meanwhile: it is at 7 of 'h'"


class Odd(Directory):
    """Makes every second swap, and fails for others in every way."""

    async def open(self, sink: DirectorySink) -> None:
        """Be open."""

    async def read(self) -> Snapshot:
        return Snapshot(history="h", order=0, records={})

    async def swap(self, swap: Swap) -> Version:
        match swap.key:
            case "conflict":
                raise SwapConflictError(swap.key, Record(None, ABSENT))
            case "away":
                raise DirectoryUnavailableError("away", maybe_applied=True)
            case "bug":
                raise RuntimeError("a bug")
        return Version("h", int(swap.key))

    async def aclose(self) -> None:
        """Be closed."""


def swaps(*keys: str) -> list[Swap]:
    return [Swap(key, ABSENT, b"") for key in keys]


async def test_the_outcomes_of_several_swaps_come_in_their_order() -> None:
    first, conflict, away, last = await Odd().swap_many(swaps("1", "conflict", "away", "2"))
    assert (first, last) == (Version("h", 1), Version("h", 2))
    assert isinstance(conflict, SwapConflictError)
    assert isinstance(away, DirectoryUnavailableError)
    assert away.maybe_applied


async def test_a_bug_in_a_directory_is_no_outcome() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        await Odd().swap_many(swaps("1", "bug"))
