"""A node's own lease: R1, R7 and R9; and the times that it is made of."""

from __future__ import annotations

import pytest

from clstr._membership.lease import Lease, Renewal, may_renew
from clstr._membership.times import Times, wait_of

TIMES = Times(heartbeat=1.0, lease=4.0, grace=1.0)
LEASE = Lease().renewed(10.0, "h", TIMES)


@pytest.mark.parametrize("detection", [1.0, 2.5, 5.0, 12.0, 120.0])
def test_a_crash_is_seen_after_detection_at_most(detection: float) -> None:
    """And three renewals fit into a lease."""
    times = Times.of(detection)
    assert detection - 0.01 <= wait_of(times.lease_ms) <= detection + 0.002  # the millisecond that is rounded up
    assert times.lease > 2.9 * times.heartbeat
    assert 0 < times.grace < times.lease


@pytest.mark.parametrize("drift", [-0.01, 0.01])
def test_an_observer_waits_until_the_owner_has_stopped_whatever_their_clocks_do(drift: float) -> None:
    times = Times.of(5.0)
    owner_true = (times.lease + times.grace) / (1 + drift)
    observer_true = wait_of(times.lease_ms) / (1 - drift)
    assert observer_true > owner_true


@pytest.mark.parametrize("detection", [0.9, 120.1, float("nan")])
def test_detection_is_bounded(detection: float) -> None:
    with pytest.raises(ValueError, match="detection must be 1 to 120 seconds"):
        Times.of(detection)


def test_detection_is_a_number() -> None:
    with pytest.raises(TypeError, match="detection must be a number of seconds, not True"):
        Times.of(True)


def test_r1_a_lease_counts_from_when_its_renewal_was_sent() -> None:
    assert LEASE.holds(13.9)
    assert not LEASE.holds(14.0)
    assert not LEASE.must_have_ended(14.9, TIMES)
    assert LEASE.must_have_ended(15.0, TIMES)


def test_r1_an_acknowledgement_that_overtakes_shortens_nothing() -> None:
    assert LEASE.renewed(9.0, "h", TIMES).end == LEASE.end


def test_r1_there_is_no_lease_before_the_first_renewal() -> None:
    assert not Lease().holds(-1e9)
    assert Lease().must_have_ended(-1e9, TIMES)


@pytest.mark.parametrize(("link", "echo"), [(True, False), (False, True), (False, False)])
def test_r1_a_node_that_cannot_be_reached_does_not_renew(link: bool, echo: bool) -> None:
    assert may_renew(is_link_up=True, does_inbox_echo=True)
    assert not may_renew(is_link_up=link, does_inbox_echo=echo)


def test_a_renewal_in_time_holds_whatever_the_history() -> None:
    """R8 and R6 judge the shards then; the lease itself never lapsed."""
    assert LEASE.judge(13.0, "other", tells_losses=False, has_read=False) is Renewal.HOLDS


def test_r7_after_a_lapse_a_renewal_counts_after_a_fresh_read() -> None:
    assert LEASE.judge(14.0, "h", tells_losses=True, has_read=False) is Renewal.READ_FIRST
    assert LEASE.judge(14.0, "h", tells_losses=True, has_read=True) is Renewal.HOLDS


@pytest.mark.parametrize("has_read", [False, True])
def test_r9_a_lapse_and_another_history_lose_everything(has_read: bool) -> None:
    assert LEASE.judge(14.0, "other", tells_losses=True, has_read=has_read) is Renewal.LOST


def test_r9_a_store_that_cannot_tell_makes_every_lapse_a_loss() -> None:
    assert LEASE.judge(14.0, "h", tells_losses=False, has_read=True) is Renewal.LOST


def test_the_first_renewal_is_no_lapse() -> None:
    assert Lease().judge(14.0, "h", tells_losses=False, has_read=False) is Renewal.HOLDS
