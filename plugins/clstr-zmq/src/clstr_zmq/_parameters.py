"""The parameters of a ZeroMQ URL, each with what reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from clstr.plugins import parse_bool, parse_file, parse_seconds

_CLUSTER = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def parse_heartbeat(text: str) -> float:
    """Read seconds from 0.01 to an hour."""
    seconds = parse_seconds(text)
    if not 0.01 <= seconds <= 3600:  # noqa: PLR2004 -- as the docstring says
        raise ValueError(f"must be seconds from 0.01 to 3600, not {text!r}")
    return seconds


def parse_cluster(text: str) -> str:
    """Read a cluster's name."""
    if not _CLUSTER.fullmatch(text):
        raise ValueError(f"must be 1 to 128 of A-Z, a-z, 0-9, '_', '.' and '-', not {text!r}")
    return text


PARAMETERS: Mapping[str, Callable[[str], object]] = {
    "advertise": str,
    "bind": str,
    "cluster": parse_cluster,
    "curve_key": parse_file,
    "curve_peers": parse_file,
    "heartbeat": parse_heartbeat,
    "insecure": parse_bool,
    "server_key": str,
}
