"""
Actors against a model, in any order of events.

A state machine sends, ends, fails and cancels messages, lets starts and stops fail and errors restart actors, releases
shards, closes the handler and lets time pass; the model says what must be true of each key then: one instance at most,
messages one at a time and in order, none lost, none twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, ClassVar

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import clstr_testing
from clstr._actors.actor import Actor, handles
from clstr._actors.actor_handler import ActorHandler
from clstr._actors.actor_starts import ActorStarts
from clstr._actors.cell import Cell
from clstr._actors.starts import Start
from clstr._actors.turns import Place, Turns
from clstr._context import Current, refuse, set_current
from clstr._messages.envelope import KEY_HEADER, Envelope
from clstr._node.route import Context, Route
from clstr.errors import ClstrError, DrainingError, HandlerError, OverloadedError, StateNotStoredError

KEYS = "abc"
MAX_ACTORS = 2
MAILBOX = 3
IDLE_AFTER = 10.0


class Do(msgspec.Struct):
    number: int


class NoStartError(Exception):
    """An actor did not start, as it was told."""


class Handled(Current):
    """The message being handled, without slots to lend."""

    def time_left(self) -> float:
        return 60.0

    def lend(self) -> None: ...
    def reclaim(self) -> None: ...


class World:
    """What actors did, and what keeps them from going on."""

    def __init__(self) -> None:
        self.alive: dict[str, list[object]] = {key: [] for key in KEYS}
        self.running: dict[str, list[int]] = {key: [] for key in KEYS}
        self.handled: dict[str, list[int]] = {key: [] for key in KEYS}
        self.gates: dict[int, asyncio.Future[bool]] = {}
        self.failing: set[tuple[str, str]] = set()  # starts and stops that are to fail, by key
        self.lost: set[str] = set()  # keys that had a stop that failed, or came late
        self.restarts = False
        self.violations: list[str] = []  # seen by actors, whose errors are their own affair

    def expect(self, is_so: bool, otherwise: str) -> None:
        if not is_so:
            self.violations.append(otherwise)

    def fail(self, what: str, key: str) -> None:
        """Fail, once, if that is to happen."""
        if (what, key) in self.failing:
            self.failing.remove((what, key))
            if what == "stop":
                self.lost.add(key)
            raise NoStartError


class Worker(Actor):
    """Waits for the test in every message."""

    world: ClassVar[World]

    async def on_start(self) -> None:
        self.world.alive[self.key].append(self)
        try:
            await asyncio.sleep(0)
            self.world.fail("start", self.key)
        except BaseException:
            self.world.alive[self.key].remove(self)
            raise

    async def on_stop(self) -> None:
        self.world.expect(self.world.running[self.key] == [], f"{self.key} stops while it handles a message")
        self.world.expect(self in self.world.alive[self.key], f"{self.key} stops without a start, or twice")
        try:
            await asyncio.sleep(0)
            self.world.fail("stop", self.key)
        finally:
            self.world.alive[self.key].remove(self)

    def on_error(self, error: Exception) -> bool:
        return self.world.restarts

    @handles(Do, reply=int)
    async def do(self, message: Do, _context: Context) -> int:
        world = self.world
        world.expect(self in world.alive[self.key], f"{message.number} is handled by an actor that did not start")
        world.handled[self.key].append(message.number)
        world.running[self.key].append(message.number)
        gate = world.gates[message.number] = asyncio.get_running_loop().create_future()
        try:
            if not await gate:
                raise ValueError("told to fail")
        finally:
            world.running[self.key].remove(message.number)
        return message.number


class Machine(RuleBasedStateMachine):
    """The events."""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner(loop_factory=clstr_testing.VirtualTimeLoop)
        self.world = Worker.world = World()
        self.sent: dict[str, list[int]] = {key: [] for key in KEYS}
        self.calls: dict[int, asyncio.Task[bytes | None]] = {}
        self.cancelled: set[int] = set()
        self.closers: list[asyncio.Task[None]] = []
        self.handler: ActorHandler = self.run(self.make())

    async def make(self) -> ActorHandler:
        return ActorHandler(Worker, idle_after=IDLE_AFTER, max_actors=MAX_ACTORS, mailbox=MAILBOX)

    def run(self, work: Awaitable[Any]) -> Any:
        async def and_settle() -> Any:
            result = await work
            for _ in range(30):
                await asyncio.sleep(0)
            return result

        return self.runner.run(and_settle())

    @rule(key=st.sampled_from(KEYS))
    def send(self, key: str) -> None:
        number = len(self.calls)
        envelope = Envelope(
            shard=KEYS.index(key), type="Do", data=msgspec.json.encode(Do(number)), headers={KEY_HEADER: key}
        )

        async def call() -> bytes | None:
            set_current(Handled(envelope=envelope))
            return await self.handler(envelope)

        async def begin() -> None:
            self.calls[number] = asyncio.create_task(call())

        self.sent[key].append(number)
        self.run(begin())

    def open_gates(self) -> list[int]:
        return [number for number, gate in self.world.gates.items() if not gate.done()]

    @precondition(lambda self: self.open_gates())
    @rule(data=st.data(), well=st.booleans())
    def end(self, data: st.DataObject, *, well: bool) -> None:
        number = data.draw(st.sampled_from(self.open_gates()))

        async def go() -> None:
            self.world.gates[number].set_result(well)

        self.run(go())

    @precondition(lambda self: any(not call.done() for call in self.calls.values()))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from([n for n, call in self.calls.items() if not call.done()]))

        async def go() -> None:
            self.calls[number].cancel()
            self.cancelled.add(number)

        self.run(go())

    @rule(shard=st.integers(0, len(KEYS) - 1))
    def release(self, shard: int) -> None:
        async def go() -> None:
            self.closers.append(asyncio.create_task(self.handler.release_shards([shard])))

        self.run(go())

    @rule(what=st.sampled_from(["start", "stop"]), key=st.sampled_from(KEYS))
    def let_the_next_one_fail(self, what: str, key: str) -> None:
        self.world.failing.add((what, key))

    @rule(restarts=st.booleans())
    def let_errors_restart_actors(self, *, restarts: bool) -> None:
        self.world.restarts = restarts

    @precondition(lambda self: len(self.calls) > 10)
    @rule()
    def close(self) -> None:
        async def go() -> None:
            self.closers.append(asyncio.create_task(self.handler.aclose()))

        self.run(go())

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        # A message that keeps the turn for so long keeps the state from being stored.
        self.world.lost.update(key for key in KEYS if self.world.running[key])
        self.run(asyncio.sleep(seconds))

    @invariant()
    def one_instance_handles_one_message(self) -> None:
        for key in KEYS:
            assert len(self.world.alive[key]) <= 1, f"{key} has two instances"
            assert len(self.world.running[key]) <= 1, f"{key} handles two messages at once"
        assert sum(map(len, self.world.alive.values())) <= MAX_ACTORS, "more actors than there may be"

    @invariant()
    def actors_see_nothing_wrong(self) -> None:
        assert self.world.violations == []

    @invariant()
    def order_is_kept_and_nothing_runs_twice(self) -> None:
        for key in KEYS:
            handled = self.world.handled[key]
            assert handled == sorted(set(handled)), f"{key} handled {handled}"

    @invariant()
    def what_has_ended_has_an_answer(self) -> None:
        handled = {number for numbers in self.world.handled.values() for number in numbers}
        for number, call in self.calls.items():
            if not call.done() or number in self.cancelled:
                continue
            error = call.exception()
            if error is None:
                assert call.result() == b"%d" % number
                assert number in handled
            elif isinstance(error, (OverloadedError, DrainingError)):
                assert isinstance(error, ClstrError)
                assert not error.maybe_executed
                assert number not in handled, f"{number} ran, and was refused"
            elif isinstance(error, HandlerError):
                assert (error.error_type, error.maybe_executed) == ("NoStartError", False)
                assert number not in handled, f"{number} ran, and its actor did not start"
            else:
                assert isinstance(error, ValueError), f"{number} ended with {error!r}"
                assert number in handled

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return

        async def finish() -> None:
            closing = asyncio.create_task(self.handler.aclose())
            self.closers.append(closing)
            while not closing.done():
                for number in self.open_gates():
                    self.world.gates[number].set_result(True)
                await asyncio.sleep(0.1)
            for error in await asyncio.gather(*self.closers, return_exceptions=True):
                if error is not None:
                    assert isinstance(error, StateNotStoredError)
                    assert self.world.lost.issuperset(error.keys)
            done, pending = await asyncio.wait(self.calls.values(), timeout=60) if self.calls else (set(), set())
            assert not pending, f"{len(pending)} messages were lost"
            assert sum(map(len, self.world.alive.values())) == 0, "an actor outlived its handler"
            assert len(self.handler) == 0
            for call in done:
                if not call.cancelled():
                    call.exception()

        try:
            self.run(finish())
        finally:
            self.runner.close()


SETTINGS = hypothesis.settings(max_examples=300, stateful_step_count=40, deadline=None, derandomize=True)


@pytest.mark.timeout(240)  # 500 examples: a busy machine takes its time, and nothing here can hang in real time
def test_actors_do_as_the_model_says() -> None:
    run_state_machine_as_test(Machine, settings=SETTINGS)


def evict_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_room(self: ActorHandler) -> None:
        if len(self._cells) >= MAX_ACTORS:
            cell = next(iter(self._cells.values()))
            cell.actor = None

    monkeypatch.setattr(ActorHandler, "_make_room", make_room)


def take_any_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def pop(self: Turns) -> asyncio.Future[bool] | None:
        waiting = self._waiting or ()
        for mine in reversed(waiting):
            if not mine.done():
                waiting.remove(mine)  # type: ignore[union-attr]  # it is a deque if something is in it
                return mine
        return None

    monkeypatch.setattr(Turns, "_pop", pop)


def no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Turns, "try_take", lambda _turns: True)


def send_nobody_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(self: Turns, keep: object = ()) -> None:
        self._waiting = None

    monkeypatch.setattr(Turns, "send_away", forget)


def refuse_what_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode_nothing(self: Route, result: object) -> bytes | None:
        raise refuse(DrainingError(0))

    monkeypatch.setattr(Route, "encode", encode_nothing)


def leave_it_running(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forget(self: Cell, _note: object) -> bool:
        self.actor = None
        return True

    monkeypatch.setattr(Cell, "stop", forget)


def restart_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop an actor whose message failed without waiting for the turn."""

    def claim(self: Turns, *, first: bool = False) -> Place:
        place: Place = asyncio.get_running_loop().create_future()
        place.set_result(True)
        return place

    async def take(self: Turns) -> bool:
        return self.try_take() or await self.wait(CLAIM(self))

    monkeypatch.setattr(Turns, "claim", claim)
    monkeypatch.setattr(Turns, "take", take)


def keep_what_did_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    work = ActorStarts._work

    async def and_keep(self: ActorStarts, key: str, cell: Cell, start: Start, envelope: Envelope) -> None:
        try:
            await work(self, key, cell, start, envelope)
        except NoStartError:
            cell.actor = Worker()
            cell.actor.key = key
            raise

    monkeypatch.setattr(ActorStarts, "_work", and_keep)


CLAIM = Turns.claim
FAULTS = [
    evict_busy,
    take_any_turn,
    no_turns,
    send_nobody_away,
    refuse_what_ran,
    leave_it_running,
    restart_at_once,
    keep_what_did_not_start,
]


@pytest.fixture(params=FAULTS, ids=lambda fault: fault.__name__)
def fault(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    request.param(monkeypatch)


@pytest.mark.usefixtures("fault")
def test_the_model_notices_a_fault() -> None:
    quick = hypothesis.settings(
        SETTINGS, phases=[hypothesis.Phase.generate], print_blob=False, report_multiple_bugs=False
    )
    with pytest.raises((AssertionError, clstr_testing.NothingCanHappenError)):
        run_state_machine_as_test(Machine, settings=quick)
