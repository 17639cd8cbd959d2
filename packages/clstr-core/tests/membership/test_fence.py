"""When another's lease may be fenced: R2 and R8."""

from __future__ import annotations

import pytest

from clstr._membership.fence import Sight, in_grace, may_fence, sighted
from clstr._membership.records import LeaseRecord, Unreadable
from clstr._membership.times import wait_of
from clstr.spi import Record, Version

SHORT, LONG = 2000, 9000
LEASE = LeaseRecord(beat=1, lease_ms=SHORT)


def at(order: int, history: str = "h") -> Record:
    return Record(b"lease", Version(history, order))


def fences(lease: LeaseRecord | Unreadable | None, waited: float, *, grace: bool = False) -> bool:
    sight = Sight(Version("h", 5), 100.0)
    return may_fence(sight, lease, now=100.0 + waited, max_lease_ms=LONG, in_grace=grace)


def test_r2_time_begins_anew_with_every_version() -> None:
    first = sighted(None, at(5), 100.0)
    assert sighted(first, at(5), 103.0) is first
    assert sighted(first, at(6), 103.0).since == 103.0
    assert sighted(first, at(5, "other"), 103.0).since == 103.0


def test_r2_an_absent_lease_is_at_one_version_for_as_long_as_it_is_absent() -> None:
    """Whichever read showed that."""
    first = sighted(None, Record(None, Version("h", 7)), 100.0)
    assert first.version == Version.absent("h")
    assert sighted(first, Record(None, Version("h", 9)), 103.0) is first


def test_r2_a_lease_is_fenced_after_its_owners_wait() -> None:
    assert not fences(LEASE, wait_of(SHORT) - 0.001)
    assert fences(LEASE, wait_of(SHORT) + 0.001)


@pytest.mark.parametrize("lease", [None, Unreadable("garbage")])
def test_r2_one_that_says_nothing_has_the_longest(lease: Unreadable | None) -> None:
    assert not fences(lease, wait_of(SHORT) + 0.001)
    assert fences(lease, wait_of(LONG) + 0.001)


def test_r2_what_is_fenced_is_not_fenced_again() -> None:
    assert not fences(LeaseRecord(is_fenced=True), 1e9)


def test_r8_nobody_fences_in_grace() -> None:
    assert not fences(LEASE, 1e9, grace=True)


@pytest.mark.parametrize(
    ("settled", "is_memory", "waited", "expected"),
    [
        ("", False, 0.0, True),
        ("", False, wait_of(LONG) - 0.001, True),
        ("", False, wait_of(LONG) + 0.001, False),
        ("h", False, 0.0, False),
        ("an earlier one", False, 0.0, True),
        ("", True, 0.0, False),
    ],
)
def test_r8_grace_lasts_for_the_longest_lease_unless_somebody_watched_before(
    settled: str, is_memory: bool, waited: float, expected: bool
) -> None:
    found = in_grace("h", since=50.0, now=50.0 + waited, settled=settled, max_lease_ms=LONG, is_memory=is_memory)
    assert found is expected
