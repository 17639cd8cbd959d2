"""One run: a cluster of processes, a load, storms of faults, and the verdict."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import nats

from chaos.cluster import NUM_SHARDS, ProcessCluster, Report
from chaos.plan import EXCUSES_NOTHING, GENTLE, Fault, Storm, storms
from chaos.process import PeerError
from chaos.sites import site_of
from clstr_testing import FaultProxy, Verdict, judge

WARM_UP = 1.0  # seconds of load before anything is measured
MARGIN = 0.5  # seconds after its deadline within which a call must have ended, on a machine that many processes share
MAX_GROWTH_MIB = 64  # a burst of large answers leaves half of that as free memory of the allocator
LARGE_ANSWERS = 64  # at once, by one client: 38 MB, more than the 32 MiB that one node keeps for it
ACTORS = 300  # that move at once
CHILD_LIVES = 8.0  # seconds: longer than calls may fail of the fault that it was made for
MUTE = 1.5  # seconds, more than a peer waits for a sign of life: it gives its connection up
RECORDER = "everything"


@dataclass(slots=True, kw_only=True)
class Result:
    """
    What a run has shown.

    Attributes:
        faults: How often each kind of fault happened.
        windows: When storms began and ended, and their faults, on the journals' clock.
        recovery: Seconds after the last fault until every shard had answered.
        growth: The most that a process that lived through everything has grown, in MiB.
        problems: What is wrong beside the verdict's violations.
        verdict: The judge's.
    """

    faults: Counter[str] = field(default_factory=Counter)
    windows: list[tuple[float, float, str]] = field(default_factory=list)
    recovery: float = 0.0
    growth: int = 0
    problems: list[str] = field(default_factory=list)
    verdict: Verdict | None = None

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        return not self.problems and self.verdict is not None and self.verdict.is_safe

    def __str__(self) -> str:
        happened = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.faults.items())) or "no faults"
        facts = f"every shard answered {self.recovery:.2f} s after the last fault, survivors grew {self.growth} MiB"
        seen = [f"storm {begin:.3f} to {end:.3f}: {what}" for begin, end, what in self.windows]
        return "\n  ".join([f"{happened}; {facts}; {self.verdict}", *self.problems, *([] if self.is_good else seen)])


class Campaign:
    """
    A run over one cluster.

    Args:
        cluster: Nodes and clients that run.
        detection: Seconds after a storm in which calls may still fail of it.
    """

    def __init__(self, cluster: ProcessCluster, detection: float) -> None:
        self._cluster = cluster
        self._site = cluster.site
        self._detection = detection
        self._busy: set[str] = set()  # whom something happens to: one thing at a time
        self._freed = asyncio.Condition()
        self.result = Result()
        self._faults: dict[str, Callable[[Fault], Awaitable[None]]] = {
            "kill node": self._kill_node,
            "freeze node": self._freeze_node,
            "restart node": self._restart_node,
            "move shards": self._move_shards,
            "block node": self._block(lambda: self._cluster.nodes),
            "fork node": self._fork_node,
            "move actors": self._move_actors,
            "kill client": self._kill_client,
            "block client": self._block(lambda: self._cluster.clients),
            "stall link": self._link_fault(FaultProxy.black_hole),
            "cut link": self._cut_link,
            "slow link": self._link_fault(_slow),
            "trickle link": self._link_fault(_trickle),
            "half-close to server": self._link_fault(lambda link: link.to_server.half_close()),
            "half-close to client": self._link_fault(lambda link: link.to_client.half_close()),
            "kill broker": self._kill_broker,
            "pause broker": self._pause_broker,
            "overload": self._overload,
            "misbehave": self._misbehave,
            "large answers": self._large_answers,
            "record everything": self._record_everything,
        }
        self._is_gentle = False  # whether no fault of the present storm excuses what `GENTLE` ones ask to fail

    async def run(self, plan: Sequence[Storm], seconds: float) -> None:
        """Let everything happen, and note what is wrong with the survivors afterwards."""
        if any(fault.kind == "large answers" for storm in plan for fault in storm.faults):
            await self._cluster.tell_clients("ask for large answers", LARGE_ANSWERS // 8)  # memory grows once
        await self._cluster.tell_clients("load", 1, "Echo")
        await asyncio.sleep(WARM_UP)
        await self._cluster.tell_clients("settle")
        before = await self._cluster.reports()
        await self._cluster.tell_clients("load", 1, "Echo")
        began = time.monotonic()
        for storm in plan:
            await asyncio.sleep(began + storm.at - time.monotonic())
            await self._weather(storm)
        if plan:
            await self._recover()
        await asyncio.sleep(began + seconds - time.monotonic())
        await self._cluster.tell_clients("settle")
        await self._compare(before)

    # Storms.

    async def _weather(self, storm: Storm) -> None:
        begin = time.monotonic()
        self._is_gentle = GENTLE.issuperset(fault.kind for fault in storm.faults)
        await asyncio.gather(*(self._happen(fault) for fault in storm.faults))
        what = ", ".join(map(str, storm.faults))
        if not EXCUSES_NOTHING.issuperset(fault.kind for fault in storm.faults):
            self.result.windows.append((begin, time.monotonic(), what))

    async def _happen(self, fault: Fault) -> None:
        self.result.faults[fault.kind] += 1
        await self._faults[fault.kind](fault)

    @asynccontextmanager
    async def _victim(self, names: Sequence[str], fault: Fault) -> AsyncIterator[str]:
        """Choose whom it happens to, among those to whom nothing else does; wait until there is one."""
        async with self._freed:
            await self._freed.wait_for(lambda: not self._busy.issuperset(names))
            free = [name for name in names if name not in self._busy]
            chosen = free[fault.target % len(free)]
            self._busy.add(chosen)
        yield chosen
        async with self._freed:
            self._busy.discard(chosen)
            self._freed.notify_all()

    async def _kill_node(self, fault: Fault) -> None:
        async with self._victim(self._cluster.nodes, fault) as name:
            await self._cluster.kill(name)
            await asyncio.sleep(fault.lasts)
            await self._cluster.start_node(name, self._cluster.shards[name])

    async def _freeze_node(self, fault: Fault) -> None:
        async with self._victim(self._cluster.nodes, fault) as name:
            self._cluster.processes[name].freeze()
            await asyncio.sleep(fault.lasts)
            self._cluster.processes[name].thaw()

    async def _restart_node(self, fault: Fault) -> None:
        async with self._victim(self._cluster.nodes, fault) as name:
            await self._cluster.stop(name)
            await self._cluster.start_node(name, self._cluster.shards[name])

    async def _move_shards(self, fault: Fault) -> None:
        nodes = self._cluster.nodes
        async with self._victim(nodes, fault) as giver, self._victim(nodes, fault) as taker:
            shards = sorted(self._cluster.shards[giver])
            await self._cluster.move(shards[: len(shards) // 2], giver, taker)

    def _block(self, names: Callable[[], Sequence[str]]) -> Callable[[Fault], Awaitable[None]]:
        """Make a fault of a loop that does not turn while its process lives."""

        async def happen(fault: Fault) -> None:
            async with self._victim(names(), fault) as name:
                await self._cluster.processes[name].tell("block", fault.lasts)

        return happen

    async def _fork_node(self, fault: Fault) -> None:
        """Let a child have a node's sockets while the node gives its connection up and makes another."""
        async with self._victim(self._cluster.nodes, fault) as name:
            await self._cluster.processes[name].tell("fork", CHILD_LIVES)
            self._site.links[name].black_hole()
            await asyncio.sleep(fault.lasts + MUTE)
            self._site.links[name].heal()

    async def _move_actors(self, fault: Fault) -> None:
        """Move shards whose actors store slowly what they have, and look for what is missing."""
        nodes, clients = self._cluster.nodes, self._cluster.clients
        async with (
            self._victim(nodes, fault) as giver,
            self._victim(nodes, fault) as taker,
            self._victim(clients, fault) as client,
        ):
            shards = sorted(self._cluster.shards[giver])
            if not shards:
                return
            process = self._cluster.processes[client]
            await process.tell("deposit", shards, ACTORS)
            await self._cluster.move(shards, giver, taker)
            missing = await process.tell("missing")
            await self._cluster.move(shards[: len(shards) // 2], taker, giver)
        if self._is_gentle and missing:
            self.result.problems.append(f"{len(missing)} of {ACTORS} actors that moved: {'; '.join(missing[:5])}")

    async def _kill_client(self, fault: Fault) -> None:
        async with self._victim(self._cluster.clients, fault) as name:
            await self._cluster.kill(name)
            await asyncio.sleep(fault.lasts)
            await self._cluster.start_client(name, fault.target)
            await self._cluster.processes[name].tell("load", 1, "Echo")

    def _link_fault(self, begin: Callable[[FaultProxy], None]) -> Callable[[Fault], Awaitable[None]]:
        """Make a fault of something that `FaultProxy.heal` takes back."""

        async def happen(fault: Fault) -> None:
            async with self._victim(sorted(self._site.links), fault) as name:
                begin(self._site.links[name])
                await asyncio.sleep(fault.lasts)
                self._site.links[name].heal()

        return happen

    async def _cut_link(self, fault: Fault) -> None:
        async with self._victim(sorted(self._site.links), fault) as name:
            link = self._site.links[name]
            link.refuse()
            await link.reset()
            await asyncio.sleep(fault.lasts)
            link.accept()

    async def _kill_broker(self, fault: Fault) -> None:
        assert self._site.server is not None
        self._site.server.kill()
        await asyncio.sleep(fault.lasts)
        await self._site.server.restart()

    async def _pause_broker(self, fault: Fault) -> None:
        assert self._site.server is not None
        self._site.server.pause()
        await asyncio.sleep(fault.lasts)
        self._site.server.resume()

    async def _overload(self, fault: Fault) -> None:
        await self._load_otherwise(fault, 10, "Slow")

    async def _misbehave(self, fault: Fault) -> None:
        await self._load_otherwise(fault, 1, "Echo", "Raise", "Hang", "Stubborn", "Block")

    async def _large_answers(self, fault: Fault) -> None:
        """Let a client ask for more than it, or the one node, can have unsent."""
        shard = fault.target % NUM_SHARDS if fault.target % 2 else None
        async with self._victim(self._cluster.clients, fault) as name:
            unanswered = await self._cluster.processes[name].tell("ask for large answers", LARGE_ANSWERS, shard)
        if self._is_gentle and unanswered:
            what = ", ".join(f"{count} x {kind}" for kind, count in Counter(unanswered).items())
            self.result.problems.append(f"of {LARGE_ANSWERS} large answers were lost: {what}")

    async def _record_everything(self, fault: Fault) -> None:
        """Let a stream of the broker have all that is sent, and acknowledge it to the reply address."""
        assert self._site.server is not None
        with suppress(nats.errors.Error, OSError, TimeoutError):  # the broker may have another fault
            connection = await nats.connect(self._site.server.url, connect_timeout=1, allow_reconnect=False)
            try:
                stream = connection.jetstream(timeout=1)
                await stream.add_stream(name=RECORDER, subjects=["clstr.>"], storage="memory", max_msgs=1000)
                await asyncio.sleep(fault.lasts)
                await stream.delete_stream(RECORDER)
            finally:
                await connection.close()

    async def _load_otherwise(self, fault: Fault, factor: float, *types: str) -> None:
        async with self._victim(self._cluster.clients, fault) as name:
            await self._cluster.processes[name].tell("load", factor, *types)
            await asyncio.sleep(fault.lasts)
            await self._cluster.processes[name].tell("load", 1, "Echo")

    # Afterwards.

    async def _recover(self) -> None:
        """Ask for every shard, from every client, as soon as the last fault is healed."""
        for answer in await self._cluster.tell_clients("probe", self._detection):
            if isinstance(answer, list):
                self.result.problems.append(f"shards {answer} did not answer within {self._detection:g} s")
            else:
                self.result.recovery = max(self.result.recovery, answer)

    async def _compare(self, before: dict[str, Report]) -> None:
        """Complain if the survivors have more of anything than they had."""
        self.result.problems += await self._cluster.compare(before)
        after = await self._cluster.reports()
        grown = {name: (after[name]["KiB"] - before[name]["KiB"]) // 1024 for name in after}
        self.result.growth = max(grown.values(), default=0)
        self.result.problems += [f"{name} has grown {by} MiB" for name, by in grown.items() if by > MAX_GROWTH_MIB]


def _slow(link: FaultProxy) -> None:
    link.to_server.delay = link.to_client.delay = 0.05


def _trickle(link: FaultProxy) -> None:
    link.to_server.piece_bytes = link.to_client.piece_bytes = 16


async def run_campaign(
    transport: str,
    folder: Path,
    *,
    seed: int,
    seconds: float,
    nodes: int = 4,
    clients: int = 2,
    defects: Sequence[str] = (),
    kinds: Sequence[str] | None = None,
) -> Result:
    """
    Run one campaign.

    Args:
        transport: The name of a transport, see `chaos.sites`.
        folder: An empty one, for journals and logs.
        seed: For the plan and for the load.
        seconds: How long it lasts, start and end excluded.
        nodes: How many processes are nodes.
        clients: How many processes are clients.
        defects: What is wrong with each process, on purpose.
        kinds: The faults to choose from; by default all that the site has.
    """
    async with site_of(transport) as site, AsyncExitStack() as stack:
        cluster = ProcessCluster(site, folder, stack, defects=defects)
        campaign = Campaign(cluster, site.detection)
        try:
            await cluster.start(nodes, clients, seed)
            chosen = site.kinds if kinds is None else site.kinds.intersection(kinds)
            await campaign.run(list(storms(seed, seconds, chosen, site.detection)), seconds)
            await cluster.stop_all()
        except PeerError as error:
            campaign.result.problems.append(str(error))
    result = campaign.result
    windows = [(begin, end) for begin, end, _ in result.windows]
    result.verdict = judge(
        cluster.records(), margin=MARGIN, killed=cluster.killed, faults=windows, detection=site.detection
    )
    return result
