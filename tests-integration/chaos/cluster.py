"""The processes of a campaign, and who owns which shards."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import clstr
from chaos.process import Process
from chaos.sites import Site
from clstr_testing import Records, read_journals

NUM_SHARDS = 32
SETTLE_TRIES = 100  # looks at a survivor, a twentieth of a second apart, until it has let go of everything
COUNTED = (
    "tasks",
    "descriptors",
    "threads",
    "pending",
    "timers",
    "missed wake-ups",
    "messages that began expired",
)
HAS_UVLOOP = importlib.util.find_spec("uvloop") is not None

Report = dict[str, int]


class ProcessCluster:
    """
    Nodes and clients, each a process; one that is started again has another journal.

    Every second one is on uvloop where that is installed: those whose numbers are even.

    Args:
        site: Where they are.
        folder: For journals and logs.
        stack: Ends what they need.
        defects: What is wrong with each of them, on purpose.
        options: More arguments of each process.

    Attributes:
        processes: Those that live, by name.
        shards: What each node owns, by the node's name.
        killed: The names of the journals of clients that were killed.
        steady: The names of the processes that were never started again.
    """

    def __init__(
        self,
        site: Site,
        folder: Path,
        stack: AsyncExitStack,
        *,
        defects: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> None:
        self.site = site
        self.folder = folder
        self.processes: dict[str, Process] = {}
        self.shards: dict[str, set[int]] = {}
        self.killed: set[str] = set()
        self.steady: set[str] = set()
        self._stack = stack
        self._options = [*(f"--defect={defect}" for defect in defects), *options]
        self._lives = itertools.count(1)
        self._journals: dict[str, str] = {}
        stack.push_async_callback(self._kill_all)

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes."""
        return sorted(self.shards)

    @property
    def clients(self) -> list[str]:
        """The names of the clients."""
        return sorted(self.processes.keys() - self.shards.keys())

    async def start(self, nodes: int, clients: int, seed: int) -> None:
        """Start everybody; rendezvous hashing says who owns what."""
        names = [f"node-{number}" for number in range(1, nodes + 1)]
        for name, shards in clstr.assign_shards(names, NUM_SHARDS).items():
            await self.start_node(name, shards)
        for number in range(1, clients + 1):
            await self.start_client(f"client-{number}", seed + number)
        self.steady = set(self.processes)

    async def start_node(self, name: str, shards: Iterable[int]) -> None:
        """Start a node that owns ``shards``."""
        self.shards[name] = set(shards)
        await self._start("node", name, f"--shards={sorted(self.shards[name])}")

    async def start_client(self, name: str, seed: int) -> None:
        """Start a client."""
        await self._start("client", name, f"--num-shards={NUM_SHARDS}", f"--seed={seed}")

    async def kill(self, name: str) -> None:
        """Kill a process."""
        self.steady.discard(name)
        if name not in self.shards:
            self.killed.add(self._journals[name])
        await self.processes[name].kill()

    async def stop(self, name: str) -> None:
        """Let a process drain and end."""
        self.steady.discard(name)
        await self.processes[name].stop()

    async def move(self, shards: Iterable[int], giver: str, taker: str) -> None:
        """Let ``taker`` have ``shards`` of ``giver``."""
        moving = sorted(shards)
        await self.processes[giver].tell("release", moving)
        self.shards[giver].difference_update(moving)
        await self.processes[taker].tell("acquire", moving)
        self.shards[taker].update(moving)

    async def stop_all(self) -> None:
        """Let everybody drain and end, clients first."""
        for name in [*self.clients, *self.nodes]:
            await self.processes[name].stop()

    async def tell_clients(self, command: str, *arguments: object) -> list[Any]:
        """Give every client a command and return their answers."""
        clients = [self.processes[name] for name in self.clients]
        return list(await asyncio.gather(*(client.tell(command, *arguments) for client in clients)))

    async def reports(self) -> dict[str, Report]:
        """Ask those that were never started again what they have."""
        return {name: await self.processes[name].tell("report") for name in sorted(self.steady)}

    async def compare(self, before: dict[str, Report]) -> list[str]:
        """Wait until nobody has more of anything than ``before``, and complain if that never comes."""
        for _ in range(SETTLE_TRIES):
            after = await self.reports()
            more = [
                f"{name} has {after[name][what]} {what}, and had {before[name][what]}"
                for name in after
                for what in COUNTED
                if after[name][what] > before[name][what]
            ]
            if not more:
                break
            await asyncio.sleep(0.05)
        return more

    def records(self) -> Records:
        """Read the journals of every life."""
        return read_journals(sorted(self.folder.glob("*.journal")))

    def forget(self, name: str) -> None:
        """Forget a node that has ended and owns nothing."""
        del self.processes[name], self.shards[name]

    async def _start(self, role: str, name: str, *options: str) -> None:
        journal = self._journals[name] = f"{name}.{next(self._lives)}.journal"
        url = await self.site.url(name, self._stack)
        loop = "uvloop" if HAS_UVLOOP and int(name.rpartition("-")[2]) % 2 == 0 else "asyncio"
        arguments = [role, name, url, str(self.folder / journal), f"--loop={loop}", *options, *self._options]
        self.processes[name] = Process(arguments, self.folder / f"{name}.log")
        await self.processes[name].start()

    async def _kill_all(self) -> None:
        for process in self.processes.values():
            await process.kill()
