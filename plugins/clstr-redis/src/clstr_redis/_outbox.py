"""What one tick sends, sorted by destination: one message for each, however many requests and answers are in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

MAX_BATCH_BYTES = 256 * 1024
MAX_BATCH_FRAMES = 1000


class Item(NamedTuple):
    """
    One request, notify or answer.

    Attributes:
        frame: Its bytes.
        inbox: Where it goes; empty if only its shard is known.
        shard: Its shard; of no meaning for an answer.
        token: The engine's number for it; ``None`` for an answer.
        oneway: Whether it is a notify.
    """

    frame: bytes
    inbox: bytes
    shard: int = 0
    token: int | None = None
    oneway: bool = False


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Sort by destination, keep the order within each, and cut where a message would get too large."""
    by_destination: dict[bytes | int, list[Item]] = {}
    for item in items:
        by_destination.setdefault(item.inbox or item.shard, []).append(item)
    for batch in by_destination.values():
        yield from _cut(batch)


def _cut(batch: list[Item]) -> Iterator[list[Item]]:
    size, part = 0, list[Item]()
    for item in batch:
        if part and (size + len(item.frame) > MAX_BATCH_BYTES or len(part) == MAX_BATCH_FRAMES):
            yield part
            size, part = 0, []
        size += len(item.frame)
        part.append(item)
    yield part
