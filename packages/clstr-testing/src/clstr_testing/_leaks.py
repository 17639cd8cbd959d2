"""What a piece of code leaves behind."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Collection, Hashable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path

DESCRIPTORS = Path("/proc/self/fd")
LOOK_AGAIN = 0.005  # seconds; threads end, and transports close, a little after they were told to
LOOP_THREADS = "asyncio_"  # how the threads of a loop's default executor are called: the loop keeps them


class LeakError(AssertionError):
    """
    Something was left behind.

    Attributes:
        left: Its descriptions.
    """

    def __init__(self, left: Collection[str]) -> None:
        super().__init__("left behind: " + "; ".join(left))
        self.left = tuple(left)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resources:
    """What lives, each thing with its description."""

    tasks: dict[Hashable, str]
    threads: dict[Hashable, str]
    timers: dict[Hashable, str]
    descriptors: dict[Hashable, str]

    def since(self, before: _Resources) -> list[str]:
        """Describe what was not there ``before``."""
        return [
            description
            for field in fields(self)
            for key, description in getattr(self, field.name).items()
            if key not in getattr(before, field.name)
        ]


@asynccontextmanager
async def no_leaks(*, grace: float = 1.0) -> AsyncIterator[None]:
    """
    Check that the block leaves no task, thread, timer of the running loop, or file descriptor behind.

    Descriptors are seen where ``/proc/self/fd`` exists, timers on asyncio's own loops (not on uvloop). The threads of
    the loop's default executor do not count. If the block raises, that is not hidden by what it then left.

    Args:
        grace: Seconds that may pass until everything has gone; nothing waits if it has.

    Raises:
        LeakError: Something is left; the message names each thing.
    """
    before = _resources()
    yield
    loop = asyncio.get_running_loop()
    until = loop.time() + grace
    while left := _resources().since(before):
        if loop.time() >= until:
            raise LeakError(left)
        await asyncio.sleep(LOOK_AGAIN)


def _resources() -> _Resources:
    return _Resources(tasks=_tasks(), threads=_threads(), timers=_timers(), descriptors=_descriptors())


def _tasks() -> dict[Hashable, str]:
    current = asyncio.current_task()
    return {task: f"task {task.get_name()}: {task.get_coro()}" for task in asyncio.all_tasks() if task is not current}


def _threads() -> dict[Hashable, str]:
    return {each: f"thread {each.name}" for each in threading.enumerate() if not each.name.startswith(LOOP_THREADS)}


def _timers() -> dict[Hashable, str]:
    """Describe the timers; one that calls what another called before counts as that one, set again."""
    scheduled: list[asyncio.TimerHandle] = getattr(asyncio.get_running_loop(), "_scheduled", [])
    found: dict[Hashable, str] = {}
    seen = Counter[object]()
    for timer in scheduled:
        if not timer.cancelled():
            callback: object = getattr(timer, "_callback")  # noqa: B009 -- typeshed does not have it
            seen[callback] += 1
            found[callback, seen[callback]] = f"timer {timer!r}"
    return found


def _descriptors() -> dict[Hashable, str]:
    found: dict[Hashable, str] = {}
    for number in os.listdir(DESCRIPTORS) if DESCRIPTORS.exists() else ():  # noqa: PTH208 -- half the time of iterdir
        try:
            target = os.readlink(DESCRIPTORS / number)  # noqa: PTH115 -- Path.readlink would interpret it
        except OSError:  # the one that the listing itself used
            continue
        found[number, target] = f"descriptor {number} ({target}{_ends(int(number), target)})"
    return found


def _ends(number: int, target: str) -> str:
    """Return the addresses of a socket."""
    if not target.startswith("socket:"):
        return ""
    with socket.socket(fileno=os.dup(number)) as each:
        ends = [each.getsockname()]
        with suppress(OSError):  # it is not connected
            ends.append(each.getpeername())
    return "".join(f" {end}" for end in ends)
