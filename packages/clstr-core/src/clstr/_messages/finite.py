"""Floats that JSON has no number for, infinities and "not a number": encoders write null, which is another value."""

from __future__ import annotations

import json
import math
from typing import Any


def check_finite(tree: Any, data: bytes, name: str) -> None:
    """
    Raise `ValueError` if a float became null.

    Args:
        tree: The value in dicts, lists and scalars, in the order in which it was encoded.
        data: The value as JSON. A model may have written such floats as text, which is fine.
        name: How the error calls the type of the value.
    """
    try:
        json.dumps(tree, allow_nan=False)  # in C: nearly always there is none
    except ValueError:
        lost = _lost("", tree, json.loads(data))
        if lost is not None:
            raise ValueError(
                f"{name}{lost[0]} is {lost[1]}, for which JSON has no number: it would arrive as null. Send None or a "
                "text instead"
            ) from None


def _lost(path: str, value: Any, written: Any) -> tuple[str, float] | None:
    """Return the path to the first float that was written as null, and that float."""
    if isinstance(value, float) and not math.isfinite(value) and written is None:
        return path, value
    pairs: Any = ()
    if isinstance(value, dict) and isinstance(written, dict):
        pairs = ((f"{path}.{key}", item, written.get(key)) for key, item in value.items())
    elif isinstance(value, list | tuple) and isinstance(written, list):
        pairs = ((f"{path}[{index}]", *pair) for index, pair in enumerate(zip(value, written, strict=False)))
    return next(filter(None, (_lost(*pair) for pair in pairs)), None)
