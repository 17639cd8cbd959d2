"""Answers that the link cannot take now: it is down, or has no room."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from clstr.spi._answer_budget import AnswerBudget
from clstr.spi._deadlines import Deadlines


class _Unsent:
    """One answer that waits for the link."""

    __slots__ = ("body", "destination", "owner", "tick", "to")

    def __init__(self, owner: UnsentAnswers, to: object, body: bytes, destination: Hashable) -> None:
        self.owner: UnsentAnswers = owner
        self.to: object = to
        self.body: bytes = body
        self.destination: Hashable = destination
        self.tick: int = 0

    def expire(self) -> None:
        """Its deadline is over: nobody waits for it any more."""
        self.owner.give_up(self)


class UnsentAnswers:
    """
    Keeps answers until the link takes them or their deadline is over (T13).

    Args:
        offer: Hands an answer to the link; returns ``False`` if the link did not take it.
        destination_of: Returns the destination that an answer's address belongs to.
        deadlines: Where each waits for its deadline.
        budget: What counts their bytes.
        dropped: Called with the number of answers that are given up.
    """

    def __init__(
        self,
        offer: Callable[[object, bytes], bool],
        destination_of: Callable[[object], Hashable],
        deadlines: Deadlines,
        budget: AnswerBudget,
        dropped: Callable[[int], None],
    ) -> None:
        self._offer = offer
        self._destination_of = destination_of
        self._deadlines = deadlines
        self._budget = budget
        self._dropped = dropped
        self._kept: dict[Hashable, dict[_Unsent, None]] = {}  # by destination, the oldest first
        self._is_closed = False

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def keep(self, to: object, body: bytes, deadline: float) -> None:
        """Keep an answer that `Link.reply` did not take, until ``deadline`` in loop time."""
        if self._is_closed:
            self._dropped(1)
            return
        unsent = _Unsent(self, to, body, self._destination_of(to))
        self._kept.setdefault(unsent.destination, {})[unsent] = None
        unsent.tick = self._deadlines.add(deadline, unsent)
        self._budget.add(unsent.destination, len(body))

    def retry(self) -> None:
        """Offer them to the link again, the oldest of each destination first, until it takes no more for that one."""
        for destination in list(self._kept):
            while kept := self._kept.get(destination):
                unsent = next(iter(kept))
                if not self._offer(unsent.to, unsent.body):
                    break
                if unsent in kept:
                    self._forget(unsent)

    def close(self) -> None:
        """Give up what is left, and keep nothing more."""
        self._is_closed = True
        for kept in list(self._kept.values()):
            for unsent in list(kept):
                self.give_up(unsent)

    def give_up(self, unsent: _Unsent) -> None:
        """Drop an answer, and count it."""
        self._forget(unsent)
        self._dropped(1)

    def _forget(self, unsent: _Unsent) -> None:
        kept = self._kept[unsent.destination]
        del kept[unsent]
        if not kept:
            del self._kept[unsent.destination]
        self._deadlines.discard(unsent.tick, unsent)
        self._budget.remove(unsent.destination, len(unsent.body))
