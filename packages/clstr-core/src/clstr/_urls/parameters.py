"""Readers of URL parameters that several transports have."""

from __future__ import annotations

import math
from pathlib import Path

from clstr._messages.wire import CODECS


def parse_bool(text: str) -> bool:
    """
    Read ``true`` or ``false``.

    Raises:
        ValueError: It is neither.
    """
    if text not in {"true", "false"}:
        raise ValueError(f"must be true or false, not {text!r}")
    return text == "true"


def parse_codec(text: str) -> str:
    """
    Read the name of a codec, which `clstr.spi.Engine` takes.

    Raises:
        ValueError: There is no such codec.
    """
    if text not in CODECS:
        raise ValueError(f"must be {' or '.join(sorted(CODECS))}, not {text!r}")
    return text


def parse_file(text: str) -> str:
    """
    Read the path of a file that is there.

    Raises:
        ValueError: There is none.
    """
    try:
        is_there = Path(text).is_file()
    except OSError:  # a path that is too long, a folder that may not be read
        is_there = False
    if not is_there:
        raise ValueError("names no file that can be found")
    return text


def parse_seconds(text: str) -> float:
    """
    Read seconds above 0.

    Raises:
        ValueError: It is no number, or not a finite one above 0.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"must be seconds above 0, not {text!r}")
    return seconds
