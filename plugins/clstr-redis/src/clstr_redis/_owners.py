"""Which inbox owns a shard, as the server said, for as long as its lease lasts."""

from __future__ import annotations

from collections.abc import Callable


class Owners:
    """
    What was learned of other peers.

    Args:
        clock: Returns seconds. Only lengths of time come from the server, so its clock need not agree with this one.
        longest: Seconds after which anything is forgotten: somebody may have set the server's clock back.
    """

    def __init__(self, clock: Callable[[], float], longest: float) -> None:
        self._clock = clock
        self._longest = longest
        self._known: dict[int, tuple[bytes, float]] = {}

    def get(self, shard: int) -> bytes:
        """Return the inbox of an owner of ``shard``; empty if none is known."""
        known = self._known.get(shard)
        if known is None:
            return b""
        inbox, until = known
        if self._clock() >= until:
            del self._known[shard]
            return b""
        return inbox

    def learn(self, shard: int, inbox: bytes, asked_at: float, seconds: float) -> None:
        """Note that ``inbox`` owns ``shard`` for so many seconds, counted from when the server was asked."""
        self._known[shard] = (inbox, asked_at + min(seconds, self._longest))

    def forget(self, shard: int, inbox: object) -> None:
        """Note that ``inbox`` does not own ``shard``; another one may."""
        if shard in self._known and self._known[shard][0] == inbox:
            del self._known[shard]

    def forget_inbox(self, inbox: bytes) -> None:
        """Note that ``inbox`` is gone, with all that it owned."""
        for shard in [shard for shard, (owner, _) in self._known.items() if owner == inbox]:
            del self._known[shard]
