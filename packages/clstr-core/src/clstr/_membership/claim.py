"""Claiming a shard (R3), its epoch, and giving one up (R5, R6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from clstr._membership.records import MAX_EPOCH, LeaseRecord, ShardRecord, Unreadable
from clstr.spi import Record, Snapshot, Version

Shard = ShardRecord | Unreadable | None
Lease = LeaseRecord | Unreadable | None


def next_epoch(previous: int, now_ms: int, seen: int = 0) -> int:
    """
    Return the epoch of a new claim: greater than the last one and than any that a user's store has seen.

    It grows by swaps while the store remembers, and by the wall clock when the store has forgotten.

    Args:
        previous: The epoch in the shard's record; 0 if there is none.
        now_ms: Milliseconds of the wall clock since 1970.
        seen: The epoch that a user's store reported; 0 is none.

    Raises:
        OverflowError: It would need more than 53 bits.
    """
    epoch = max(previous + 1, now_ms, seen + 1)
    if epoch > MAX_EPOCH:
        raise OverflowError(f"epoch {epoch} has more than 53 bits: a clock or a store that reported one is wrong")
    return epoch


class Verdict(Enum):
    """Whether a shard may be claimed now, and why not."""

    CLAIM = "nobody can own it"
    GRACE = "the store's history is too new (R8)"
    NO_LEASE = "our own lease does not hold (R1)"
    STILL_RUNNING = "something of our earlier ownership still runs"
    HELD = "it is ours"
    STRANGER = "its record cannot be read"
    OWNED = "its owner's lease was not read as fenced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """
    The state of the node that wants to claim.

    Attributes:
        instance: Its name.
        has_lease: Whether its lease holds.
        in_grace: Whether the store's history is too new.
        holds: Whether it owns the shard already.
        is_running: Whether anything of an earlier ownership of the shard still runs in this process.
    """

    instance: str
    has_lease: bool
    in_grace: bool
    holds: bool
    is_running: bool


def judge_claim(me: Claimant, shard: Shard, owner_lease: Lease) -> Verdict:
    """
    Return whether ``me`` may claim the shard (R3). Both records were read or acknowledged: a conflict proves nothing.

    Args:
        me: Who asks.
        shard: The shard's record; ``None`` if it is absent.
        owner_lease: The lease of the owner that it names.
    """
    if me.in_grace:
        return Verdict.GRACE
    if not me.has_lease:
        return Verdict.NO_LEASE
    if me.holds:
        return Verdict.HELD
    if me.is_running:
        return Verdict.STILL_RUNNING
    return _judge_record(me, shard, owner_lease)


def _judge_record(me: Claimant, shard: Shard, owner_lease: Lease) -> Verdict:
    if isinstance(shard, Unreadable):
        return Verdict.STRANGER
    if shard is None or shard.owner in {"", me.instance}:
        return Verdict.CLAIM
    is_fenced = isinstance(owner_lease, LeaseRecord) and owner_lease.is_fenced
    return Verdict.CLAIM if is_fenced else Verdict.OWNED


def is_claim_kept(*, has_lease: bool, is_running: bool, is_same_instance: bool) -> bool:
    """Return whether an acknowledged claim is an ownership; if not it is given back (R3: checked again on arrival)."""
    return has_lease and not is_running and is_same_instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """
    A shard that this node owns.

    Attributes:
        epoch: Of this ownership.
        version: Of the record with which it was claimed.
        acknowledged_at: When the claim was acknowledged, in seconds of the node's own clock.
    """

    epoch: int
    version: Version
    acknowledged_at: float


def dropped_by_read(
    held: Mapping[int, Held], snapshot: Snapshot, shards: Mapping[int, Shard], *, instance: str, sent_at: float
) -> set[int]:
    """
    Return the shards that a read shows to be lost (R6, R8). It makes nobody an owner.

    It judges only claims that were acknowledged before it was sent: a later one may not be in it.

    Args:
        held: What the node owns.
        snapshot: The answer.
        shards: The records of shards in it, read.
        instance: The node's name.
        sent_at: When the read was sent, in seconds of the node's own clock.
    """
    return {
        number
        for number, each in held.items()
        if each.acknowledged_at <= sent_at
        and not _is_named(each, shards.get(number), instance)
        and not each.version.is_after(Version(snapshot.history, snapshot.order))
    }


def _is_named(held: Held, shard: Shard, instance: str) -> bool:
    return isinstance(shard, ShardRecord) and (shard.owner, shard.epoch) == (instance, held.epoch)


def orphaned_claims(held: Mapping[int, Held], shards: Mapping[int, Shard], *, instance: str) -> set[int]:
    """Return the shards whose records name ``instance`` although it does not own them: release or claim them (R6)."""
    return {
        number
        for number, shard in shards.items()
        if isinstance(shard, ShardRecord) and shard.owner == instance and number not in held
    }


def merged(known: Mapping[str, Record], snapshot: Snapshot) -> dict[str, Record]:
    """
    Return the records after a read: for each key the later version, and nothing of another history (R6).

    Args:
        known: What reads and the watch have shown before; absent keys too.
        snapshot: The answer of the read.
    """
    later = {key: record for key, record in known.items() if record.version.is_after(snapshot.record(key).version)}
    return {**snapshot.records, **later}


def is_news(before: Record | None, record: Record) -> bool:
    """
    Return whether what the watch brought replaces what is known of a key (R6): an older value never does.

    Neither does one of another history: only a read begins one.
    """
    return before is None or record.version.is_after(before.version)


def released(shard: ShardRecord, next_owner: str) -> ShardRecord:
    """Return the record of a shard that its owner has let go (R5): ownerless, with the epoch that was the last."""
    return ShardRecord(owner="", epoch=shard.epoch, next=next_owner)
