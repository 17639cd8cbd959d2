"""Call chains: the names of the keys that a request came through, oldest first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from clstr._limits import MAX_CHAIN_BYTES, MAX_CHAIN_KEYS

MAX_NAME_BYTES = 48  # so many that `MAX_CHAIN_KEYS` of them fit into `MAX_CHAIN_BYTES`
_DIGEST_BYTES = 8
_PREFIX_BYTES = MAX_NAME_BYTES - 2 * _DIGEST_BYTES - 1


def chain_name(name: str) -> str:
    """Return what stands for ``name`` on chains: itself, or its beginning and a digest if it is long."""
    encoded = name.encode("utf-8", "surrogatepass")
    if len(encoded) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.blake2b(encoded, digest_size=_DIGEST_BYTES).hexdigest()
    return f"{encoded[:_PREFIX_BYTES].decode('utf-8', 'ignore')}~{digest}"


def extend(chain: Iterable[str], name: str | None) -> list[str]:
    """Append ``name``, if there is one, to ``chain``, and forget its oldest names beyond the bounds."""
    names = [*chain, chain_name(name)] if name else list(chain)
    del names[:-MAX_CHAIN_KEYS]
    while sum(len(each.encode()) for each in names) > MAX_CHAIN_BYTES:
        del names[0]
    return names
