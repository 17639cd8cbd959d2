"""Text that others wrote, on its way to a log, an error or a terminal."""

from __future__ import annotations

import re

# C0 and C1 controls and DEL, separators of lines, marks that turn the direction of text (Unicode's Bidi_Control), and
# lone surrogates, which have no UTF-8.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, *, keep: str = "") -> str:
    """
    Escape what is not shown but steers: a log line that it ends, or a terminal that it moves, shows what never was.

    Args:
        text: Any text.
        keep: Characters that stay as they are.
    """
    if text.isprintable():  # nearly always
        return text
    return _STEERING.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text)
