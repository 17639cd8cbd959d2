"""How long the handlers of a message type take, as far as that decides whether a message that waited still starts."""

from __future__ import annotations

MAX_TYPES = 256  # types come from the wire: the table is bounded
CLIMB = 1 / 8  # of the way up to a slower run: eight of them teach what one alone does not
FORGET = 10.0  # seconds without a run that ended: what was learned may no longer hold
HEADROOM = 1.25  # for runs slower than the low estimate and for the way back: a message behind has more time left


class RunTimes:
    """
    Estimates run times from below: a faster run counts at once, a slower one by an eighth.

    Where a type has fast and slow runs, the estimate stays near the fast ones, so that a fast one is not refused for
    the sake of the slow ones. One slow run refuses little, and the next fast run undoes it.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, float]] = {}  # the estimate, and when it was last confirmed

    def ended(self, message_type: str, seconds: float, now: float) -> None:
        """Note a handler that ended by itself after running for ``seconds``."""
        known = self._known.get(message_type)
        if known is None:
            if len(self._known) >= MAX_TYPES:
                del self._known[next(iter(self._known))]
        elif seconds > known[0]:
            seconds = known[0] + CLIMB * (seconds - known[0])
        self._known[message_type] = seconds, now

    def cut_off(self, message_type: str, seconds: float, now: float) -> None:
        """Note a handler that was cancelled after ``seconds``: it would have taken longer."""
        known = self._known.get(message_type)
        if known is None or seconds > known[0]:
            self.ended(message_type, seconds, now)

    def needed(self, message_type: str, now: float) -> float:
        """Return the seconds that a message needs to be worth starting, 0 if nothing is known of its type."""
        known = self._known.get(message_type)
        if known is None:
            return 0.0
        estimate, confirmed = known
        if now - confirmed > FORGET + estimate:
            del self._known[message_type]
            return 0.0
        return HEADROOM * estimate
