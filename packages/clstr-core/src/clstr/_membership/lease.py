"""A node's own lease: R1, R7 and R9."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from clstr._membership.times import Times


class Renewal(Enum):
    """What an acknowledged renewal means."""

    HOLDS = "the lease goes on"
    READ_FIRST = "there was a lapse: it counts after a fresh read (R7)"
    LOST = "there was a lapse, and the store may have lost what others did to it: drop everything (R9)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """
    What a node knows of its lease.

    Attributes:
        end: When it may start nothing more, in seconds of its own clock; ``-inf`` before the first renewal.
        history: The history in which it was renewed last; empty before.
    """

    end: float = float("-inf")
    history: str = ""

    def holds(self, now: float) -> bool:
        """Return whether anything may start (R1, R4)."""
        return now < self.end

    def must_have_ended(self, now: float, times: Times) -> bool:
        """Return whether everything that ran must have ended (R1): others may act from then on."""
        return now >= self.end + times.grace

    def renewed(self, sent_at: float, history: str, times: Times) -> Lease:
        """Return the lease after the acknowledgement of a renewal that was *sent* at ``sent_at`` (R1)."""
        return Lease(end=max(self.end, sent_at + times.lease), history=history)

    def judge(self, now: float, history: str, *, tells_losses: bool, has_read: bool) -> Renewal:
        """
        Return what an acknowledged renewal means; an unknown outcome means nothing and is not asked about (R1).

        Args:
            now: When the acknowledgement arrived, in seconds of the node's own clock.
            history: The history in which it was made.
            tells_losses: Whether the store's history changes if it loses swaps.
            has_read: Whether a read was sent and answered since the lapse.
        """
        if not self.history or self.holds(now):
            return Renewal.HOLDS
        if not tells_losses or history != self.history:
            return Renewal.LOST
        return Renewal.HOLDS if has_read else Renewal.READ_FIRST


def may_renew(*, is_link_up: bool, does_inbox_echo: bool) -> bool:
    """Return whether a node may renew (R1): one that cannot be reached must not keep its shards."""
    return is_link_up and does_inbox_echo
