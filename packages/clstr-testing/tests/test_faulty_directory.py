"""A directory that fails at random: each fault, alone, and then nothing but the contract."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from clstr.spi import CLUSTER_KEY, Directory, DirectoryUnavailableError, MemoryDirectory, MemoryRecords, Swap, Version
from clstr_testing import DirectoryFaults, FaultyDirectory, VirtualTimeLoop, no_leaks, run_suite
from clstr_testing._directory_bench import Ears
from clstr_testing._memory_directory_suite import MemoryDirectorySuite

KEY = "shard/7"


def run(test: Callable[[FaultyDirectory, MemoryRecords, Ears], Awaitable[None]], faults: DirectoryFaults) -> None:
    """Run ``test`` in virtual time, with a directory of a cluster that has begun."""

    async def main() -> None:
        records, ears = MemoryRecords(new_id=lambda: "h"), Ears()
        records.swap(Swap(CLUSTER_KEY, Version.absent(""), b"cluster"))
        directory = FaultyDirectory(MemoryDirectory(records), faults, Random(7))
        async with no_leaks(), asyncio.timeout(600):
            await directory.open(ears)
            await test(directory, records, ears)
            await directory.aclose()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())


def creation() -> Swap:
    return Swap(KEY, Version.absent("h.0"), b"x")


async def fails(directory: FaultyDirectory) -> bool:
    """Swap, and return the ``maybe_applied`` of the error."""
    with pytest.raises(DirectoryUnavailableError) as error:
        await directory.swap(creation())
    return error.value.maybe_applied


def test_what_is_refused_is_not_made() -> None:
    async def test(directory: FaultyDirectory, records: MemoryRecords, _: Ears) -> None:
        assert not await fails(directory)
        with pytest.raises(DirectoryUnavailableError):
            await directory.read()
        assert KEY not in records.read().records

    run(test, DirectoryFaults(refused=1.0))


def test_what_is_lost_is_made() -> None:
    async def test(directory: FaultyDirectory, records: MemoryRecords, _: Ears) -> None:
        assert await fails(directory)
        assert KEY in records.read().records

    run(test, DirectoryFaults(lost=1.0))


def test_what_is_late_is_made_later() -> None:
    async def test(directory: FaultyDirectory, records: MemoryRecords, _: Ears) -> None:
        assert await fails(directory)
        assert KEY not in records.read().records
        await asyncio.sleep(60)
        assert KEY in records.read().records

    run(test, DirectoryFaults(late=1.0, late_by=60.0))


def test_what_is_late_is_not_made_after_the_end() -> None:
    async def test(directory: FaultyDirectory, records: MemoryRecords, _: Ears) -> None:
        assert await fails(directory)
        await directory.aclose()
        await asyncio.sleep(60)
        assert KEY not in records.read().records

    run(test, DirectoryFaults(late=1.0, late_by=60.0))


def test_a_watch_that_is_mute_admits_a_gap_in_the_end() -> None:
    async def test(directory: FaultyDirectory, _: MemoryRecords, ears: Ears) -> None:
        begin = asyncio.get_running_loop().time()
        await directory.swap(creation())
        await ears.until(lambda ears: ears.gaps == 1)
        assert asyncio.get_running_loop().time() - begin >= 30
        assert ears.heard == []

    run(test, DirectoryFaults(mute=1.0, mute_for=30.0))


def test_a_watch_that_is_mute_at_the_end_leaves_no_timer() -> None:
    async def test(directory: FaultyDirectory, _: MemoryRecords, ears: Ears) -> None:
        await directory.swap(creation())
        await asyncio.sleep(1)

    run(test, DirectoryFaults(mute=1.0, mute_for=30.0))


def test_without_faults_and_with_delays_it_keeps_the_contract() -> None:
    class Suite(MemoryDirectorySuite):
        async def connect(self) -> Directory:
            return FaultyDirectory(await super().connect(), DirectoryFaults(delay=0.01), Random(7))

    results = list(run_suite(Suite, loop_factory=VirtualTimeLoop))
    assert [(result.check.name, result.reason) for result in results if result.status != "passed"] == []
