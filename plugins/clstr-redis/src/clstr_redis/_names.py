"""Keys and channels: what a shard's leases and a peer's inbox are called."""

from __future__ import annotations

import re
import secrets

DEFAULT_PREFIX: str = "clstr"
"""What keys and channels begin with: ``clstr:shard:7`` has the leases of shard 7, ``clstr:in:...`` are inboxes."""

_PREFIX = re.compile(r"[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)*", re.ASCII)
_DIGITS = 32  # of an inbox: 128 bits that nobody guesses
_REST = re.compile(rb"[A-Za-z0-9_.-]{1,128}:[0-9a-f]{%d}" % _DIGITS)
_MAX_LENGTH = 128


def check_prefix(prefix: str) -> str:
    """
    Return ``prefix`` if keys and channels can begin with it.

    Raises:
        ValueError: It could mean another key or channel than the one that it spells.
    """
    if not _PREFIX.fullmatch(prefix) or len(prefix) > _MAX_LENGTH:
        raise ValueError("prefix must be letters, digits, '_', '.' and '-', in names joined by ':', as in acme:prod")
    return prefix


class Names:
    """
    The keys and channels of one peer.

    Args:
        prefix: What they begin with.
        peer_id: The peer's id.

    Attributes:
        prefix: As above.
    """

    def __init__(self, prefix: str, peer_id: str) -> None:
        self.prefix: str = prefix
        self._inboxes = f"{prefix}:in:".encode()
        self._own = f"{prefix}:in:{peer_id}:"

    def new_inbox(self) -> bytes:
        """
        Return the name of an inbox that nobody has had before, and that nobody can guess.

        Each connection has one of its own: what is sent to an old one reaches nobody, and its sender is told.
        """
        return f"{self._own}{secrets.token_hex(_DIGITS // 2)}".encode()

    @property
    def own_inboxes(self) -> str:
        """The pattern of this peer's inboxes, as rights name it."""
        return f"{self._own}*"

    def is_inbox(self, name: bytes) -> bool:
        """Tell whether a stranger's ``name`` is an inbox, and nothing else."""
        return name.startswith(self._inboxes) and _REST.fullmatch(name, len(self._inboxes)) is not None

    @property
    def no_shard(self) -> bytes:
        """The key of leases that nobody takes: for trying what may be done with such keys."""
        return f"{self.prefix}:shard:none".encode()

    def shard(self, shard: int) -> bytes:
        """Return the key of a shard's leases: a sorted set of inboxes, by the server's time at which they end."""
        return f"{self.prefix}:shard:{shard}".encode()
