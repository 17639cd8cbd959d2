"""`clstr._backoff`: longer and longer pauses, and never all peers at once."""

from __future__ import annotations

import random

from clstr.spi import Backoff


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(first=0.25, longest=2, chance=lambda: 1.0)
    assert [backoff.next() for _ in range(6)] == [0.25, 0.5, 1, 2, 2, 2]
    backoff.reset()
    assert backoff.next() == 0.25


def test_peers_that_lose_a_broker_together_come_back_one_by_one() -> None:
    """Of 240 peers, no tenth of a second sees more than a few when the pauses have grown."""
    chance = random.Random(1)
    peers = [Backoff(chance=chance.random) for _ in range(240)]
    at = [sum(peer.next() for _ in range(7)) for peer in peers]
    busiest = max(sum(start <= when < start + 0.1 for when in at) for start in (n / 10 for n in range(60)))
    assert busiest < 24
