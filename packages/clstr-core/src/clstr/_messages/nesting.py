"""
How deeply JSON may nest: the same on every Python.

Decoders recurse. What stops them is the interpreter: a count of 1,000 calls, or, from Python 3.14 on, the size of the C
stack. So the bound is checked before decoding, and by the sender too, which else would learn of it from the node.
"""

from __future__ import annotations

from itertools import accumulate, count
from operator import sub

MAX_NESTING = 200  # objects and lists within each other: what pydantic reads too, and far below any interpreter's limit
CHECKED_BYTES = 2 * MAX_NESTING  # what is not longer cannot be nested deeper and well-formed: the caller asks, in line

_STEERING = b'[]{}"'
_OTHERS = bytes(byte for byte in range(256) if byte not in _STEERING)
_AS_LISTS = bytes.maketrans(b"{}", b"[]")
_STEPS = bytes.maketrans(b"[]", b"\x02\x00")
_SHALLOW = 8  # levels: nearly all data has fewer, and ends here


def check_nesting(data: bytes) -> None:
    """Raise `ValueError` if ``data``, JSON or not, has more than `MAX_NESTING` objects and lists within each other."""
    if data.count(b"[") + data.count(b"{") > MAX_NESTING and _nesting(data) > MAX_NESTING:
        raise ValueError(f"nested more than {MAX_NESTING} levels deep")


def _nesting(data: bytes) -> int:
    """Return the depth of ``data`` by passes over all of it in C: a loop in Python would take longer than decoding."""
    brackets, levels = _brackets(data), 0
    while levels < _SHALLOW and len(rest := brackets.replace(b"[]", b"")) < len(
        brackets
    ):  # without the innermost level
        brackets, levels = rest, levels + 1
    # A bracket counts 2 if it opens and 0 if it closes: less 1 for each bracket so far, the sum is the depth there.
    return levels + max(map(sub, accumulate(brackets.translate(_STEPS)), count(1)), default=0)


def _brackets(data: bytes) -> bytes:
    """Return the brackets of ``data`` that are not in its texts, all of one kind."""
    if b"\\" in data:  # an escaped quote ends no text
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    kept = data.translate(_AS_LISTS, _OTHERS)
    kept = kept.replace(b'""', b"")  # texts without brackets; between two texts it joins them, and they stay texts
    return b"".join(kept.split(b'"')[::2]) if b'"' in kept else kept
