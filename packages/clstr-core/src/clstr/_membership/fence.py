"""Others' leases: when one that does not change may be fenced (R2, R8)."""

from __future__ import annotations

from dataclasses import dataclass

from clstr._membership.records import LeaseRecord, Unreadable
from clstr._membership.times import wait_of
from clstr.spi import Record, Version


@dataclass(frozen=True, slots=True)
class Sight:
    """
    Since when a lease has been at one version.

    Attributes:
        version: The version; of an absent lease `Version.absent`.
        since: When it was seen first, in seconds of the observer's own clock.
    """

    version: Version
    since: float


def sighted(before: Sight | None, record: Record, now: float) -> Sight:
    """Return what is known after ``record`` was seen: the time begins anew with every version (R2)."""
    version = record.expected
    return before if before is not None and before.version == version else Sight(version, now)


def lease_ms_of(lease: LeaseRecord | Unreadable | None, max_lease_ms: int) -> int:
    """Return the milliseconds of the *owner's* lease (R2); of one that is absent or cannot be read the longest."""
    return lease.lease_ms if isinstance(lease, LeaseRecord) else max_lease_ms


def may_fence(
    sight: Sight, lease: LeaseRecord | Unreadable | None, *, now: float, max_lease_ms: int, in_grace: bool
) -> bool:
    """
    Return whether the lease may be swapped from ``sight.version`` to fenced (R2).

    Args:
        sight: Since when it has been at that version.
        lease: What it says; ``None`` if a shard names its owner and there is no lease.
        now: The present, in seconds of the observer's own clock.
        max_lease_ms: Milliseconds of the cluster's longest lease.
        in_grace: Whether the store's history is too new for anybody to act (R8).
    """
    if in_grace or (isinstance(lease, LeaseRecord) and lease.is_fenced):
        return False
    return now - sight.since >= wait_of(lease_ms_of(lease, max_lease_ms))


def in_grace(history: str, *, since: float, now: float, settled: str, max_lease_ms: int, is_memory: bool) -> bool:
    """
    Return whether nobody may claim or fence yet (R8): owners of an earlier history may still go on.

    Args:
        history: The store's history.
        since: When this node saw it first, in seconds of its own clock.
        now: The present on that clock.
        settled: The history that somebody has watched for long enough.
        max_lease_ms: Milliseconds of the cluster's longest lease.
        is_memory: Whether the store cannot forget without this process.
    """
    return not is_memory and history != settled and now - since < wait_of(max_lease_ms)
