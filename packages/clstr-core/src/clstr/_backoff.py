"""How long to wait between attempts."""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds


class Backoff:
    """
    Pauses that double up to a limit, each drawn at random from 0 up to that ("full jitter").

    When a broker comes back, its peers have all lost it at one moment: without jitter they would all return at one.

    Args:
        first: The most that the first pause lasts, in seconds: 0.05 by default.
        longest: The most that any pause lasts, in seconds: 2 by default.
        chance: Returns a number between 0 and 1.
    """

    def __init__(
        self,
        *,
        first: float = FIRST_PAUSE,
        longest: float = LONGEST_PAUSE,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._first = first
        self._chance = chance
        self._bound = first
        self.longest: float = longest

    def next(self) -> float:
        """Return the next pause, in seconds."""
        pause = self._chance() * self._bound
        self._bound = min(2 * self._bound, self.longest)
        return pause

    def reset(self) -> None:
        """Begin with the shortest again."""
        self._bound = self._first
