"""The name of a cluster: part of each request, so that two clusters on one broker do not take each other's."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)


def check_cluster_name(name: str) -> str:
    """
    Return ``name`` if a cluster can be called so.

    Raises:
        TypeError: It is not a str.
        ValueError: It is empty, too long, or has other characters.
    """
    if not isinstance(name, str):
        raise TypeError(f"cluster must be a str, not {type(name).__name__}")
    if not _NAME.fullmatch(name):
        raise ValueError("cluster must be 1 to 128 of A-Z, a-z, 0-9, '_', '.' and '-'")
    return name


def describe_cluster(name: str) -> str:
    """Return how to write the cluster's name of a message, whatever a stranger has put there."""
    if not name:
        return "not named"
    return name if _NAME.fullmatch(name) else "malformed"
