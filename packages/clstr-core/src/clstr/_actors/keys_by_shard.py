"""Which keys of each shard there are: a node of very many keys releases a few shards at a time."""

from __future__ import annotations

from collections.abc import Iterable


class KeysByShard:
    """The keys of each shard, in the order in which they were added."""

    def __init__(self) -> None:
        self._keys: dict[int, dict[str, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._keys.values()))

    def add(self, key: str, shard: int) -> None:
        """Note that ``key`` is one of ``shard``."""
        self._keys.setdefault(shard, {})[key] = None

    def discard(self, key: str, shard: int | None) -> None:
        """Forget that ``key`` is one of ``shard``; nothing happens if it is not."""
        keys = None if shard is None else self._keys.get(shard)
        if keys is None or shard is None:
            return
        keys.pop(key, None)
        if not keys:
            del self._keys[shard]

    def of(self, shards: Iterable[int]) -> list[str]:
        """Return the keys of ``shards``."""
        return [key for shard in shards for key in self._keys.get(shard, ())]
