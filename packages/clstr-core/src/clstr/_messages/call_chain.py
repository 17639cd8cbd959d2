"""
Call chains: the handlers that a request came through, oldest first.

Each stands there as its name and the id of the request that it awaits, ``Account:ada#Zm9vYmFyYmF6``. Only the node that
issued an id knows what it means: a chain that nobody issued, or whose request has ended, leads nowhere.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence

from clstr._limits import MAX_CHAIN_BYTES, MAX_CHAIN_KEYS

MAX_NAME_BYTES = 48  # so many that `MAX_CHAIN_KEYS` of them fit into `MAX_CHAIN_BYTES`, each with its id
_DIGEST_BYTES = 8
_PREFIX_BYTES = MAX_NAME_BYTES - 2 * _DIGEST_BYTES - 1
_ID_BYTES = 9  # 72 bits cannot be guessed, and make 12 characters of base64 without padding
_ID_CHARACTERS = 12
_BATCH = 256  # ids drawn at once: one call to the system for each would cost ten times as much
_SEPARATOR = "#"


class CallIds:
    """
    Ids of requests, which nobody can guess.

    Args:
        random_bytes: Returns so many random bytes.
    """

    def __init__(self, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._random_bytes = random_bytes
        self._drawn = ""
        self._next = 0

    def new(self) -> str:
        """Return an id that was never returned before."""
        if self._next == len(self._drawn):
            self._drawn = base64.urlsafe_b64encode(self._random_bytes(_ID_BYTES * _BATCH)).decode()
            self._next = 0
        start, self._next = self._next, self._next + _ID_CHARACTERS
        return self._drawn[start : self._next]


def chain_name(name: str) -> str:
    """Return what stands for ``name`` on chains: itself, or its beginning and a digest if it is long."""
    encoded = name.encode("utf-8", "surrogatepass")
    if len(encoded) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.blake2b(encoded, digest_size=_DIGEST_BYTES).hexdigest()
    return f"{encoded[:_PREFIX_BYTES].decode('utf-8', 'ignore')}~{digest}"


def new_call(name: str, ids: CallIds) -> str:
    """Return what stands on the chain of a new request that the handler called ``name`` awaits."""
    return f"{chain_name(name)}{_SEPARATOR}{ids.new()}"


def extend(chain: Iterable[str], call: str) -> list[str]:
    """Append ``call`` to ``chain``, and forget its oldest calls beyond the bounds."""
    calls = [*chain, call]
    del calls[:-MAX_CHAIN_KEYS]
    while sum(len(each.encode()) for each in calls) > MAX_CHAIN_BYTES:
        del calls[0]
    return calls


def latest_call(chain: Sequence[str], name: str) -> str | None:
    """Return the last call on ``chain`` of the handler called ``name``, or ``None`` if there is none."""
    prefix = chain_name(name) + _SEPARATOR
    for call in reversed(chain):
        if call.startswith(prefix) and _SEPARATOR not in call[len(prefix) :]:
            return call
    return None


def sender_of(chain: Sequence[str]) -> str | None:
    """Return the name of the last handler on ``chain``, or ``None`` if nobody stands there."""
    return chain[-1].rpartition(_SEPARATOR)[0] if chain else None


def is_name_of(name: str, key: str) -> bool:
    """Tell whether ``name`` stands on chains for an actor of ``key``, of whatever kind."""
    ends = (position for position, character in enumerate(name) if character == ":")
    return any(chain_name(f"{name[:end]}:{key}") == name for end in ends)


def describe(chain: Iterable[str], name: str) -> str:
    """Return ``chain`` and, at its end, ``name`` for people: names without ids."""
    names = [call.rpartition(_SEPARATOR)[0] or call for call in chain]
    return " -> ".join([*names, chain_name(name)])
