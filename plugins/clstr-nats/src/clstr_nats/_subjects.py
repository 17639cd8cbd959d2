"""Subjects: where a shard's messages go, where answers come back to, and which answers' addresses are believed."""

from __future__ import annotations

import functools
import re
import secrets

DEFAULT_PREFIX: str = "clstr"
"""What subjects begin with: ``clstr.shard.7``. As in clstr-go."""

QUEUE: str = "clstr"
"""The queue group that owners of a shard subscribe in, so that one of several gets each message."""

_PREFIX = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)
_INBOX = re.compile(r"_INBOX[A-Za-z0-9_-]*", re.ASCII)
# What a server puts in an inbox's place, or before it: between accounts, and between clusters that gateways join.
_REPLY_PREFIX = re.compile(rb"(_GR_\.\w+\.\w+\.)?(_INBOX[A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*|_R_\.[A-Za-z0-9]+)")
_NAME = re.compile(rb"[A-Za-z0-9_-]+")
_MAX_LENGTH = 256


def check_prefix(prefix: str) -> str:
    """
    Return ``prefix`` if subjects can begin with it.

    Raises:
        ValueError: It could mean another subject than the one that it spells.
    """
    if not _PREFIX.fullmatch(prefix) or len(prefix) > _MAX_LENGTH:
        raise ValueError("prefix must be letters, digits, '_' and '-', in names joined by dots, as in acme.prod")
    return prefix


def check_inbox_prefix(prefix: str) -> str:
    """
    Return ``prefix`` if nodes accept answers' addresses under it.

    Raises:
        ValueError: They would not.
    """
    if not _INBOX.fullmatch(prefix) or len(prefix) > _MAX_LENGTH:
        raise ValueError("inbox_prefix must be _INBOX, or begin with it and go on with letters, digits, '_' and '-'")
    return prefix


def is_inbox(address: bytes) -> bool:
    """Tell whether the address that a stranger wants to be answered at is an inbox, and nothing else."""
    prefix, _, name = address.rpartition(b".")
    # The first test is the cheap one, for names as we write them.
    is_name = name.replace(b"_", b"", 1).isalnum() or _NAME.fullmatch(name) is not None
    return is_name and len(address) <= _MAX_LENGTH and _is_reply_prefix(prefix)


@functools.lru_cache(maxsize=256)  # a peer's answers have one prefix
def _is_reply_prefix(prefix: bytes) -> bool:
    return _REPLY_PREFIX.fullmatch(prefix) is not None


class Subjects:
    """
    The subjects of one peer.

    Args:
        prefix: What the shards' subjects begin with.
        inbox_prefix: What the inbox's subject begins with; who may not read it cannot answer in a node's place.

    Attributes:
        shard_begins: What stands before the number in a shard's subject.
    """

    def __init__(self, prefix: str, inbox_prefix: str) -> None:
        # 128 bits that nobody else knows: who could guess it could answer in a node's place.
        self._inbox = f"{inbox_prefix}.{secrets.token_hex(16)}"
        self._answers_at = len(self._inbox) + 1
        self.shard_begins: str = f"{prefix}.shard."

    @property
    def inbox(self) -> str:
        """The pattern that every answer's address matches."""
        return f"{self._inbox}.*"

    @property
    def every_shard(self) -> str:
        """The pattern that every shard's subject matches."""
        return f"{self.shard_begins}*"

    def shard(self, shard: int) -> str:
        """Return the subject of a shard."""
        return f"{self.shard_begins}{shard}"

    def read_shard(self, subject: str) -> int | None:
        """Return the shard of a subject, in whatever case; ``None`` if it is no shard's."""
        number = subject.rpartition(".")[2]
        is_ours = number.isdecimal() and subject.lower() == self.shard(int(number)).lower()
        return int(number) if is_ours else None

    @property
    def probe_reply_to(self) -> str:
        """The address of answers to probes."""
        return f"{self._inbox}.probe"

    def new_probe(self) -> str:
        """Return a subject that is covered by what covers every shard, and that nobody has."""
        return f"{self.shard_begins}probe-{secrets.token_hex(8)}"

    def is_probe(self, subject: str) -> bool:
        """Tell whether a subject, in whatever case, is that of a probe."""
        return subject.lower().startswith(f"{self.shard_begins}probe-".lower())

    def reply_to(self, shard: int, token: int) -> str:
        """Return the address of the answer to ``token``, which went to ``shard``."""
        return f"{self._inbox}.{token}_{shard}"

    def read_reply_to(self, subject: bytes) -> tuple[int, int]:
        """
        Return the shard and the token of an answer's address.

        Raises:
            ValueError: It is none of ours.
        """
        token, _, shard = subject[self._answers_at :].partition(b"_")
        if not (token.isdigit() and shard.isdigit()):  # `int` reads more than we write
            raise ValueError("not an address of ours")
        return int(shard), int(token)
