"""The list of peers: whose keys may connect, under which name, and what each of them may do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from clstr_zmq._key_files import KEY_CHARACTERS, is_key

NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
SEPARATOR = ":"  # between a key's name and what tells its peers apart; no name has one


class Role(Enum):
    """What the owner of a key may do beside asking."""

    CLIENT = "client"  # nothing: it has no inbox
    NODE = "node"  # hold shards


class Listed(NamedTuple):
    """
    The owner of a key.

    Attributes:
        role: What it may do.
        name: Its name.
    """

    role: Role
    name: str

    def may_be_called(self, peer_id: str) -> bool:
        """Tell whether its peers may have this id: its name, alone or with something that tells them apart."""
        return peer_id.partition(SEPARATOR)[0] == self.name

    def called(self, peer_id: str) -> str:
        """Return the id of its peer that would be called ``peer_id``."""
        return peer_id if self.may_be_called(peer_id) else f"{self.name}{SEPARATOR}{peer_id}"


Peers = Mapping[str, Listed]
"""The owners by public key."""


def line_of(role: Role, name: str, public_key: str) -> str:
    """Return the line that lets the owner of a key in."""
    return f"{role.value} {name} {public_key}"


def read_peers(file: Path) -> Peers:
    """
    Read a list of peers.

    A line is a role, a name and a public key: ``node node-1 KEY`` or ``client web KEY``. Lines that begin with ``#``
    are comments. A name may have several keys, while one replaces the other.

    Returns:
        The owners by key.

    Raises:
        OSError: The file cannot be read.
        ValueError: A line is malformed, or a key is there twice.
    """
    peers: dict[str, Listed] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            listed, key = _read_line(words)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None
        if key in peers:
            raise ValueError(f"{file}, line {number}: this key is there already, for {peers[key].name!r}")
        peers[key] = listed
    return peers


def _read_line(words: list[str]) -> tuple[Listed, str]:
    if len(words) != 3 or words[0] not in {role.value for role in Role}:  # noqa: PLR2004 -- role, name and key
        raise ValueError(
            f"write 'node NAME KEY' for a peer that may hold shards, or 'client NAME KEY' for one that may only ask; "
            f"a KEY is a public key of {KEY_CHARACTERS} characters"
        )
    if not NAME.fullmatch(words[1]):
        raise ValueError("a name has 1 to 100 of A-Z, a-z, 0-9, '_', '.' and '-'")
    if not is_key(words[2]):
        raise ValueError(f"no public key of {KEY_CHARACTERS} characters after {words[1]!r}")
    return Listed(Role(words[0]), words[1]), words[2]
