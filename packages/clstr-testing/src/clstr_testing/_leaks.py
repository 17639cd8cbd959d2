"""What a piece of code leaves behind."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Collection, Hashable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

DESCRIPTORS = Path("/proc/self/fd")
LOOK_AGAIN = 0.005  # seconds; threads end, and transports close, a little after they were told to
LOOP_THREADS = ("asyncio_", "uvloop_")  # how the threads of a loop's default executor are called: the loop keeps them


class LeakError(AssertionError):
    """
    Something was left behind.

    Attributes:
        left: Its descriptions.
    """

    def __init__(self, left: Collection[str]) -> None:
        super().__init__("left behind: " + "; ".join(left))
        self.left: tuple[str, ...] = tuple(left)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Thing:
    """
    Something that lives.

    Attributes:
        kind: Things of one kind stand for each other: one that went and one that came are none left.
        description: What an error says of it.
    """

    kind: Hashable
    description: str


_Things = dict[Hashable, _Thing]


@asynccontextmanager
async def no_leaks(*, grace: float = 1.0) -> AsyncIterator[None]:
    """
    Check that the block leaves no task, thread, timer of the running loop, or file descriptor behind.

    A timer that is set again, or a descriptor that is opened again, for the same thing is not one more. Descriptors are
    seen where ``/proc/self/fd`` exists, timers on asyncio's own loops (not on uvloop). The threads of the loop's
    default executor do not count. If the block raises, that is not hidden by what it then left.

    Args:
        grace: Seconds that may pass until everything has gone; nothing waits if it has.

    Raises:
        LeakError: Something is left; the message names each thing.
    """
    before = _things()
    yield
    loop = asyncio.get_running_loop()
    until = loop.time() + grace
    while left := _left(before, _things()):
        if loop.time() >= until:
            raise LeakError(left)
        await asyncio.sleep(LOOK_AGAIN)


def _left(before: _Things, after: _Things) -> list[str]:
    gone = Counter(thing.kind for key, thing in before.items() if key not in after)
    left = []
    for key, thing in after.items():
        if key not in before:
            gone[thing.kind] -= 1
            if gone[thing.kind] < 0:
                left.append(thing.description)
    return left


def _things() -> _Things:
    return {key: thing for each in (_tasks(), _threads(), _timers(), _descriptors()) for key, thing in each}


def _tasks() -> Iterator[tuple[Hashable, _Thing]]:
    current = asyncio.current_task()
    for task in asyncio.all_tasks():
        if task is not current:
            yield task, _Thing(kind=task, description=f"task {task.get_name()}: {task.get_coro()}")


def _threads() -> Iterator[tuple[Hashable, _Thing]]:
    for thread in threading.enumerate():
        if not thread.name.startswith(LOOP_THREADS):
            yield thread, _Thing(kind=thread, description=f"thread {thread.name}")


def _timers() -> Iterator[tuple[Hashable, _Thing]]:
    """Yield the timers; one that is set again is another, of the same kind."""
    scheduled: list[asyncio.TimerHandle] = getattr(asyncio.get_running_loop(), "_scheduled", [])
    for timer in scheduled:
        if not timer.cancelled():
            callback: Hashable = getattr(timer, "_callback")  # noqa: B009 -- typeshed does not have it
            yield id(timer), _Thing(kind=callback, description=f"timer {timer!r}")


def _descriptors() -> Iterator[tuple[Hashable, _Thing]]:
    for number in os.listdir(DESCRIPTORS) if DESCRIPTORS.exists() else ():  # noqa: PTH208 -- half the time of iterdir
        try:
            target = os.readlink(DESCRIPTORS / number)  # noqa: PTH115 -- Path.readlink would interpret it
            ends = _ends(int(number), target)
        except OSError:  # closed meanwhile, as the one that the listing itself used
            continue
        if target != os.devnull or isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):  # uvloop keeps one
            kind = re.sub(r"\[\d+\]", "", target) + ends
            yield (number, target), _Thing(kind=kind, description=f"descriptor {number} ({target}{ends})")


def _ends(number: int, target: str) -> str:
    """Return the addresses of a socket."""
    if not target.startswith("socket:"):
        return ""
    with socket.socket(fileno=os.dup(number)) as each:
        ends = [each.getsockname()]
        with suppress(OSError):  # it is not connected
            ends.append(each.getpeername())
    return "".join(f" {end}" for end in ends if end)
