"""What happens in a schedule: callers, handlers, subscriptions that change, transports that close."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

import clstr
from clstr.abc import CloseReport, Subscription
from clstr.errors import ClstrError, NotOwnerError, OverloadedError, TransportClosedError
from clstr.spi import Engine, Limits, refuse
from simulation.ledger import GRANULARITY, MARGIN, Ledger
from simulation.network import SimLink
from simulation.script import FAR, SHARDS, Call, Script

CLOSE_GRACE = 2.0  # T14: aclose returns within drain_timeout and this


class Peer:
    """A transport of the schedule, and what runs on it now."""

    def __init__(self, world: World, link: SimLink, engine: Engine) -> None:
        self.world = world
        self.link = link
        self.engine = engine
        self.running: dict[Call, Holder] = {}
        self.holders: list[Holder] = []
        self._slots: dict[asyncio.Task[Any], Call | None] = {}  # ``None`` is one that has not begun

    @property
    def limits(self) -> Limits:
        """The engine's."""
        return self.engine.limits

    def check_slot(self) -> None:
        """A handler is about to start: does it have a slot that nobody else has?"""
        open_slots = (call for task, call in self._slots.items() if not task.done())
        active = sum(call is None or call.lent == 0 for call in open_slots)
        self.world.ledger.expect(active < self.limits.max_concurrent, "a handler starts without a free slot")

    def starts(self, task: asyncio.Task[Any]) -> None:
        """``task`` will run a handler; its slot is free when it has really ended."""
        if task.done():  # it started eagerly, and has ended already
            self._slots.pop(task, None)
        else:
            self._slots.setdefault(task, None)
            task.add_done_callback(self._slots.pop)

    def begins(self, call: Call) -> None:
        """The handler of ``call`` begins in the current task."""
        task = asyncio.current_task()
        assert task is not None
        self._slots[task] = call

    async def subscribe(self, shards: Iterable[int]) -> None:
        """Add a subscription, if the link lets it."""
        holder = Holder(self)
        try:
            holder.subscription = await self.engine.subscribe(shards, holder.handle)
        except ClstrError as error:
            self.world.ledger.note("subscribe failed", type(error).__name__)
        else:
            self.holders.append(holder)

    async def aclose(self, inside: Call | None = None) -> None:
        """Close the transport, and hold the closing against T14."""
        ledger, loop = self.world.ledger, asyncio.get_running_loop()
        began = loop.time()
        ledger.note(f"{self.link} closing")
        with _closing(inside):
            report = await self.engine.aclose()
        took = loop.time() - began
        ledger.note(f"{self.link} closed", str(report))
        ledger.expect(took <= self.limits.drain_timeout + CLOSE_GRACE + MARGIN, f"aclose took {took:.3f} s")
        self._check_closed(report)

    def _check_closed(self, report: CloseReport) -> None:
        ledger = self.world.ledger
        ledger.expect(self.link.is_closed, "aclose returned, but the link is open")
        left = [call for call in self.running if not call.closing]
        ledger.expect(
            len(left) <= len(report.abandoned),
            f"aclose returned while {[call.number for call in left]} run, and reports {report.abandoned}",
        )

    def check_idle(self, when: str) -> None:
        """Nothing must be left when nothing happens any more."""
        engine = self.engine
        left = {
            "pending": len(engine.pending),
            "in-flight bytes": engine.pending.inflight_bytes,
            "deadlines": len(engine.deadlines),
            "active": engine.dispatcher.active,
            "suspended": engine.dispatcher.suspended,
            "waiting": engine.dispatcher.waiting,
        }
        left = {name: count for name, count in left.items() if count}
        self.world.ledger.expect(not left, f"{when}, {self.link} has left: {left}")


class Holder:
    """A subscription, and what must be true of it."""

    subscription: Subscription

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._additions = dict.fromkeys(range(SHARDS), 0)  # by shard: begun
        self._adding = dict.fromkeys(range(SHARDS), 0)  # and not ended: these may be after a removal that has ended
        self._forbidden: set[int] = set()

    async def handle(self, envelope: clstr.Envelope) -> bytes | None:
        """Be the handler of this subscription."""
        world = self.peer.world
        call = world.ledger.whose(envelope.type.encode())
        self._check_start(call)
        call.starts += 1
        call.started_at = asyncio.get_running_loop().time()
        self.peer.running[call] = self
        self.peer.begins(call)
        world.ledger.note(f"{self.peer.link} started", call.number)
        try:
            return await world.behave(call, self)
        finally:
            del self.peer.running[call]
            world.ledger.note(f"{self.peer.link} ended", call.number)
            self._check_end(call)

    def _check_start(self, call: Call) -> None:
        ledger, now = self.peer.world.ledger, asyncio.get_running_loop().time()
        ledger.expect(call.shard not in self._forbidden, "started after its subscription had let go", call)
        ledger.expect(not self.peer.link.is_closed, "started on a closed transport", call)
        patience = [call.ttl_ms / 1000] if call.ttl_ms else []
        patience += [] if call.oneway else [call.timeout]
        if patience:
            allowed = max(min(patience), 0.001)  # a TTL on the wire is at least a millisecond
            ledger.expect(now <= call.delivered_at + allowed + MARGIN / 10, "started after it had expired", call)

    def _check_end(self, call: Call) -> None:
        if call.behaviour in {"deaf", "deaf_for_ever"}:
            return
        took = asyncio.get_running_loop().time() - call.started_at
        allowed = self.peer.limits.handler_timeout + GRANULARITY + MARGIN
        self.peer.world.ledger.expect(took <= allowed, f"ran for {took:.3f} s", call)

    async def add(self, shards: list[int]) -> None:
        """Hold more."""
        for shard in shards:
            self._additions[shard] += 1
            self._adding[shard] += 1
            self._forbidden.discard(shard)
        try:
            await self._survive("add", self.subscription.add(shards))
        finally:
            for shard in shards:
                self._adding[shard] -= 1

    async def remove(self, shards: list[int], inside: Call | None = None) -> None:
        """Hold less; on return T5 is true of them."""
        await self._let_go("remove", shards, lambda: self.subscription.remove(shards), inside)

    async def aclose(self, inside: Call | None = None) -> None:
        """Hold nothing; on return T5 is true of all, whatever is being added meanwhile."""
        await self._let_go("aclose", list(range(SHARDS)), self.subscription.aclose, inside)

    async def _let_go(
        self, what: str, shards: list[int], begin: Callable[[], Awaitable[object]], inside: Call | None
    ) -> None:
        loop = asyncio.get_running_loop()
        before, began = dict(self._additions), loop.time()
        with _closing(inside):
            if not await self._survive(what, begin()):
                return
        took = loop.time() - began
        for shard in shards:
            if what == "aclose" or (self._additions[shard] == before[shard] and not self._adding[shard]):
                self._forbidden.add(shard)
        self._check_gone(what, shards, took, before)

    def _check_gone(self, what: str, shards: list[int], took: float, before: dict[int, int]) -> None:
        ledger, limits = self.peer.world.ledger, self.peer.limits
        left = [
            call.number
            for call, holder in self.peer.running.items()
            if holder is self and call.shard in shards and not call.closing and self._additions == before
        ]
        ledger.expect(not left or took >= limits.drain_timeout - MARGIN, f"{what} returned while {left} run")
        ledger.expect(took <= limits.drain_timeout + CLOSE_GRACE + MARGIN, f"{what} took {took:.3f} s")

    async def _survive(self, what: str, operation: Awaitable[object]) -> bool:
        self.peer.world.ledger.note(f"{self.peer.link} {what}")
        try:
            await operation
        except (ClstrError, RuntimeError) as error:
            self.peer.world.ledger.note(f"{self.peer.link} {what} failed", type(error).__name__)
            return False
        self.peer.world.ledger.note(f"{self.peer.link} {what} returned")
        return True


class _closing:  # noqa: N801 -- reads as a statement
    """A handler that closes something lends its slot meanwhile, and nobody waits for it, then or afterwards."""

    def __init__(self, call: Call | None) -> None:
        self._call = call

    def __enter__(self) -> None:
        if self._call is not None:
            self._call.closing = True
            self._call.lent += 1

    def __exit__(self, *_: object) -> None:
        if self._call is not None:
            self._call.lent -= 1


class World:
    """The peers, the calls between them, and everything that runs."""

    def __init__(self, script: Script, chance: random.Random, ledger: Ledger) -> None:
        self.script = script
        self.chance = chance
        self.ledger = ledger
        self.peers: list[Peer] = []
        self.let_go = asyncio.Event()
        self.tasks: list[asyncio.Task[Any]] = []
        self._loop = asyncio.get_running_loop()
        eager = getattr(asyncio, "eager_task_factory", None) if script.eager else None
        self._make_task: Any = eager or (
            lambda loop, coroutine, **options: asyncio.Task(coroutine, loop=loop, **options)
        )
        self._loop.set_task_factory(self.create_task)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run ``work`` in a task of its own."""
        task = self._loop.create_task(work)
        self.tasks.append(task)
        return task

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run ``work`` in a task that the schedule awaits at its end."""
        self.tasks.append(self._loop.create_task(work))

    def create_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        """Be the loop's task factory: a handler's slot is taken when its task is made, before it begins."""
        starting = None
        if coroutine.__qualname__ == "Dispatcher._run":
            dispatcher = coroutine.cr_frame.f_locals["self"]
            starting = next(peer for peer in self.peers if peer.engine.dispatcher is dispatcher)
            starting.check_slot()
        task: asyncio.Task[Any] = self._make_task(loop, coroutine, **options)
        if starting is not None:
            starting.starts(task)
        return task

    # Callers.

    async def call(self, call: Call, inside: Call | None = None) -> None:
        """Make a call, and record what becomes of it; errors of nested ones go on only if they are to."""
        try:
            await self._ask(call, inside)
        except ClstrError:
            if inside is not None and not call.swallow:
                raise

    async def _ask(self, call: Call, inside: Call | None) -> None:
        peer = self.peers[call.peer]
        closing = inside is None and peer.engine.is_closing
        call.asked_at = self._loop.time()
        self.ledger.note(f"{peer.link} asked", call.number)
        outcome: bytes | BaseException | None = None
        if inside is not None and not call.oneway:
            inside.lent += 1
        try:
            outcome = await self._exchange(peer.engine, call)
        except BaseException as error:
            outcome = error
            self._check_cancelled(call, error)
            raise
        finally:
            if inside is not None and not call.oneway:
                inside.lent -= 1
            self.ledger.done(call, outcome)
            if closing:
                at_once = call.done_at <= call.asked_at + MARGIN
                self.ledger.expect(
                    isinstance(outcome, TransportClosedError) and at_once,
                    f"asked a closing transport, and got {outcome!r}",
                    call,
                )

    async def _exchange(self, engine: Engine, call: Call) -> bytes | None:
        envelope = clstr.Envelope(shard=call.shard, type=call.type, data=call.data, ttl_ms=call.ttl_ms)
        if call.oneway:
            await engine.notify(envelope, timeout=call.timeout)
            return None
        return await engine.request(envelope, timeout=call.timeout)

    def _check_cancelled(self, call: Call, error: BaseException) -> None:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None:
            self.ledger.expect(task.cancelling(), "was cancelled by nobody", call)

    async def call_from_outside(self, call: Call, at: float) -> None:
        """Make a call at a time, and cancel it if the script says so."""
        await asyncio.sleep(at)
        task = self.spawn(self.call(call))
        if call.cancel_after is not None:
            if isinstance(call.cancel_after, int):
                for _ in range(call.cancel_after):
                    await asyncio.sleep(0)
            else:
                await asyncio.sleep(call.cancel_after)
            if not task.done():
                self.ledger.note("cancel", call.number)
                call.cancelled_at = self._loop.time()
                task.cancel()
        await asyncio.wait([task])

    # Handlers.

    async def behave(self, call: Call, holder: Holder) -> bytes | None:
        """Do in a handler what ``call`` says."""
        if call.behaviour == "refuse":
            raise refuse(OverloadedError("simulated", 0))
        if call.behaviour == "refuse_owner":
            raise refuse(NotOwnerError(call.shard))
        for _ in range(call.ticks):
            await asyncio.sleep(0)
        if call.before:
            await asyncio.sleep(call.before)
        if call.behaviour == "orphan":
            self.start(self._leave_behind(call))
        else:
            await self._call_children(call)
        return await self._end(call, holder)

    async def _call_children(self, call: Call) -> None:
        if call.parallel:
            await asyncio.gather(*(self.call(child, call) for child in call.children))
        else:
            for child in call.children:
                await self.call(child, call)

    async def _leave_behind(self, call: Call) -> None:
        """Go on after the handler: what it calls then is nobody's."""
        await asyncio.sleep(self.chance.choice((0.0, 0.02)))
        for child in call.children:
            with suppress(ClstrError):
                await self.call(child, call)

    async def _end(self, call: Call, holder: Holder) -> bytes | None:
        self._fail(call)
        match call.behaviour:
            case "cancel_self":
                await self._cancel_self()
            case "long":
                await asyncio.sleep(self.chance.choice((0.03, 0.2, FAR / 2)))
            case "deaf":
                await self._ignore_cancellation(self._loop.time() + 0.5)
            case "deaf_for_ever":
                await self._ignore_cancellation(float("inf"))
            case "close_subscription":
                await holder.aclose(call)
            case "close_transport":
                await holder.peer.aclose(call)
        reply: bytes | None = self._reply(call)
        return reply

    def _fail(self, call: Call) -> None:
        if call.behaviour == "raise":
            raise LookupError("simulated")
        if call.behaviour == "raise_refusal_type":
            raise self.chance.choice((NotOwnerError(call.shard), OverloadedError("simulated", 0)))

    def _reply(self, call: Call) -> Any:  # Any: one of them is no reply
        replies = {"nothing": None, "wrong_type": "text", "too_large": bytes(2000)}
        return replies.get(call.behaviour, call.reply)

    async def _cancel_self(self) -> None:
        task = asyncio.current_task()
        if task is not None and self.chance.random() < 0.5:
            task.cancel()
            await asyncio.sleep(0)
        raise asyncio.CancelledError

    async def _ignore_cancellation(self, until: float) -> None:
        while self._loop.time() < until and not self.let_go.is_set():
            try:
                async with asyncio.timeout_at(until):
                    await self.let_go.wait()
            except (asyncio.CancelledError, TimeoutError):
                pass
