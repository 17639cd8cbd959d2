"""
What the records of a cluster hold, and how they are written: JSON objects with the number of their format in ``v``.

What cannot be read is never fatal: `read` returns an `Unreadable`, which the caller counts. It belongs to a stranger: a
shard's is never claimed, a node's counts with the longest lease. That is how an older version of the software treats a
newer format, too.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from clstr._membership.placement import MAX_WEIGHT, MIN_WEIGHT

FORMAT = 1
MAX_EPOCH = 2**53 - 1  # what JavaScript, JSON and a double carry exactly
MAX_LEASE_MS = 10 * 60 * 1000  # a crash that goes unseen for longer is a mistake in the unit

Text = Annotated[str, Meta(max_length=1024)]
Count = Annotated[int, Meta(ge=0, le=MAX_EPOCH)]
LeaseMs = Annotated[int, Meta(ge=1, le=MAX_LEASE_MS)]
Weight = Annotated[float, Meta(ge=MIN_WEIGHT, le=MAX_WEIGHT)]


class ClusterRecord(msgspec.Struct, frozen=True, kw_only=True):
    """
    What every node of a cluster must agree on.

    Attributes:
        name: The cluster's name.
        num_shards: Its number of shards.
        seed: Its seed.
        protocols: The oldest and the newest version of the protocol that its nodes speak.
        strategy: The name of its strategy and its arguments.
        max_lease_ms: Milliseconds of the longest lease, grace included.
        replicas: Acknowledgements that a swap needs.
        store_id: Which store has the state of its actors.
        settled: The history for which somebody has watched long enough, so that later starts need no grace (R8).
    """

    v: int = FORMAT
    name: Text
    num_shards: Annotated[int, Meta(ge=1, le=2**32 - 1)]
    seed: Text = ""
    protocols: tuple[Count, Count] = (1, 1)
    strategy: Text = "rendezvous"
    max_lease_ms: LeaseMs
    replicas: Annotated[int, Meta(ge=0, le=100)] = 0
    store_id: Text = ""
    settled: Text = ""


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a node says of itself.

    Attributes:
        state: Where it stands in its life.
        inbox: Its address.
        weight: Its share of the shards.
        zone: Where it stands.
        is_cordoned: Whether it gets no more shards.
        tags: For users.
        app_version: The application's version, for users.
    """

    v: int = FORMAT
    state: Literal["joining", "active", "leaving"]
    inbox: Text = ""
    weight: Weight = 1.0
    zone: Text = ""
    is_cordoned: bool = False
    tags: Annotated[dict[Text, Text], Meta(max_length=64)] = {}
    app_version: Text = ""


class LeaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """
    A node's lease, or the fence that ended it. One record, so that the store orders them.

    Attributes:
        beat: Grows with each renewal.
        lease_ms: Milliseconds after which its owner has stopped everything, on the owner's clock: S + G.
        is_fenced: Whether it is over for ever.
    """

    v: int = FORMAT
    beat: Count = 0
    lease_ms: LeaseMs = MAX_LEASE_MS
    is_fenced: bool = False


class ShardRecord(msgspec.Struct, frozen=True, kw_only=True):
    """
    Who owns a shard.

    Attributes:
        owner: The instance; empty is nobody.
        epoch: The fencing token of this ownership, or of the last one.
        next: Who will own it, as a hint.
    """

    v: int = FORMAT
    owner: Text = ""
    epoch: Count
    next: Text = ""


class Unreadable(msgspec.Struct, frozen=True):
    """
    A record that is garbage, or of a newer format.

    Attributes:
        why: What is wrong with it, without its bytes.
    """

    why: str


class _AnyFormat(msgspec.Struct):
    v: int


R = TypeVar("R", ClusterRecord, NodeRecord, LeaseRecord, ShardRecord)


def write(record: ClusterRecord | NodeRecord | LeaseRecord | ShardRecord) -> bytes:
    """Return the bytes of a record."""
    return msgspec.json.encode(record)


def read(kind: type[R], value: bytes) -> R | Unreadable:
    """Return the record of the given kind that ``value`` holds; fields that are unknown are skipped."""
    try:
        found = msgspec.json.decode(value, type=_AnyFormat).v
        if found != FORMAT:
            return Unreadable(f"format {found}, and only {FORMAT} is known: upgrade this node")
        return msgspec.json.decode(value, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # ValidationError is a DecodeError
        return Unreadable(f"{type(error).__name__}: {error}"[:200])
