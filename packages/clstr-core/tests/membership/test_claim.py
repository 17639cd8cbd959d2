"""Claims, epochs and what reads show: R3, R5, R6 and R8."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clstr._membership.claim import (
    Claimant,
    Held,
    Verdict,
    dropped_by_read,
    is_claim_kept,
    is_news,
    judge_claim,
    merged,
    next_epoch,
    orphaned_claims,
    released,
)
from clstr._membership.records import MAX_EPOCH, LeaseRecord, ShardRecord, Unreadable
from clstr.spi import Record, Snapshot, Version

ME = Claimant(instance="me.2", has_lease=True, in_grace=False, holds=False, is_running=False)
FREE, OTHERS = ShardRecord(epoch=4), ShardRecord(owner="you.1", epoch=4)
GARBAGE = Unreadable("garbage")


@pytest.mark.parametrize(
    ("previous", "now_ms", "seen", "epoch"),
    [(0, 1000, 0, 1000), (1000, 1000, 0, 1001), (5000, 1000, 0, 5001), (5, 1000, 7000, 7001)],
)
def test_an_epoch_is_greater_than_all_that_is_known(previous: int, now_ms: int, seen: int, epoch: int) -> None:
    assert next_epoch(previous, now_ms, seen) == epoch


def test_an_epoch_has_53_bits() -> None:
    assert next_epoch(MAX_EPOCH - 1, 0) == MAX_EPOCH
    with pytest.raises(OverflowError, match="more than 53 bits"):
        next_epoch(MAX_EPOCH, 0)


@pytest.mark.parametrize("shard", [None, FREE, ShardRecord(owner="me.2", epoch=4)])
def test_r3_what_nobody_owns_may_be_claimed(shard: ShardRecord | None) -> None:
    """Ours without our holding it, too: an acknowledgement was lost."""
    assert judge_claim(ME, shard, None) is Verdict.CLAIM


def test_r3_what_another_owns_may_be_claimed_once_its_lease_was_read_as_fenced() -> None:
    assert judge_claim(ME, OTHERS, LeaseRecord(is_fenced=True)) is Verdict.CLAIM
    for lease in (None, LeaseRecord(), GARBAGE):
        assert judge_claim(ME, OTHERS, lease) is Verdict.OWNED


def test_r3_an_earlier_generation_of_this_node_is_another() -> None:
    assert judge_claim(ME, ShardRecord(owner="me.1", epoch=4), LeaseRecord()) is Verdict.OWNED


def test_r3_what_cannot_be_read_is_never_claimed() -> None:
    assert judge_claim(ME, GARBAGE, LeaseRecord(is_fenced=True)) is Verdict.STRANGER


@pytest.mark.parametrize(
    ("me", "verdict"),
    [
        (replace(ME, in_grace=True), Verdict.GRACE),
        (replace(ME, has_lease=False), Verdict.NO_LEASE),
        (replace(ME, is_running=True), Verdict.STILL_RUNNING),
        (replace(ME, holds=True), Verdict.HELD),
    ],
)
def test_r3_r8_a_node_claims_only_in_order(me: Claimant, verdict: Verdict) -> None:
    assert judge_claim(me, FREE, None) is verdict


@pytest.mark.parametrize("wrong", [{"has_lease": False}, {"is_running": True}, {"is_same_instance": False}])
def test_r3_it_is_checked_again_when_the_acknowledgement_arrives(wrong: dict[str, bool]) -> None:
    right = {"has_lease": True, "is_running": False, "is_same_instance": True}
    assert is_claim_kept(**right)
    assert not is_claim_kept(**{**right, **wrong})


HELD = {7: Held(epoch=4, version=Version("h", 10), acknowledged_at=50.0)}
MINE = ShardRecord(owner="me.2", epoch=4)


def dropped(
    shard: ShardRecord | Unreadable | None, *, order: int = 20, history: str = "h", sent_at: float = 60.0
) -> set[int]:
    snapshot = Snapshot(history=history, order=order, records={})
    return dropped_by_read(HELD, snapshot, {7: shard}, instance="me.2", sent_at=sent_at)


def test_r6_a_read_that_names_an_owner_and_its_epoch_keeps_it() -> None:
    assert dropped(MINE) == set()
    assert dropped(MINE, history="other") == set()


@pytest.mark.parametrize("shard", [None, FREE, OTHERS, GARBAGE, ShardRecord(owner="me.2", epoch=3)])
def test_r6_r8_a_read_that_names_another_owner_or_epoch_takes_it(shard: ShardRecord | Unreadable | None) -> None:
    assert dropped(shard) == {7}
    assert dropped(shard, history="other", order=3) == {7}


def test_r6_a_read_does_not_judge_a_claim_that_was_acknowledged_after_it_was_sent() -> None:
    assert dropped(FREE, sent_at=49.0) == set()


def test_r6_a_read_from_before_the_claim_does_not_judge_it() -> None:
    assert dropped(FREE, order=9) == set()


def test_r6_a_read_makes_nobody_an_owner_but_finds_what_names_it() -> None:
    shards = {7: MINE, 8: MINE, 9: OTHERS, 10: GARBAGE, 11: None}
    assert orphaned_claims(HELD, shards, instance="me.2") == {8}


def record(order: int, value: bytes | None = b"x", history: str = "h") -> Record:
    return Record(value, Version(history, order))


def test_r6_reads_and_changes_are_merged_by_version() -> None:
    """A read that was slow does not put older values back, nor bring back what was deleted."""
    known = {"newer": record(12), "older": record(3), "gone": record(4), "deleted": record(13, None)}
    snapshot = Snapshot(history="h", order=10, records={"newer": record(9), "older": record(8), "deleted": record(7)})
    assert merged(known, snapshot) == {"newer": record(12), "older": record(8), "deleted": record(13, None)}


def test_r6_a_key_that_appeared_after_the_read_stays() -> None:
    snapshot = Snapshot(history="h", order=10, records={})
    assert merged({"new": record(11)}, snapshot) == {"new": record(11)}


def test_r6_nothing_of_another_history_is_kept() -> None:
    snapshot = Snapshot(history="other", order=1, records={})
    assert merged({"a": record(11)}, snapshot) == {}


def test_r6_an_older_change_is_no_news() -> None:
    assert is_news(None, record(5))
    assert is_news(record(4), record(5))
    assert not is_news(record(5), record(5))
    assert not is_news(record(6), record(5))
    assert not is_news(record(4), record(5, history="other"))


def test_r5_a_release_keeps_the_epoch_and_names_who_is_next() -> None:
    assert released(MINE, "you.1") == ShardRecord(owner="", epoch=4, next="you.1")
