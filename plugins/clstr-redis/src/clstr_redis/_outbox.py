"""What one tick sends, sorted by destination: one message for each, however many requests and answers are in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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


def batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    """
    Sort by destination, keep the order within each destination and each shard, and cut where a message gets too large.

    A shard has one destination in a tick: if the owner of one message is to be looked up, that of its others is too.
    """
    looked_up = {item.shard for item in items if not item.inbox}
    by_destination: dict[bytes | int, list[Item]] = {}
    for item in _one_way(items, looked_up) if looked_up else items:
        by_destination.setdefault(item.inbox or item.shard, []).append(item)
    for batch in by_destination.values():
        yield from _cut(batch)


def _one_way(items: Iterable[Item], looked_up: set[int]) -> Iterator[Item]:
    """Take the inbox from requests for shards that are looked up: else they would overtake what waits for that."""
    for item in items:
        is_for_shard = item.token is not None and item.shard in looked_up
        yield item._replace(inbox=b"") if is_for_shard and item.inbox else item


def _cut(batch: list[Item]) -> Iterator[list[Item]]:
    size, part = 0, list[Item]()
    for item in batch:
        if part and (size + len(item.frame) > MAX_BATCH_BYTES or len(part) == MAX_BATCH_FRAMES):
            yield part
            size, part = 0, []
        size += len(item.frame)
        part.append(item)
    yield part
