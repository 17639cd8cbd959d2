"""How often this process has forked off its parent: asking the system for its id at each request would cost more."""

from __future__ import annotations

import os

count = 0


def _count_fork() -> None:
    global count  # noqa: PLW0603 -- a fact about the process, of which there is one
    count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)
