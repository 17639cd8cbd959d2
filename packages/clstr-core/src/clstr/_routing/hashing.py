"""
Which shard a key belongs to, and which node owns a shard: pure functions that every peer computes alike.

Both hashes are BLAKE2b with a digest of 8 bytes, unkeyed (RFC 7693), read as a big-endian integer. They agree byte
for byte with the Go package's ``ShardFromString`` and ``ShardsForNode``, so a change here splits a running cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple, Self

from clstr._messages.envelope import has_control_characters

MAX_SHARDS = 2**32 - 1
MAX_REMEMBERED_KEYS = 4096  # a few hundred bytes each
_DIGEST_BYTES = 8  # blake2b(digest_size=8) is a hash of its own, not the first 8 bytes of a longer one


def shard_for_key(key: str, num_shards: int, seed: str = "") -> int:
    """
    Return the shard that ``key`` belongs to: BLAKE2b (RFC 7693) of ``seed``, NUL and ``key``, modulo ``num_shards``.

    The same as the Go package's ``ShardFromString``. Without a seed, the key alone is hashed.

    Args:
        key: Any text. Empty keys and control characters hash too, although neither can be routed.
        num_shards: The cluster's number of shards, 1 to 2**32 - 1.
        seed: The cluster's seed. Clients and nodes must agree on it, as on ``num_shards``.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: ``num_shards`` is out of bounds, ``key`` holds a lone surrogate, or ``seed`` a control character.
    """
    if type(num_shards) is not int or not 0 < num_shards <= MAX_SHARDS:  # in line: this runs for every request
        check_num_shards(num_shards)
    if type(key) is not str or type(seed) is not str:
        _check_text("key", key)
        _check_text("seed", seed)
    return _digest(key, seed) % num_shards


@lru_cache(maxsize=MAX_REMEMBERED_KEYS)  # client and node hash each message's key, and keys in use come again soon
def _digest(key: str, seed: str) -> int:
    hasher = seeded_hasher(seed).copy()
    try:
        hasher.update(key.encode())
    except UnicodeEncodeError as error:
        raise _unencodable(error) from None
    return int.from_bytes(hasher.digest(), "big")


def shards_for_node(node_id: str, node_ids: Iterable[str], num_shards: int, seed: str = "") -> list[int]:
    """
    Return the shards that ``node_id`` owns among ``node_ids``, sorted.

    The same as the Go package's ``ShardsForNode``. The rule is told at `Assignment`; `assign_shards` answers for every
    node at once.

    Args:
        node_id: One of ``node_ids``.
        node_ids: Every node of the cluster, in any order.
        num_shards: The cluster's number of shards, 1 to 2**32 - 1.
        seed: The cluster's seed.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: ``node_id`` is not in ``node_ids``, a node id is empty, repeated or holds control characters, or
            another argument is out of its bounds.
    """
    return Assignment.of(node_ids, num_shards, seed).shards(node_id)


def assign_shards(node_ids: Iterable[str], num_shards: int, seed: str = "") -> dict[str, list[int]]:
    """
    Return the shards of every node, sorted, in the order of ``node_ids``. A node without shards has an empty list.

    Args:
        node_ids: Every node of the cluster.
        num_shards: The cluster's number of shards, 1 to 2**32 - 1.
        seed: The cluster's seed.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A node id is empty, repeated or holds control characters, or another argument is out of its bounds.
    """
    nodes = _check_node_ids(node_ids)
    owned: dict[str, list[int]] = {node: [] for node in nodes}
    assignment = Assignment.of(nodes, num_shards, seed)
    for shard in range(num_shards):
        owned[assignment.owner(shard)].append(shard)
    return owned


class _Claim(NamedTuple):
    """The best score of a shard, and whose it is. Eight bytes compare as the integers that they spell do."""

    score: bytes
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """
    Who owns which shard: rendezvous hashing, or highest random weight (Thaler and Ravishankar, 1998).

    Each node's weight for a shard is BLAKE2b of seed, NUL, ``shard:<number>``, NUL and node id; the greatest owns the
    shard, and of equal ones the node whose id sorts first. So a join moves shards to the new node alone, and a leave
    moves the leaver's alone. The best weight of each shard is kept: a join computes one digest per shard, a leave one
    per shard of the leaver and node that stays. Shares are uneven when shards are few: use many more than nodes.

    Made by `of`; equal if nodes, number of shards and seed are.

    Attributes:
        nodes: The nodes' ids, sorted.
        num_shards: The cluster's number of shards.
        seed: The cluster's seed.
    """

    nodes: tuple[str, ...]
    num_shards: int
    seed: str = ""
    _claims: tuple[_Claim, ...] = field(repr=False, compare=False)

    @classmethod
    def of(cls, node_ids: Iterable[str], num_shards: int, seed: str = "") -> Self:
        """
        Compute who owns which shard.

        Args:
            node_ids: Every node of the cluster, in any order.
            num_shards: The cluster's number of shards, 1 to 2**32 - 1.
            seed: The cluster's seed.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: A node id is empty, repeated or holds control characters, or another argument is out of bounds.
        """
        nodes = tuple(sorted(_check_node_ids(node_ids)))
        check_num_shards(num_shards)
        weigh = _Weights(nodes, seed)
        claims = tuple(map(weigh.best, range(num_shards)))
        return cls(nodes=nodes, num_shards=num_shards, seed=seed, _claims=claims)

    def owner(self, shard: int) -> str:
        """
        Return the id of the node that owns ``shard``.

        Raises:
            TypeError: ``shard`` is not an int.
            ValueError: There is no such shard.
        """
        _check_int("shard", shard)
        if not 0 <= shard < self.num_shards:
            raise ValueError(f"shard must be between 0 and {self.num_shards - 1}, not {shard}")
        return self._claims[shard].owner

    def shards(self, node_id: str) -> list[int]:
        """
        Return the shards that ``node_id`` owns, sorted.

        Raises:
            ValueError: It is not one of the nodes.
        """
        self._check_member(node_id)
        return [shard for shard, claim in enumerate(self._claims) if claim.owner == node_id]

    def join(self, node_id: str) -> Self:
        """
        Return the assignment with ``node_id`` added.

        Raises:
            TypeError: It is not a str.
            ValueError: It is one of the nodes already, is empty or holds control characters.
        """
        nodes = tuple(sorted(_check_node_ids((*self.nodes, node_id))))
        challenger = _Weights((node_id,), self.seed)
        claims = tuple(_challenge(claim, challenger.of(shard)[0], node_id) for shard, claim in enumerate(self._claims))
        return type(self)(nodes=nodes, num_shards=self.num_shards, seed=self.seed, _claims=claims)

    def leave(self, node_id: str) -> Self:
        """
        Return the assignment without ``node_id``.

        Raises:
            ValueError: It is not one of the nodes, or the last one.
        """
        self._check_member(node_id)
        nodes = tuple(node for node in self.nodes if node != node_id)
        _check_not_empty(nodes)
        heirs = _Weights(nodes, self.seed)
        claims = tuple(
            heirs.best(shard) if claim.owner == node_id else claim for shard, claim in enumerate(self._claims)
        )
        return type(self)(nodes=nodes, num_shards=self.num_shards, seed=self.seed, _claims=claims)

    def moved(self, other: Assignment) -> dict[int, tuple[str, str]]:
        """
        Return what changes from this assignment to ``other``: shard -> (owner here, owner there).

        Raises:
            ValueError: ``other`` has another number of shards, so that its shards are not the same shards.
        """
        if other.num_shards != self.num_shards:
            raise ValueError(
                f"cannot compare {self.num_shards} with {other.num_shards} shards: every key would move; "
                "give both assignments the same num_shards"
            )
        pairs = enumerate(zip(self._claims, other._claims, strict=True))
        return {shard: (old.owner, new.owner) for shard, (old, new) in pairs if old.owner != new.owner}

    def _check_member(self, node_id: str) -> None:
        if node_id not in self.nodes:
            raise ValueError(
                f"node {node_id!r} is not in node_ids ({', '.join(self.nodes)}): add it, or correct its name"
            )


def check_num_shards(num_shards: int) -> None:
    """Raise `TypeError` or `ValueError` unless ``num_shards`` is an int between 1 and 2**32 - 1."""
    _check_int("num_shards", num_shards)
    if not 0 < num_shards <= MAX_SHARDS:
        raise ValueError(f"num_shards must be between 1 and {MAX_SHARDS}, not {num_shards}")


def _check_int(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")


def check_node_id(node_id: str) -> None:
    """Raise `TypeError` or `ValueError` unless ``node_id`` is a non-empty str without control characters."""
    if not isinstance(node_id, str):
        raise TypeError(f"a node id must be a str, not {node_id!r}")
    if not node_id:
        raise ValueError("a node id is empty: give every node a name of its own")
    if has_control_characters(node_id):
        raise ValueError(f"node id {node_id!r} holds control characters or lone surrogates: use printable text")


def _check_not_empty(nodes: tuple[str, ...]) -> None:
    if not nodes:
        raise ValueError("node_ids is empty: a shard needs a node that owns it")


def _check_node_ids(node_ids: Iterable[str]) -> tuple[str, ...]:
    if isinstance(node_ids, (str, bytes)):
        raise TypeError(f"node_ids must be several node ids, not one {type(node_ids).__name__}: write [{node_ids!r}]")
    nodes = tuple(node_ids)
    _check_not_empty(nodes)
    seen: set[str] = set()
    for node in nodes:
        check_node_id(node)
        if node in seen:
            raise ValueError(f"node id {node!r} is there twice: every node needs a name of its own")
        seen.add(node)
    return nodes


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")


def _unencodable(error: UnicodeEncodeError) -> ValueError:
    return ValueError(
        f"key holds a lone surrogate at index {error.start}, which has no UTF-8: use text that can be encoded"
    )


@lru_cache(maxsize=128)  # a process has one seed, or one per cluster that it talks to
def seeded_hasher(seed: str) -> blake2b:
    """Return a hasher that has read ``seed``, to be copied, which costs half of what making one does."""
    if has_control_characters(seed):
        raise ValueError(f"seed {seed!r} holds control characters or lone surrogates: use printable text")
    return blake2b(f"{seed}\0".encode() if seed else b"", digest_size=_DIGEST_BYTES)


class _Weights:
    """The weights of ``nodes``, which are sorted: what is the same for every shard is made once."""

    def __init__(self, nodes: Sequence[str], seed: str) -> None:
        _check_text("seed", seed)
        self._nodes = nodes
        self._encoded = [node.encode() for node in nodes]
        self._seeded = seeded_hasher(seed)

    def best(self, shard: int) -> _Claim:
        """Return the best claim to ``shard``; of equal ones the first node's, as Go does."""
        scores = self.of(shard)
        best = max(scores)
        return _Claim(best, self._nodes[scores.index(best)])

    def of(self, shard: int) -> list[bytes]:
        """Return each node's weight for ``shard``."""
        prefix = self._seeded.copy()
        prefix.update(b"shard:%d\0" % shard)
        return _scores(prefix, self._encoded)


def _scores(prefix: blake2b, nodes: Sequence[bytes]) -> list[bytes]:
    """Return the weight of each node. Copying what has read the prefix is cheaper than reading it again."""
    scores = []
    for node in nodes:
        hasher = prefix.copy()
        hasher.update(node)
        scores.append(hasher.digest())
    return scores


def _challenge(claim: _Claim, score: bytes, node_id: str) -> _Claim:
    """Return the better of ``claim`` and what ``node_id`` has; of equal ones, that of the node that sorts first."""
    return _Claim(score, node_id) if (score, claim.owner) > (claim.score, node_id) else claim
