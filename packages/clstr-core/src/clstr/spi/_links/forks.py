"""What a fork changes: transports of the parent must not be used in the child, nor kept alive by it."""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Iterable

count = 0  # how often this process has forked off its parent: asking for its id at each request would cost more

guarded: weakref.WeakSet[socket.socket] = weakref.WeakSet()
"""The sockets that a child must not keep open."""


def _in_child() -> None:
    global count  # noqa: PLW0603 -- a fact about the process, of which there is one
    count += 1
    numbers = [number for each in guarded if (number := each.fileno()) >= 0]
    if numbers:
        close_in_child(numbers)


def close_in_child(descriptors: Iterable[int]) -> None:
    """
    Put /dev/null in the place of ``descriptors``, in a process that was just forked.

    For a driver whose sockets Python does not know, called from ``os.register_at_fork(after_in_child=...)``;
    `keep_from_children` does it for sockets. The numbers stay in use: objects of the parent that the child has
    inherited may still close them, and must not hit a file that the child has opened since.

    Args:
        descriptors: Open ones.

    Raises:
        OSError: There is no /dev/null, or no descriptor for it.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for number in descriptors:
        os.dup2(null, number, inheritable=False)
    os.close(null)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
