"""
The suite of directories proves itself.

The memory directory passes every check; each broken one fails exactly the sentences of the contract that it breaks.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from clstr.spi import Directory, MemoryDirectory, MemoryRecords
from clstr_testing import DIRECTORY_CONTRACT, Check, DirectorySuite, Result, VirtualTimeLoop, run_suite, sentences
from clstr_testing._memory_directory_suite import MemoryDirectorySuite
from conformance.broken_directories import MUTANTS, DirectoryMutant


class TestMemoryDirectory(MemoryDirectorySuite):
    """Every check, on the loop of the tests."""


def run(suite: type[DirectorySuite], only: Iterable[str] | None = None) -> list[Result]:
    """Run ``suite`` in virtual time, where a check that hangs costs nothing."""
    return list(run_suite(suite, loop_factory=VirtualTimeLoop, only=only))


@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.name) for mutant in MUTANTS])
def test_a_mutant_fails_exactly_what_it_breaks(mutant: DirectoryMutant) -> None:
    results = run(mutant.suite())
    failed = {number for number, status in sentences(results, DIRECTORY_CONTRACT).items() if status == "failed"}
    assert failed == mutant.label, [(result.check.name, result.reason) for result in results if result.reason]


@pytest.mark.parametrize("check", [pytest.param(check, id=check.name) for check in DirectorySuite.checks()])
def test_a_check_rejects_a_mutant(check: Check) -> None:
    """A check that no fault makes fail proves nothing."""
    suspects = (mutant for mutant in MUTANTS if not mutant.label.isdisjoint(check.proves))
    assert any(run(mutant.suite(), [check.name])[0].status == "failed" for mutant in suspects)


def test_every_sentence_is_broken_by_a_mutant_and_proved_by_a_check() -> None:
    broken = {number for mutant in MUTANTS for number in mutant.label}
    proved = {number for check in DirectorySuite.checks() for number in check.proves}
    assert broken == proved == DIRECTORY_CONTRACT.keys()


def test_what_needs_a_missing_hook_is_not_checked() -> None:
    records = MemoryRecords()

    class Bare(DirectorySuite):
        async def connect(self) -> Directory:
            return MemoryDirectory(records)

    unchecked = {result.check.name for result in run(Bare) if result.status == "not checked"}
    assert unchecked == {check.name for check in DirectorySuite.checks() if check.needs}


def test_a_suite_says_which_method_it_needs() -> None:
    [failed] = run(DirectorySuite, ["test_nothing_is_left"])
    assert "needs the method `async def connect(self) -> Directory`" in failed.reason


def test_a_check_cannot_be_overridden() -> None:
    with pytest.raises(TypeError, match="overrides the check test_nothing_is_left"):
        type("Mine", (DirectorySuite,), {"test_nothing_is_left": None})
