"""
One process of a campaign: a node or a client, told what to do by lines of JSON on its standard input.

What happens to messages is in the journal, not in its answers.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).parents[1]))

import clstr
from chaos.actors import TYPES as ACTOR_TYPES
from chaos.actors import Depositor, accounts
from chaos.defects import DEFECTS
from chaos.load import Load, reply_to
from chaos.orders import Commands, obey
from clstr.spi import Engine
from clstr_testing import Journal

T = TypeVar("T")
STUBBORN = 1.0  # seconds for which a handler ignores that it was cancelled
SLOW = 0.1  # seconds of a handler under load: one node can do 80 messages a second, and gets hundreds
AGAIN = 0.05  # seconds between two tries
BLOCK = 0.05  # seconds for which a handler blocks the loop
LATE_MS = 20  # by so many a message may begin late: the clock of envelopes is not the loop's
# The queue holds enough large answers to fill the buffer of a node: 64 of 600 kB are more than 32 MiB.
NODE_LIMITS: dict[str, Any] = {"max_concurrent": 8, "max_queue": 64, "handler_timeout": 1.0, "drain_timeout": 2.0}
PR_SET_PDEATHSIG = 1


class Handler:
    """What a node does: it records that it runs a message, and then does what the message's type says."""

    def __init__(self, journal: Journal, node_id: str, accounts: clstr.ActorHandler) -> None:
        self._journal = journal
        self._node_id = node_id
        self._accounts = accounts
        self.release_shards = accounts.release_shards
        self.began_expired = 0

    async def __call__(self, envelope: clstr.Envelope) -> bytes | None:
        """Answer a message."""
        self.began_expired += envelope.expired(time.time_ns() // 1_000_000 - LATE_MS)
        if envelope.type in ACTOR_TYPES:
            return await self._accounts(envelope)
        self._journal.executing(envelope.headers["id"], node=self._node_id, shard=envelope.shard, what=envelope.type)
        match envelope.type:
            case "Slow":
                await asyncio.sleep(SLOW)
            case "Raise":
                raise RuntimeError("as it was told")
            case "Hang":
                await asyncio.Event().wait()
            case "Stubborn":
                await _ignore_cancellation()
            case "Block":
                time.sleep(BLOCK)  # noqa: ASYNC251 -- as somebody's handler does
        return reply_to(envelope.data, envelope.type)


class Children:
    """Processes that share every descriptor of this one, as those of a process pool do."""

    def __init__(self) -> None:
        self._living: set[int] = set()

    async def fork(self, seconds: float) -> None:
        """Start one that does nothing for so long."""
        parent = os.getpid()
        child = os.fork()
        if not child:
            try:
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() == parent:
                    time.sleep(seconds)  # noqa: ASYNC251 -- it has no loop
            finally:
                os._exit(0)
        self._living.add(child)

    def reap(self) -> None:
        """Forget those that have ended."""
        self._living = {child for child in self._living if os.waitpid(child, os.WNOHANG) == (0, 0)}

    def end(self) -> None:
        """End them all."""
        for child in self._living:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


async def _block(seconds: float) -> None:
    """Keep the loop from turning."""
    time.sleep(seconds)  # noqa: ASYNC251 -- that is the fault


async def _ignore_cancellation() -> None:
    end = asyncio.get_running_loop().time() + STUBBORN
    while (left := end - asyncio.get_running_loop().time()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(left)


async def node(options: argparse.Namespace, journal: Journal) -> None:
    """Be a node until told to stop."""
    handler = Handler(journal, options.name, accounts(options.journal.parent / "accounts"))
    children = Children()
    async with _patiently(lambda: clstr.connect(options.url, **NODE_LIMITS)) as transport:
        shards = options.shards
        async with _patiently(lambda: clstr.Node(transport, handler, node_id=options.name, shards=shards)) as this:
            commands: Commands = {
                "acquire": lambda shards: _until_up(lambda: this.acquire(shards)),
                "release": lambda shards: _release(this, shards),
                "block": _block,
                "fork": children.fork,
                "report": lambda: _report(transport, handler.began_expired, children),
            }
            try:
                await obey(commands)
            finally:
                children.end()


async def _release(this: clstr.Node, shards: list[int]) -> list[str]:
    """Release shards and return what still ran."""
    return list((await this.release(shards)).running)


async def client(options: argparse.Namespace, journal: Journal) -> None:
    """Be a client until told to stop."""
    async with _patiently(lambda: clstr.connect(options.url)) as transport:
        one = clstr.Client(transport, num_shards=options.num_shards, retry_undelivered=options.retry)
        patient = clstr.Client(transport, num_shards=options.num_shards, retry_undelivered=True)
        name = options.journal.stem  # other than in an earlier life: an id is never used twice
        depositor = Depositor(patient, options.num_shards, name)
        async with Load(one, patient, journal, name, options.num_shards, options.seed, options.patience) as load:
            commands: Commands = {
                "load": load.change,
                "probe": load.probe,
                "settle": load.settle,
                "latencies": load.latencies,
                "ask for large answers": load.ask_for_large_answers,
                "deposit": depositor.deposit,
                "missing": depositor.missing,
                "block": _block,
                "report": lambda: _report(transport),
            }
            await obey(commands)


async def _until_up(act: Callable[[], Awaitable[T]]) -> T:
    """Do it again for as long as the broker cannot be reached: a fault may be under way."""
    while True:
        try:
            return await act()
        except clstr.TransportUnavailableError:
            await asyncio.sleep(AGAIN)


@asynccontextmanager
async def _patiently(opener: Callable[[], AbstractAsyncContextManager[T]]) -> AsyncIterator[T]:
    async with AsyncExitStack() as stack:
        yield await _until_up(lambda: stack.enter_async_context(opener()))


async def _report(
    transport: clstr.Transport, began_expired: int = 0, children: Children | None = None
) -> dict[str, int]:
    """Count what this process has."""
    assert isinstance(transport, Engine)
    if children is not None:
        children.reap()
    gc.collect()
    return {
        "tasks": len(asyncio.all_tasks()),
        "descriptors": _descriptors(),
        "threads": threading.active_count(),
        "pending": len(transport.pending),
        "timers": len(transport.deadlines),
        "missed wake-ups": _missed_wakeups(transport),
        "messages that began expired": began_expired,
        "KiB": _resident_bytes() // 1024,
    }


def _missed_wakeups(transport: Engine) -> int:
    """Return how often ZeroMQ's descriptor did not tell of what had arrived; other links have none."""
    counters = getattr(transport.link, "counters", None)
    return 0 if counters is None else int(counters.missed_wakeups)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def main() -> None:
    """Read the command line and be what it says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["node", "client"])
    parser.add_argument("name")
    parser.add_argument("url")
    parser.add_argument("journal", type=Path)
    parser.add_argument("--shards", type=json.loads, default=[])
    parser.add_argument("--num-shards", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--retry", action="store_true")
    parser.add_argument("--patience", type=float, default=1.0)
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    parser.add_argument("--defect", action="append", default=[], choices=sorted(DEFECTS))
    options = parser.parse_args()
    with ExitStack() as stack:
        for name in options.defect:
            stack.enter_context(DEFECTS[name]())
        journal = stack.enter_context(Journal(options.journal))
        with asyncio.Runner(loop_factory=_loop_factory(options.loop)) as runner:
            runner.run({"node": node, "client": client}[options.role](options, journal))


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name == "asyncio":
        return None
    import uvloop  # noqa: PLC0415 -- it need not be installed

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


if __name__ == "__main__":
    main()
