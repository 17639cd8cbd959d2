"""The parameters of a ZeroMQ URL, each with what reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

_CLUSTER = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def parse_bool(text: str) -> bool:
    """Read ``true`` or ``false``."""
    if text not in {"true", "false"}:
        raise ValueError(f"must be true or false, not {text!r}")
    return text == "true"


def parse_seconds(text: str) -> float:
    """Read seconds from 0.01 to an hour."""
    seconds = float(text)
    if not 0.01 <= seconds <= 3600:  # noqa: PLR2004 -- as the docstring says
        raise ValueError(f"must be seconds from 0.01 to 3600, not {text!r}")
    return seconds


def parse_cluster(text: str) -> str:
    """Read a cluster's name."""
    if not _CLUSTER.fullmatch(text):
        raise ValueError(f"must be 1 to 128 of A-Z, a-z, 0-9, '_', '.' and '-', not {text!r}")
    return text


def parse_file(text: str) -> Path:
    """Read the path of a file that is there."""
    if not Path(text).is_file():
        raise ValueError("names no file that can be found")
    return Path(text)


PARAMETERS: Mapping[str, Callable[[str], object]] = {
    "advertise": str,
    "bind": str,
    "cluster": parse_cluster,
    "curve_key": parse_file,
    "curve_peers": parse_file,
    "heartbeat": parse_seconds,
    "insecure": parse_bool,
    "server_key": str,
}
