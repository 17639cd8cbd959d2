"""Who holds which shard, as far as this peer was told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

P = TypeVar("P")


class Routes(Generic[P]):
    """Peers by shard; each message goes to one of a shard's holders, in turn."""

    def __init__(self) -> None:
        self._holders: dict[int, list[P]] = {}

    def hold(self, peer: P, shards: Iterable[int]) -> None:
        """Let ``peer`` hold ``shards``; those that it holds are left alone."""
        for shard in shards:
            holders = self._holders.setdefault(shard, [])
            if peer not in holders:
                holders.append(peer)

    def drop(self, peer: P, shards: Iterable[int]) -> None:
        """Let ``peer`` hold ``shards`` no longer."""
        for shard in shards:
            holders = self._holders.get(shard, [])
            if peer in holders:
                holders.remove(peer)
                if not holders:
                    del self._holders[shard]

    def pick(self, shard: int) -> P | None:
        """Choose the receiver of the next message for ``shard``."""
        holders = self._holders.get(shard)
        if holders is None:
            return None
        if len(holders) > 1:
            holders.append(holders.pop(0))
        return holders[-1]
