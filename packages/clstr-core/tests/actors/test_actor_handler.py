"""The life of actors: started once, one message at a time, stopped when idle, in the way, or released."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import msgspec
import pytest

import clstr_testing
from clstr._actors.actor import Actor, every, handles
from clstr._actors.actor_handler import ActorHandler
from clstr._actors.pause import Paused
from clstr._actors.periodic import WORK_TIMEOUT
from clstr._actors.stops import STOP_TIMEOUT
from clstr._context import Current, current, is_refusal_of, refuse, set_current
from clstr._messages.call_chain import CallIds, new_call
from clstr._messages.envelope import KEY_HEADER, Envelope
from clstr._messages.message import Message
from clstr._node.route import Context
from clstr.errors import (
    CallCycleError,
    ClstrError,
    DrainingError,
    EnvelopeExpiredError,
    HandlerError,
    HandlerTimeoutError,
    InvalidEnvelopeError,
    KeyRequiredError,
    MissingKeyHeaderError,
    NotOwnerError,
    OverloadedError,
    StateNotStoredError,
    UnknownMessageError,
)

Handling = Callable[..., AbstractContextManager[Current]]
Answer = asyncio.Task[bytes | None]
NoTasks = Callable[[], AbstractContextManager[None]]


class Do(msgspec.Struct, Message[str]):
    name: str


class Fail(msgspec.Struct, Message[str]):
    name: str


class World:
    """What happened to all actors, and what is to happen."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.made = 0
        self.gates: dict[str, asyncio.Event] = {}
        self.errors: dict[str, BaseException] = {}
        self.restarts = False
        self.live = 0
        self.peak = 0

    def hold(self, *events: str) -> None:
        self.gates.update({event: asyncio.Event() for event in events})

    async def let_go(self, *events: str) -> None:
        for event in events:
            self.gates.pop(event).set()
            await ticks()

    async def pass_by(self, event: str) -> None:
        """Note ``event``, wait if it is held, fail if it is to."""
        self.events.append(event)
        if event in self.gates:
            await self.gates[event].wait()
        if event in self.errors:
            raise self.errors.pop(event)


class Worker(Actor):
    world: ClassVar[World]

    async def on_start(self) -> None:
        world = self.world
        world.made += 1
        world.live += 1
        world.peak = max(world.peak, world.live)
        self.number = world.made
        try:
            await world.pass_by(f"start {self.key}")
        except BaseException:
            world.live -= 1
            raise

    async def on_stop(self) -> None:
        try:
            await self.world.pass_by(f"stop {self.key}")
        finally:
            self.world.live -= 1

    def on_error(self, error: Exception) -> bool:
        self.world.events.append(f"error {error}")
        return self.world.restarts

    @handles(Do)
    async def do(self, message: Do, context: Context) -> str:
        await self.world.pass_by(f"{context.key} {message.name}")
        return f"{message.name} by {self.number}"

    @handles(Fail)
    async def fail(self, message: Fail, _context: Context) -> str:
        raise ValueError(message.name)


class Asking(Current):
    """A message whose handler may await the answers to requests, which a test gives it."""

    def time_left(self) -> float:
        return 60.0

    def lend(self) -> None: ...
    def reclaim(self) -> None: ...


def name_of(message: Current | None) -> str | None:
    return None if message is None else message.name


async def ticks(count: int = 12) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
async def guard() -> AsyncIterator[None]:
    """Nothing here takes time."""
    async with asyncio.timeout(10):
        yield


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(Worker, "world", world, raising=False)
    return world


def message(key: str, name: str = "x", type_: str = "Do", shard: int = 1) -> Envelope:
    return Envelope(shard=shard, type=type_, data=msgspec.json.encode({"name": name}), headers={KEY_HEADER: key})


async def call(handler: ActorHandler, envelope: Envelope) -> bytes | None:
    return await handler(envelope)


def send(handler: ActorHandler, key: str, name: str = "x", type_: str = "Do", shard: int = 1) -> Answer:
    return asyncio.create_task(call(handler, message(key, name, type_, shard)))


def ask(handler: ActorHandler, key: str, name: str, *chain: str, type_: str = "Do") -> tuple[Answer, Asking]:
    """Send a message that came over ``chain``, and whose handler awaits the answer to ``Worker:key#name``."""
    inside = Asking(envelope=message(key, name, type_), chain=chain)
    inside.begin_call(f"Worker:{key}#{name}")

    async def call() -> bytes | None:
        set_current(inside)
        return await handler(inside.envelope)

    return asyncio.create_task(call()), inside


async def call_as(handler: ActorHandler, inside: Current) -> bytes | None:
    set_current(inside)
    return await handler(inside.envelope)


async def refused(handling: Handling, handler: ActorHandler, envelope: Envelope, *chain: str) -> ClstrError:
    """Return the error that ``envelope`` is refused with."""
    with handling(envelope=envelope) as inside:
        inside.chain = chain
        with pytest.raises(ClstrError) as caught:
            await handler(envelope)
    assert is_refusal_of(caught.value, inside)
    return caught.value


def in_virtual_time(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=clstr_testing.VirtualTimeLoop) as runner:
        runner.run(work)


# Messages.


async def test_a_message_is_answered_by_the_actor_of_its_key(world: World) -> None:
    handler = ActorHandler(Worker)
    assert await handler(message("a")) == b'"x by 1"'
    assert await handler(message("b")) == b'"x by 2"'
    assert await handler(message("a", "y")) == b'"y by 1"'
    assert world.events == ["start a", "a x", "start b", "b x", "a y"]
    assert len(handler) == 2


async def test_one_key_has_one_message_at_a_time_in_order_of_arrival(world: World) -> None:
    handler = ActorHandler(Worker)
    world.hold("a 0", "a 1", "a 2")
    answers = [send(handler, "a", str(number)) for number in range(3)]
    await ticks()
    assert world.events == ["start a", "a 0"]
    await world.let_go("a 0")
    assert world.events == ["start a", "a 0", "a 1"]
    await world.let_go("a 1", "a 2")
    assert [await answer for answer in answers] == [b'"0 by 1"', b'"1 by 1"', b'"2 by 1"']


async def test_different_keys_go_on_at_once(world: World) -> None:
    handler = ActorHandler(Worker)
    world.hold("a x", "b x")
    answers = [send(handler, "a"), send(handler, "b")]
    await ticks()
    assert sorted(world.events) == ["a x", "b x", "start a", "start b"]
    await world.let_go("b x")
    assert await answers[1] == b'"x by 2"'
    assert not answers[0].done()
    await world.let_go("a x")
    assert await answers[0] == b'"x by 1"'


async def test_20_first_messages_at_once_make_one_actor_and_keep_their_order(world: World) -> None:
    handler = ActorHandler(Worker)
    world.hold("start a")
    answers = [send(handler, "a", str(number)) for number in range(20)]
    await ticks()
    assert world.events == ["start a"]
    await world.let_go("start a")
    assert await asyncio.gather(*answers) == [f'"{number} by 1"'.encode() for number in range(20)]
    assert world.events == ["start a", *(f"a {number}" for number in range(20))]


async def test_a_message_that_is_cancelled_while_it_waits_is_never_handled(world: World) -> None:
    handler = ActorHandler(Worker)
    world.hold("a 0")
    answers = [send(handler, "a", str(number)) for number in range(3)]
    await ticks()
    answers[1].cancel()
    await world.let_go("a 0")
    assert await answers[2] == b'"2 by 1"'
    assert answers[1].cancelled()
    assert world.events == ["start a", "a 0", "a 2"]


async def test_a_message_that_is_cancelled_while_it_runs_leaves_the_actor_alive(world: World) -> None:
    handler = ActorHandler(Worker)
    world.hold("a x")
    answer = send(handler, "a")
    await ticks()
    answer.cancel()
    await ticks()
    assert answer.cancelled()
    assert await handler(message("a", "y")) == b'"y by 1"'


async def test_the_mailbox_is_bounded_for_each_key(world: World, handling: Handling) -> None:
    handler = ActorHandler(Worker, mailbox=2)
    world.hold("a 0")
    answers = [send(handler, "a", str(number)) for number in range(3)]
    await ticks()
    error = await refused(handling, handler, message("a"))
    assert isinstance(error, OverloadedError)
    assert (error.limit, error.bound) == ("mailbox", 2)
    assert await handler(message("b")) == b'"x by 2"'
    await world.let_go("a 0")
    assert await answers[2] == b'"2 by 1"'
    assert await handler(message("a")) == b'"x by 1"'


async def test_a_message_needs_a_key(handling: Handling) -> None:
    handler = ActorHandler(Worker)
    without = Envelope(shard=1, type="Do", data=b'{"name":"x"}')
    assert isinstance(await refused(handling, handler, without), MissingKeyHeaderError)
    assert isinstance(await refused(handling, handler, message("")), KeyRequiredError)
    assert len(handler) == 0


async def test_an_unknown_type_is_refused_and_the_known_ones_are_named(world: World, handling: Handling) -> None:
    world.restarts = True
    error = await refused(handling, handler := ActorHandler(Worker), message("a", type_="Nope"))
    assert isinstance(error, UnknownMessageError)
    assert (error.message_type, error.known) == ("Nope", "Do, Fail")
    assert world.events == []
    assert len(handler) == 0
    await handler(message("a"))
    await refused(handling, handler, message("a", type_="Nope"))
    assert world.events == ["start a", "a x"]  # nor is a refusal an error of an actor that lives


async def test_a_payload_that_does_not_fit_is_refused_by_field(world: World, handling: Handling) -> None:
    envelope = Envelope(shard=1, type="Do", data=b'{"name":7}', headers={KEY_HEADER: "a"})
    error = await refused(handling, handler := ActorHandler(Worker), envelope)
    assert isinstance(error, InvalidEnvelopeError)
    assert error.field == "data.name"
    assert (world.events, len(handler)) == ([], 0)


async def test_what_is_refused_takes_no_place_and_stops_no_other(world: World, handling: Handling) -> None:
    handler = ActorHandler(Worker, max_actors=1)
    await handler(message("a"))
    await refused(handling, handler, message("b", type_="Nope"))
    assert world.events == ["start a", "a x"]


@pytest.mark.parametrize(
    "envelope",
    [message("a", type_="Nope"), Envelope(shard=1, type="Do", data=b"{", headers={KEY_HEADER: "a"})],
    ids=["unknown", "undecodable"],
)
async def test_an_actor_that_a_function_made_for_a_refused_message_alone_is_forgotten(
    world: World, handling: Handling, envelope: Envelope
) -> None:
    """Nobody knows the types before there is an actor, but it need not start to say them."""
    made: list[Worker] = []

    def create(_key: str) -> Worker:
        made.append(Worker())
        return made[-1]

    handler = ActorHandler(create, max_actors=1)
    error = await refused(handling, handler, envelope)
    assert isinstance(error, (UnknownMessageError, InvalidEnvelopeError))
    assert (len(made), world.events, len(handler)) == (1, [], 0)
    assert await handler(message("b")) == b'"x by 1"'  # the place is free
    await refused(
        handling, handler, Envelope(shard=1, type=envelope.type, data=envelope.data, headers={KEY_HEADER: "b"})
    )
    assert world.events == ["start b", "b x"]


# Call chains.


async def test_a_chain_that_comes_back_to_a_busy_key_is_refused_and_shown(world: World, handling: Handling) -> None:
    handler = ActorHandler(Worker)
    world.hold("a outer")
    outer, _ = ask(handler, "a", "outer")
    await ticks()
    error = await refused(handling, handler, message("a"), "Worker:a#outer", "Worker:b#1")
    assert isinstance(error, CallCycleError)
    assert error.chain == "Worker:a -> Worker:b -> Worker:a"
    await world.let_go("a outer")
    assert await outer == b'"outer by 1"'


@pytest.mark.parametrize("reentrant", [False, True])
async def test_a_chain_that_comes_back_to_an_actor_that_starts_is_refused(
    world: World, handling: Handling, monkeypatch: pytest.MonkeyPatch, reentrant: bool
) -> None:
    """Its ``on_start`` asked somebody who asks it: waiting would never end, and there is nobody yet to answer."""
    monkeypatch.setattr(Worker, "reentrant", reentrant)
    handler = ActorHandler(Worker)
    world.hold("start a")
    outer, _ = ask(handler, "a", "outer")
    await ticks()
    start = handler._cells["a"].starting
    assert start is not None
    assert start.name == "Worker:a"
    start.begin_call("Worker:a#start")
    error = await refused(handling, handler, message("a"), "Worker:a#start", "Worker:b#1")
    assert isinstance(error, CallCycleError)
    await world.let_go("start a")
    assert await outer == b'"outer by 1"'


async def test_a_chain_that_comes_back_to_a_key_that_is_not_busy_is_no_cycle(handling: Handling) -> None:
    handler = ActorHandler(Worker)
    for number in range(2):  # without an actor, and with an idle one
        with handling(envelope=message("a")) as inside:
            inside.chain = ("Worker:a#outer", "Worker:b#1")
            assert await handler(message("a", str(number))) == f'"{number} by 1"'.encode()


async def test_a_reentrant_actor_runs_at_once_what_comes_back_to_it(
    world: World, handling: Handling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "reentrant", True)
    handler = ActorHandler(Worker)
    world.hold("a outer")
    (outer, _), other = ask(handler, "a", "outer"), send(handler, "a", "other")
    await ticks()
    with handling(envelope=message("a")) as inside:
        inside.chain = ("Worker:a#outer", "Worker:b#1")
        assert await handler(message("a", "inner")) == b'"inner by 1"'
    assert world.events == ["start a", "a outer", "a inner"]  # others wait for their turn all the same
    await world.let_go("a outer")
    assert [await outer, await other] == [b'"outer by 1"', b'"other by 1"']


@pytest.mark.parametrize("reentrant", [False, True])
async def test_what_a_request_led_to_that_was_given_up_waits_for_its_turn(
    world: World, monkeypatch: pytest.MonkeyPatch, reentrant: bool
) -> None:
    """The message that sent it handles on, and awaits something else now: waiting for its end is no cycle."""
    monkeypatch.setattr(Worker, "reentrant", reentrant)
    handler = ActorHandler(Worker)
    world.hold("a outer")
    outer, asking = ask(handler, "a", "outer")
    await ticks()
    asking.end_call("Worker:a#outer")
    asking.begin_call("Worker:a#another")
    inner, _ = ask(handler, "a", "inner", "Worker:a#outer", "Worker:b#1")
    await ticks()
    assert world.events == ["start a", "a outer"]
    await world.let_go("a outer")
    assert [await outer, await inner] == [b'"outer by 1"', b'"inner by 1"']


@pytest.mark.parametrize("reentrant", [False, True])
async def test_what_led_here_from_a_message_that_has_ended_waits_for_the_one_that_is_handled(
    world: World, monkeypatch: pytest.MonkeyPatch, reentrant: bool
) -> None:
    """Its caller gave up and ended; the actor awaits an answer for another message now."""
    monkeypatch.setattr(Worker, "reentrant", reentrant)
    handler = ActorHandler(Worker)
    await ask(handler, "a", "first")[0]
    world.hold("a second")
    second, _ = ask(handler, "a", "second")
    await ticks()
    stale, _ = ask(handler, "a", "stale", "Worker:a#first", "Worker:b#1")
    await ticks()
    assert world.events[2:] == ["a second"]
    await world.let_go("a second")
    assert [await second, await stale] == [b'"second by 1"', b'"stale by 1"']


@pytest.mark.parametrize("forged", ["Worker:a", "Worker:a#", "Worker:a#guess", "Worker:a#x#outer", "Other:a#outer"])
async def test_a_chain_that_this_node_did_not_write_opens_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, forged: str
) -> None:
    monkeypatch.setattr(Worker, "reentrant", True)
    handler = ActorHandler(Worker)
    world.hold("a outer")
    outer, _ = ask(handler, "a", "outer")
    await ticks()
    stranger, _ = ask(handler, "a", "stranger", forged)
    await ticks()
    assert world.events == ["start a", "a outer"]
    await world.let_go("a outer")
    assert [await outer, await stranger] == [b'"outer by 1"', b'"stranger by 1"']


async def test_of_several_calls_of_one_actor_on_a_chain_the_latest_counts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message in its midst gave its request up: nothing of the actor awaits what that led to."""
    monkeypatch.setattr(Worker, "reentrant", True)
    handler = ActorHandler(Worker)
    world.hold("a outer", "a inner")
    outer, _ = ask(handler, "a", "outer")
    await ticks()
    inner, asking = ask(handler, "a", "inner", "Worker:a#outer", "Worker:b#1")
    await ticks()
    asking.end_call("Worker:a#inner")
    late, _ = ask(handler, "a", "late", "Worker:a#outer", "Worker:b#1", "Worker:a#inner")
    await ticks()
    assert world.events == ["start a", "a outer", "a inner"]
    await world.let_go("a inner", "a outer")
    assert [await each for each in (outer, inner, late)] == [b'"outer by 1"', b'"inner by 1"', b'"late by 1"']


@pytest.mark.parametrize("reentrant", [False, True])
async def test_a_cycle_is_seen_whether_the_mailbox_is_full_or_not(
    world: World, handling: Handling, monkeypatch: pytest.MonkeyPatch, reentrant: bool
) -> None:
    monkeypatch.setattr(Worker, "reentrant", reentrant)
    handler = ActorHandler(Worker, mailbox=1)
    world.hold("a outer")
    (outer, _), waiting = ask(handler, "a", "outer"), send(handler, "a", "waiting")
    await ticks()
    if reentrant:
        assert await ask(handler, "a", "inner", "Worker:a#outer")[0] == b'"inner by 1"'
    else:
        assert isinstance(await refused(handling, handler, message("a"), "Worker:a#outer"), CallCycleError)
    await world.let_go("a outer")
    await asyncio.gather(outer, waiting)


async def test_a_turn_ends_with_the_last_message_of_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outer one gave up; nothing from outside, and no stop, comes beside what it led to."""
    monkeypatch.setattr(Worker, "reentrant", True)
    handler = ActorHandler(Worker)
    world.hold("a outer", "a inner")
    outer, message_ = ask(handler, "a", "outer")
    await ticks()
    inner, _ = ask(handler, "a", "inner", "Worker:a#outer", "Worker:b#1")
    await ticks()
    message_.end_call("Worker:a#outer")
    await world.let_go("a outer")
    assert await outer == b'"outer by 1"'
    another = send(handler, "a", "another")
    await ticks()
    closing = asyncio.create_task(handler.aclose())
    await ticks()
    assert world.events == ["start a", "a outer", "a inner"]
    await world.let_go("a inner")
    assert [await inner, await another] == [b'"inner by 1"', b'"another by 1"']
    await closing
    assert world.events[3:] == ["a another", "stop a"]


async def test_what_a_message_in_the_midst_leads_to_is_in_the_midst_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "reentrant", True)
    handler = ActorHandler(Worker)
    world.hold("a outer", "a inner")
    outer, _ = ask(handler, "a", "outer")
    await ticks()
    inner, _ = ask(handler, "a", "inner", "Worker:a#outer")
    await ticks()
    await world.let_go("a outer")
    assert await ask(handler, "a", "innermost", "Worker:a#outer", "Worker:a#inner")[0] == b'"innermost by 1"'
    await world.let_go("a inner")
    await asyncio.gather(outer, inner)
    assert len(handler) == 1


async def test_errors_of_messages_in_the_midst_reach_on_error_and_the_restart_comes_after_the_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "reentrant", True)
    world.restarts = True
    handler = ActorHandler(Worker)
    world.hold("a outer")
    outer, _ = ask(handler, "a", "outer")
    await ticks()
    for name in ("first", "second"):  # the second asks for a restart too: one is enough
        with pytest.raises(ValueError, match=name):
            await ask(handler, "a", name, "Worker:a#outer", type_="Fail")[0]
    following = send(handler, "a", "following")
    await ticks()
    assert world.events == ["start a", "a outer", "error first", "error second"]
    await world.let_go("a outer")
    assert [await outer, await following] == [b'"outer by 1"', b'"following by 2"']
    assert world.events[4:] == ["stop a", "start a", "a following"]


async def test_long_keys_are_told_from_one_another_on_chains(world: World, handling: Handling) -> None:
    long, other = "k" * 600 + "1", "k" * 600 + "2"
    handler = ActorHandler(Worker)
    world.hold(f"{long} outer")
    outer, inside = ask(handler, long, "outer")
    await ticks()
    call_ = new_call(inside.name or "", CallIds())
    inside.begin_call(call_)
    assert len(call_.partition("#")[0]) == 48
    assert isinstance(await refused(handling, handler, message(long), call_), CallCycleError)
    assert await ask(handler, other, "x", call_)[0] == b'"x by 2"'
    await world.let_go(f"{long} outer")
    await outer


async def test_an_actor_of_another_kind_with_that_key_is_no_cycle(world: World, handling: Handling) -> None:
    """Account:a asks Audit:b, which asks this one, a Worker called a, which is busy with something else."""
    handler = ActorHandler(Worker)
    world.hold("a outer")
    outer = send(handler, "a", "outer")
    await ticks()
    with handling(envelope=message("a")) as inside:
        inside.chain = ("Account:a#1", "Audit:b#2")
        waiting = send(handler, "a", "inner")
        await ticks()
        await world.let_go("a outer")
        assert await waiting == b'"inner by 1"'
    assert await outer == b'"outer by 1"'


async def test_an_actor_s_kind_stands_on_the_chain_of_its_requests(handling: Handling) -> None:
    with handling(envelope=message("a")) as inside:
        await ActorHandler(Worker)(message("a"))
        assert inside.name == "Worker:a"
        await ActorHandler(Worker, kind="Account")(message("a"))
        assert inside.name == "Account:a"


async def test_the_kind_of_actors_that_a_function_makes_is_known_before_the_first_starts(handling: Handling) -> None:
    names: list[str | None] = []

    class Curious(Worker):
        async def on_start(self) -> None:
            await super().on_start()
            start = current()
            assert start is not None
            names.append(start.name)

    handler = ActorHandler(lambda _key: Curious())
    for key in "ab":
        with handling(envelope=message(key)) as inside:
            await handler(message(key))
        assert inside.name == f"Curious:{key}"  # it stands for the message's own requests too
    with handling(envelope=message("c")):
        await ActorHandler(lambda _key: Curious(), kind="Account")(message("c"))
    assert names == ["Curious:a", "Curious:b", "Account:c"]


def test_a_kind_s_messages_are_known_if_its_class_is() -> None:
    assert ActorHandler(Worker).message_types == {"Do", "Fail"}
    with pytest.raises(TypeError, match=r"name their class with ActorHandler\(create, actor=...\)"):
        _ = ActorHandler(lambda _key: Worker()).message_types


def make_worker(_key: str) -> Worker:
    return Worker()


async def load_worker(_key: str) -> Worker:
    return Worker()


def make_any(_key: str) -> Actor:
    return Worker()


@pytest.mark.parametrize("create", [make_worker, load_worker])
async def test_what_a_function_is_annotated_to_return_tells_the_messages(create: Callable[[str], Worker]) -> None:
    handler = ActorHandler(create)
    assert handler.message_types == handler.fresh().message_types == {"Do", "Fail"}
    assert await handler(message("a")) == b'"x by 1"'


@pytest.mark.parametrize("create", [make_any, lambda _key: Worker()])
async def test_the_class_of_what_a_function_makes_may_be_named(create: Callable[[str], Actor]) -> None:
    handler = ActorHandler(create, actor=Worker)
    assert handler.message_types == handler.fresh().message_types == {"Do", "Fail"}
    assert await handler(message("a")) == b'"x by 1"'


async def test_a_function_that_makes_another_class_than_it_says_fails_the_start(handling: Handling) -> None:
    class Other(Actor):
        """Of another class."""

    error = await refused(handling, ActorHandler(lambda _key: Other(), actor=Worker), message("a"))
    assert isinstance(error, HandlerError)
    assert error.error_message.startswith("create must return a Worker, not ")


@pytest.mark.parametrize(("create", "actor"), [(make_any, int), (make_any, "Worker"), (Worker, Actor)])
def test_the_class_of_actors_is_checked(create: Any, actor: Any) -> None:
    with pytest.raises(TypeError, match=r"actor must be a class of actors|actor is for functions"):
        ActorHandler(create, actor=actor)


# Pausing.


async def test_a_paused_actor_handles_one_message_for_each_step(world: World) -> None:
    handler = ActorHandler(Worker)
    async with handler.paused("a") as paused:
        sent = [send(handler, "a", str(number)) for number in range(3)]
        await ticks()
        assert (paused.waiting, world.events) == (3, [])
        await paused.step()
        assert world.events == ["start a", "a 0"]
        await paused.step()
        assert world.events == ["start a", "a 0", "a 1"]
        assert not sent[2].done()
    assert await asyncio.gather(*sent) == [b'"0 by 1"', b'"1 by 1"', b'"2 by 1"']


async def test_a_step_waits_for_a_message_and_takes_no_other(world: World) -> None:
    handler = ActorHandler(Worker)
    async with handler.paused("a") as paused:
        step = asyncio.ensure_future(paused.step())
        await ticks()
        assert not step.done()
        sent = [send(handler, "a", str(number)) for number in range(2)]
        async with asyncio.timeout(5):
            await step
        assert world.events == ["start a", "a 0"]
    await asyncio.gather(*sent)


async def test_a_step_that_is_cancelled_leaves_the_turn_to_others(world: World) -> None:
    handler = ActorHandler(Worker)
    async with handler.paused("a") as paused:
        step = asyncio.ensure_future(paused.step())
        await ticks()
        step.cancel()
        await asyncio.wait((step,))
        assert await handler(message("a")) == b'"x by 1"'
    assert await handler(message("a")) == b'"x by 1"'


async def test_a_paused_actor_is_not_idle_and_its_mailbox_is_bounded(handling: Handling) -> None:
    handler = ActorHandler(Worker, max_actors=1, mailbox=1)
    async with handler.paused("a"):
        first = send(handler, "a")
        await ticks()
        assert isinstance(await refused(handling, handler, message("a")), OverloadedError)
        assert isinstance(await refused(handling, handler, message("b")), OverloadedError)
    await first
    assert await handler(message("b")) == b'"x by 2"'


async def test_a_step_after_one_that_was_cancelled_pauses_first(world: World) -> None:
    handler = ActorHandler(Worker)
    world.hold("a 1")
    async with handler.paused("a") as paused:
        step = asyncio.ensure_future(paused.step())
        await ticks()
        step.cancel()
        await asyncio.wait((step,))
        sent = [send(handler, "a", str(number)) for number in range(1, 4)]
        await ticks()
        assert world.events == ["start a", "a 1"]
        step = asyncio.ensure_future(paused.step())
        await ticks()
        assert world.events == ["start a", "a 1"]  # one at a time
        await world.let_go("a 1")
        await step
        assert world.events == ["start a", "a 1", "a 2"]
        await ticks()
        assert world.events == ["start a", "a 1", "a 2"]
    await asyncio.gather(*sent)


async def test_who_waits_to_pause_is_told_of_a_release(world: World) -> None:
    handler = ActorHandler(Worker)
    world.hold("a x")

    async def pause() -> None:
        async with handler.paused("a"):
            raise AssertionError("it was released before")

    async def step_again(paused: Paused) -> None:
        step = asyncio.ensure_future(paused.step())
        await ticks()
        step.cancel()
        await asyncio.wait((step,))
        sent.append(send(handler, "b"))
        await ticks()
        await paused.step()

    sent: list[Answer] = []
    async with handler.paused("b") as paused:
        world.hold("b x")
        sent.append(send(handler, "a"))
        waiting = [asyncio.ensure_future(step_again(paused)), asyncio.ensure_future(pause())]
        await ticks(40)
        release = asyncio.create_task(handler.release_shards([1]))
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [RuntimeError, RuntimeError]
    assert "it is paused no longer" in str(outcomes[0])
    assert "the shard of 'a' was released before it could be paused" in str(outcomes[1])
    await world.let_go("a x", "b x")
    await asyncio.gather(*sent, release)
    assert len(handler) == 0


async def test_a_release_ends_the_pause_and_nobody_s_turn(world: World) -> None:
    handler = ActorHandler(Worker)
    world.hold("a 0")
    async with handler.paused("a") as paused:
        first = send(handler, "a", "0")
        step = asyncio.ensure_future(paused.step())
        await ticks()
        release = asyncio.create_task(handler.release_shards([1]))
        await ticks()
        with pytest.raises(RuntimeError, match="it is paused no longer"):
            await step
    second = send(handler, "a", "1")
    await ticks()
    assert world.events == ["start a", "a 0"]
    await world.let_go("a 0")
    await release
    assert [await first, await second] == [b'"0 by 1"', b'"1 by 2"']
    assert world.events == ["start a", "a 0", "stop a", "start a", "a 1"]


# Failures.


async def test_an_exception_leaves_the_actor_alive(world: World) -> None:
    handler = ActorHandler(Worker)
    with pytest.raises(ValueError, match="oh no"):
        await handler(message("a", "oh no", "Fail"))
    assert await handler(message("a")) == b'"x by 1"'
    assert world.events == ["start a", "error oh no", "a x"]


async def test_a_refusal_by_a_method_is_no_error_of_the_actor(world: World, handling: Handling) -> None:
    class Picky(Worker):
        async def do(self, message: Do, context: Context) -> str:
            raise refuse(OverloadedError("patience", 0))

    world.restarts = True
    assert isinstance(await refused(handling, ActorHandler(Picky), message("a")), OverloadedError)
    await ticks()
    assert world.events == ["start a"]


async def test_on_error_may_have_the_actor_started_anew_for_the_next_message(world: World) -> None:
    handler = ActorHandler(Worker)
    world.restarts = True
    first, second = send(handler, "a", "oh no", "Fail"), send(handler, "a")
    with pytest.raises(ValueError, match="oh no"):
        await first
    assert await second == b'"x by 2"'
    assert world.events == ["start a", "error oh no", "stop a", "start a", "a x"]
    with pytest.raises(ValueError, match="again"):
        await handler(message("a", "again", "Fail"))
    await ticks()
    assert (len(handler), world.live) == (0, 0)


async def test_on_error_is_asked_when_a_message_was_cut_off_by_its_time(world: World) -> None:
    """It was in the midst of something: its state may be half of what it should be."""

    class Late(Asking):
        left: float = 60.0

        def timeout_error(self) -> HandlerTimeoutError | None:
            return None if self.left else HandlerTimeoutError(1, 60.0)

    handler = ActorHandler(Worker)
    world.restarts = True
    world.hold("a slow")
    for left in (0.0, 5.0):
        inside = Late(envelope=message("a", "slow"), left=left)
        answer = asyncio.create_task(call_as(handler, inside))
        await ticks()
        answer.cancel()
        await asyncio.wait([answer])
        await ticks()
        assert answer.cancelled()
    late = HandlerTimeoutError(1, 60.0)
    assert world.events == ["start a", "a slow", f"error {late}", "stop a", "start a", "a slow"]


async def test_an_on_error_that_fails_ends_the_actor_and_the_message_has_its_own_error(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Worker):
        def on_error(self, error: Exception) -> bool:
            raise RuntimeError("on_error is broken")

    handler = ActorHandler(Broken)
    with pytest.raises(ValueError, match="oh no"):
        await handler(message("a", "oh no", "Fail"))
    await ticks()
    assert world.events == ["start a", "stop a"]
    [record] = caplog.records
    assert record.getMessage() == f"on_error of a {Broken.__qualname__} failed"


def test_on_error_may_have_the_actor_restarted_for_periodic_work(world: World) -> None:
    async def run() -> None:
        handler = ActorHandler(Ticking, idle_after=None)
        world.restarts = True
        await handler(message("a"))
        world.errors["tick a"] = ValueError("no")
        await asyncio.sleep(11)
        assert world.events == ["start a", "a x", "tick a", "error no", "stop a"]
        await handler(message("a"))
        await asyncio.sleep(6)
        assert world.events[5:] == ["start a", "a x", "tick a"]
        await handler.aclose()

    in_virtual_time(run())


async def test_nothing_can_be_spawned_when_an_actor_has_stopped_or_did_not_start() -> None:
    actors: list[Actor] = []
    spawned: list[asyncio.Task[None]] = []

    class Spawning(Worker):
        async def on_start(self) -> None:
            actors.append(self)
            await super().on_start()

        async def on_stop(self) -> None:
            spawned.append(self.spawn(asyncio.sleep(0)))  # in a stop it can
            await super().on_stop()

    handler = ActorHandler(Spawning)
    await handler(message("a"))
    await handler.aclose()
    await asyncio.wait(spawned)
    Worker.world.errors["start b"] = ValueError("no")
    with pytest.raises(HandlerError, match="ValueError: no"):
        await ActorHandler(Spawning)(message("b"))
    for actor in actors:
        with pytest.raises(RuntimeError, match="Spawning has stopped"):
            _ = actor.spawn(asyncio.sleep(0))
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize(
    ("stop", "why"),
    [
        ("idle", "it was idle"),
        ("eviction", "another actor needed its place"),
        ("release", "its shard was released, or its handler closed"),
    ],
)
def test_that_spawned_tasks_were_cancelled_is_logged_once_a_second(
    caplog: pytest.LogCaptureFixture, stop: str, why: str
) -> None:
    class Busy(Worker):
        async def on_start(self) -> None:
            await super().on_start()
            for _ in range(2):
                _ = self.spawn(asyncio.sleep(1000))

    async def run() -> None:
        handler = ActorHandler(Busy, idle_after=60, max_actors=2)
        for key in "ab":
            await handler(message(key))
        if stop == "idle":
            await asyncio.sleep(61)
        elif stop == "eviction":
            for key in "cd":
                await handler(message(key))
            await asyncio.sleep(2)
        await handler.aclose()

    in_virtual_time(run())
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said[0] == f"2 spawned tasks of a {Busy.__qualname__} were cancelled, because it stopped: {why}"
    assert len(said) == 1 + (stop == "eviction")
    if stop == "eviction":
        assert said[1].endswith("(1 more since the last such line)")


async def test_who_gives_a_failed_message_up_does_not_cancel_the_restart(world: World) -> None:
    """And no message comes between the failure and the stop."""
    handler = ActorHandler(Worker)
    await handler(message("a"))
    world.restarts = True
    world.hold("a failing", "stop a")
    world.errors["a failing"] = ValueError("oh no")
    failing, following = send(handler, "a", "failing"), send(handler, "a", "following")
    await ticks()
    world.gates.pop("a failing").set()
    with pytest.raises(ValueError, match="oh no"):
        await failing
    failing.cancel()
    await ticks()
    assert world.events[2:] == ["a failing", "error oh no", "stop a"]
    await world.let_go("stop a")
    assert await following == b'"following by 2"'
    assert world.live == 1


async def test_a_closing_handler_waits_for_a_restart_that_is_under_way(world: World) -> None:
    handler = ActorHandler(Worker)
    world.restarts = True
    world.hold("stop a")
    with pytest.raises(ValueError, match="oh no"):
        await handler(message("a", "oh no", "Fail"))
    closing = asyncio.create_task(handler.aclose())
    await ticks()
    assert not closing.done()
    await world.let_go("stop a")
    await closing
    assert world.events.count("stop a") == 1


async def test_a_failed_start_answers_all_that_wait_for_it_and_the_next_message_tries_again(world: World) -> None:
    handler = ActorHandler(Worker)
    world.errors["start a"] = ValueError("no database")
    world.hold("start a")
    first, second = send(handler, "a", "1"), send(handler, "a", "2")
    await ticks()
    await world.let_go("start a")
    for answer in (first, second):
        with pytest.raises(HandlerError, match="ValueError: no database") as caught:
            await answer
        assert not caught.value.maybe_executed
    assert await handler(message("a", "3")) == b'"3 by 2"'
    assert world.events == ["start a", "start a", "a 3"]


async def test_an_actor_whose_start_failed_is_forgotten_and_its_tasks_are_cancelled() -> None:
    tasks: list[asyncio.Task[None]] = []

    class Doomed(Worker):
        async def on_start(self) -> None:
            tasks.append(self.spawn(asyncio.Event().wait()))  # type: ignore[arg-type]  # what it returns is nothing to us
            await asyncio.sleep(0)
            raise ValueError("no database")

    handler = ActorHandler(Doomed, max_actors=1)
    for _ in range(2):  # the place is free again
        with pytest.raises(HandlerError, match="ValueError: no database"):
            await handler(message("a"))
    assert [task.cancelled() for task in tasks] == [True, True]
    assert len(handler) == 0


async def test_a_start_goes_on_when_the_message_that_caused_it_is_given_up(world: World) -> None:
    """It belongs to the key: a caller that is less patient than the start takes must not keep it from ever ending."""
    handler = ActorHandler(Worker, max_actors=1)
    world.hold("start a")
    first = send(handler, "a", "1")
    await ticks()
    first.cancel()
    await ticks()
    second = send(handler, "a", "2")
    await ticks()
    assert (first.cancelled(), world.events) == (True, ["start a"])
    await world.let_go("start a")
    assert await second == b'"2 by 1"'
    assert world.events == ["start a", "a 2"]


async def test_an_actor_that_nobody_waits_for_any_more_is_idle_when_it_has_started(world: World) -> None:
    handler = ActorHandler(Worker, max_actors=1)
    world.hold("start a")
    answer = send(handler, "a")
    await ticks()
    answer.cancel()
    await ticks()
    with pytest.raises(OverloadedError):  # it is not: its place is taken
        await handler(message("b"))
    await world.let_go("start a")
    assert len(handler) == 1
    assert await handler(message("b")) == b'"x by 2"'
    assert world.events == ["start a", "stop a", "start b", "b x"]


async def test_a_message_that_waits_for_a_start_has_not_run_and_may_be_refused(world: World) -> None:
    parked: list[str] = []

    class Parking(Asking):
        def park(self) -> None:
            parked.append("park")

        def unpark(self) -> None:
            parked.append("unpark")

    handler = ActorHandler(Worker)
    world.hold("start a")

    async def call() -> bytes | None:
        set_current(Parking(envelope=message("a")))
        return await handler(message("a"))

    answer = asyncio.create_task(call())
    await ticks()
    assert parked == ["park"]
    await world.let_go("start a")
    assert await answer == b'"x by 1"'
    assert parked == ["park", "unpark"]


def test_a_start_has_its_own_time_whatever_that_of_its_messages(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        handler = ActorHandler(Worker, start_timeout=5)
        world.hold("start a")
        answers = [send(handler, "a", str(number)) for number in range(3)]
        await asyncio.sleep(4.9)
        assert not any(answer.done() for answer in answers)
        await asyncio.sleep(0.2)
        for answer in answers:
            error = answer.exception()
            assert isinstance(error, HandlerError)
            assert str(error) == "TimeoutError: it took longer than 5 s"
        assert (world.live, len(handler)) == (0, 0)

    in_virtual_time(run())
    [record] = caplog.records
    assert record.getMessage() == "starting an actor of kind Worker failed, 1 in a row"


def test_a_start_that_keeps_failing_is_not_repeated_by_each_message(world: World) -> None:
    class Broken(Worker):
        async def on_start(self) -> None:
            world.made += 1
            raise ValueError("no database")

    async def run() -> None:
        handler = ActorHandler(Broken, max_actors=1)
        for _ in range(100):
            with pytest.raises(HandlerError, match="ValueError: no database"):
                await handler(message("a"))
            await asyncio.sleep(0.01)
        assert world.made == 5  # at 0, 0.01, 0.11, 0.31 and 0.71 seconds
        assert len(handler) == 0

    in_virtual_time(run())


async def test_a_start_that_its_release_cancels_is_no_failure_and_others_get_another(world: World) -> None:
    handler = ActorHandler(Worker)
    world.hold("start a")
    first = send(handler, "a", "1")
    await ticks()
    await handler.release_shards([1])
    assert isinstance(first.exception(), DrainingError)
    world.gates.clear()
    assert await handler(message("a", "2")) == b'"2 by 2"'


async def test_a_start_cancelled_before_its_first_step_gives_its_turn_back(world: World) -> None:
    handler = ActorHandler(Worker)
    answer = send(handler, "a")
    await asyncio.sleep(0)
    await handler.release_shards([1])
    await asyncio.wait((answer,))
    assert await handler(message("a")) is not None


async def test_a_stop_that_fails_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    handler = ActorHandler(Worker)
    await handler(message("a"))
    await handler(message("b"))
    world.errors["stop a"] = ValueError("disk full")
    with pytest.raises(StateNotStoredError) as caught:
        await handler.aclose()
    assert caught.value.keys == ("a",)
    [record] = caplog.records
    assert (record.name, record.getMessage()) == ("clstr.actor", "stopping a Worker failed, or took longer than 10 s")
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "disk full"
    assert len(handler) == 0


# Creation.


async def test_a_function_of_the_key_makes_actors_too() -> None:
    keys: list[str] = []

    def create(key: str) -> Worker:
        keys.append(key)
        return Worker()

    assert await ActorHandler(create)(message("a")) == b'"x by 1"'
    assert keys == ["a"]


async def test_an_async_function_of_the_key_makes_actors_too() -> None:
    async def create(key: str) -> Worker:
        await asyncio.sleep(0)
        return Worker()

    handler = ActorHandler(create)
    answers = [send(handler, "a", "1"), send(handler, "a", "2")]
    assert await asyncio.gather(*answers) == [b'"1 by 1"', b'"2 by 1"']


async def test_what_is_no_actor_fails_its_message() -> None:
    handler = ActorHandler(lambda _key: "Worker")  # type: ignore[arg-type,return-value]  # the mistake that this is about
    with pytest.raises(HandlerError, match=r"TypeError: create must return a clstr.Actor, not 'Worker'"):
        await handler(message("a"))
    assert len(handler) == 0


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"create": 7}, TypeError, "create must be a class of actors, or a function of a key, not 7"),
        ({"create": dict}, TypeError, "create must be a class of actors, or a function of a key, not <class 'dict'>"),
        ({"idle_after": "1"}, TypeError, "idle_after"),
        ({"idle_after": -1}, ValueError, "idle_after"),
        ({"max_actors": 0}, ValueError, "max_actors must be at least 1, not 0"),
        ({"max_actors": 1.5}, TypeError, "max_actors must be an int, not 1.5"),
        ({"mailbox": 0}, ValueError, "mailbox must be at least 1, not 0"),
        ({"mailbox": True}, TypeError, "mailbox must be an int, not True"),
    ],
    ids=[
        "create",
        "create class",
        "idle_after type",
        "idle_after",
        "max_actors",
        "max_actors type",
        "mailbox",
        "mailbox type",
    ],
)
def test_a_bad_argument_is_named(options: dict[str, Any], error: type[Exception], text: str) -> None:  # Any: arguments
    with pytest.raises(error, match=text):
        ActorHandler(**{"create": Worker, **options})


# The bound.


async def test_the_actor_that_has_been_idle_for_longest_makes_room(world: World) -> None:
    handler = ActorHandler(Worker, max_actors=2)
    for key in "aba":
        await handler(message(key))
    assert await handler(message("c")) == b'"x by 3"'
    assert world.events[-3:] == ["stop b", "start c", "c x"]
    assert await handler(message("a")) == b'"x by 1"'
    assert (len(handler), world.peak) == (2, 2)


def test_there_is_a_bound_by_default() -> None:
    """A caller that draws keys at random cannot take more memory than so many actors do."""
    assert inspect.signature(ActorHandler).parameters["max_actors"].default == 100_000


async def test_no_limit_is_no_limit(world: World) -> None:
    handler = ActorHandler(Worker, max_actors=None)
    for number in range(3):
        await handler(message(str(number)))
    assert len(handler) == 3


async def test_a_busy_actor_never_makes_room(world: World) -> None:
    handler = ActorHandler(Worker, max_actors=2)
    world.hold("a x")
    busy = send(handler, "a")
    await ticks()
    await handler(message("b"))
    await handler(message("c"))
    await world.let_go("a x")
    assert await busy == b'"x by 1"'
    assert [event for event in world.events if event.startswith("stop")] == ["stop b"]


async def test_if_all_are_busy_one_more_key_is_refused(world: World, handling: Handling) -> None:
    handler = ActorHandler(Worker, max_actors=1)
    world.hold("a x")
    busy = send(handler, "a")
    await ticks()
    error = await refused(handling, handler, message("b"))
    assert isinstance(error, OverloadedError)
    assert (error.limit, error.bound) == ("max_actors", 1)
    another = send(handler, "a", "y")  # a busy key takes more messages
    await world.let_go("a x")
    assert [await busy, await another] == [b'"x by 1"', b'"y by 1"']
    assert await handler(message("b")) == b'"x by 2"'


async def test_an_actor_starts_only_when_the_one_in_its_way_has_stopped(world: World) -> None:
    handler = ActorHandler(Worker, max_actors=2)
    for key in "ab":
        await handler(message(key))
    world.hold("stop a", "stop b")
    answers = [send(handler, "c"), send(handler, "d")]
    await ticks()
    assert world.events[-2:] == ["stop a", "stop b"]
    await world.let_go("stop a")
    assert len([event for event in world.events if event.startswith("start")]) == 3
    await world.let_go("stop b")
    assert sorted(await asyncio.gather(*answers), key=str) == [b'"x by 3"', b'"x by 4"']
    assert world.peak == 2


async def test_there_are_never_more_than_max_actors_between_start_and_stop(world: World) -> None:
    handler = ActorHandler(Worker, max_actors=3)
    refusals = 0
    for number in range(60):
        group = [send(handler, str((number * step) % 11)) for step in (1, 3, 4)]
        for answer in await asyncio.gather(*group, return_exceptions=True):
            refusals += isinstance(answer, OverloadedError)
    assert (world.peak, refusals) == (3, 0)
    await handler.aclose()
    assert (world.live, len(handler)) == (0, 0)


async def test_a_message_that_expires_while_its_actor_starts_is_not_handled(world: World, handling: Handling) -> None:
    handler = ActorHandler(Worker)
    envelope = message("a")
    with handling(envelope=envelope, left=0) as inside, pytest.raises(EnvelopeExpiredError) as caught:
        await handler(envelope)
    assert is_refusal_of(caught.value, inside)
    assert world.events == ["start a"]
    assert await handler(message("a")) == b'"x by 1"'


async def test_a_message_that_expires_while_it_waits_for_another_actor_to_stop_is_not_handled(
    world: World, handling: Handling
) -> None:
    handler = ActorHandler(Worker, max_actors=1)
    await handler(message("a"))
    envelope = message("b")
    with handling(envelope=envelope, left=0), pytest.raises(EnvelopeExpiredError):
        await handler(envelope)
    assert world.events == ["start a", "a x", "stop a", "start b"]  # a start belongs to its key, not to a message


# The end.


async def test_a_message_that_arrives_while_its_actor_stops_waits_and_gets_a_new_one(world: World) -> None:
    handler = ActorHandler(Worker)
    await handler(message("a"))
    world.hold("stop a")
    released = asyncio.create_task(handler.release_shards([1]))
    await ticks()
    answer = send(handler, "a", "late")
    await ticks()
    assert world.events == ["start a", "a x", "stop a"]
    await world.let_go("stop a")
    assert await answer == b'"late by 2"'
    await released
    assert world.events == ["start a", "a x", "stop a", "start a", "a late"]


async def test_released_shards_stop_their_actors_after_what_is_under_way(world: World) -> None:
    handler = ActorHandler(Worker)
    await handler(message("other", shard=2))
    world.hold("a 0")
    answers = [send(handler, "a", str(number)) for number in range(2)]
    await ticks()
    released = asyncio.create_task(handler.release_shards([1, 3]))
    await ticks()
    assert not released.done()
    await world.let_go("a 0")
    await released
    assert answers[0].result() == b'"0 by 2"'
    assert isinstance(answers[1].exception(), DrainingError)
    assert world.events[-2:] == ["a 0", "stop a"]
    assert len(handler) == 1
    await handler.release_shards([1, 3])
    assert len(handler) == 1


async def test_a_release_finds_nothing_to_stop_where_the_start_failed(world: World) -> None:
    handler = ActorHandler(Worker)
    world.hold("start a")
    world.errors["start a"] = ValueError("no database")
    answer = send(handler, "a")
    await ticks()
    released = asyncio.create_task(handler.release_shards([1]))
    await ticks()
    await released  # the start was cancelled: there is no state yet
    assert isinstance(answer.exception(), DrainingError)
    assert (world.events, world.live, len(handler), handler._room.taken) == (["start a"], 0, 0, 0)


@pytest.mark.parametrize("is_there", [False, True], ids=["no actor", "an actor"])
async def test_a_message_whose_shard_was_released_before_it_came_reaches_no_actor(
    world: World, handling: Handling, is_there: bool
) -> None:
    """A middleware took longer than the drain: another node may own the key."""
    handler = ActorHandler(Worker)
    if is_there:
        await handler(message("a"))
    events = list(world.events)
    with handling(envelope=message("a")) as inside:
        inside.is_revoked = True
        with pytest.raises(NotOwnerError) as caught:
            await handler(message("a"))
    assert is_refusal_of(caught.value, inside)
    assert (world.events, len(handler)) == (events, int(is_there))


async def test_a_message_whose_shard_was_released_while_its_actor_started_is_not_handled(
    world: World, handling: Handling
) -> None:
    handler = ActorHandler(Worker)
    world.hold("start a")
    answer, inside = ask(handler, "a", "late")
    await ticks()
    inside.is_revoked = True
    release = asyncio.create_task(handler.release_shards([1]))
    await ticks()
    await world.let_go("start a")
    await release
    assert is_refusal_of(cast_error(answer), inside)
    assert "a late" not in world.events
    assert world.live == 0


def cast_error(answer: Answer) -> BaseException:
    error = answer.exception()
    assert error is not None
    return error


@pytest.mark.parametrize("led_to", [False, True], ids=["its own", "that it led to"])
async def test_a_release_inside_a_message_waits_for_all_actors_but_those_that_wait_for_it(
    world: World, handling: Handling, led_to: bool
) -> None:
    """Even for one of another kind that has the same key."""
    kinds = [ActorHandler(Worker), ActorHandler(Worker, kind="Another")]
    world.hold("a outer", "a other")
    outer, inside = ask(kinds[0], "a", "outer")
    other = send(kinds[1], "a", "other")
    await ticks()

    async def release() -> None:
        releasing = Asking(envelope=message("b"), chain=("Worker:a#outer",)) if led_to else inside
        set_current(releasing)
        await asyncio.gather(*(kind.release_shards([1]) for kind in kinds))

    task = asyncio.create_task(release())
    await ticks()
    assert not task.done()
    await world.let_go("a other")
    await task
    assert (await other, world.events[-1]) == (b'"other by 2"', "stop a")
    assert len(kinds[0]) == 1
    await world.let_go("a outer")
    assert await outer == b'"outer by 1"'
    assert (world.live, len(kinds[0])) == (0, 0)


def test_periodic_work_is_skipped_when_the_shard_is_no_longer_held(world: World, handling: Handling) -> None:
    held = {1}

    class Subscribed(Asking):
        def holds(self) -> Callable[[int], bool]:
            return held.__contains__

    async def run() -> None:
        handler = ActorHandler(Ticking)
        set_current(Subscribed(envelope=message("a")))
        await handler(message("a"))
        set_current(None)
        await asyncio.sleep(6)
        assert world.events.count("tick a") == 1
        held.clear()
        await asyncio.sleep(20)
        assert world.events.count("tick a") == 1
        await handler.aclose()

    in_virtual_time(run())


async def test_a_closed_handler_has_stopped_every_actor_and_refuses_messages(world: World, handling: Handling) -> None:
    handler = ActorHandler(Worker)
    for key in "ab":
        await handler(message(key))
    await asyncio.gather(handler.aclose(), handler.aclose())
    await handler.aclose()
    assert sorted(world.events[-2:]) == ["stop a", "stop b"]
    assert world.events.count("stop a") == 1
    error = await refused(handling, handler, message("a"))
    assert isinstance(error, DrainingError)
    assert len(handler) == 0


async def test_a_stop_is_not_done_for_the_message_that_caused_it(handling: Handling) -> None:
    seen: list[Current | None] = []

    class Curious(Worker):
        async def on_stop(self) -> None:
            seen.append(current())

    handler = ActorHandler(Curious, max_actors=1)
    await handler(message("a"))
    with handling(envelope=message("b")):
        await handler(message("b"))
    assert [name_of(each) for each in seen] == ["Curious:a"]


def test_a_stop_that_takes_too_long_is_cancelled_and_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        handler = ActorHandler(Worker)
        await handler(message("a"))
        await handler(message("b"))
        world.hold("stop a")
        before = asyncio.get_running_loop().time()
        with pytest.raises(StateNotStoredError) as caught:
            await handler.aclose()
        assert caught.value.keys == ("a",)
        assert asyncio.get_running_loop().time() - before == pytest.approx(STOP_TIMEOUT, abs=0.01)
        assert len(handler) == 0

    in_virtual_time(run())
    [record] = caplog.records
    assert (record.name, record.levelno) == ("clstr.actor", logging.ERROR)
    assert record.getMessage() == "stopping a Worker failed, or took longer than 10 s"


def test_a_release_waits_for_the_message_that_is_handled_but_not_for_ever(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the transport's to cancel; one that ignores that is told of, and its actor stops when it ends."""

    async def run() -> None:
        handler = ActorHandler(Worker)
        world.hold("a long")
        long = send(handler, "a", "long")
        await ticks()
        release = asyncio.ensure_future(handler.release_shards([1]))
        await asyncio.sleep(3 * STOP_TIMEOUT - 1)
        assert not release.done()
        assert caplog.records == []
        await asyncio.sleep(1.1)
        error = release.exception()
        assert isinstance(error, StateNotStoredError)
        assert error.keys == ("a",)
        assert world.events == ["start a", "a long"]
        await world.let_go("a long")
        assert await long == b'"long by 1"'
        await ticks()
        assert world.events[-1] == "stop a"
        assert len(handler) == 0

    in_virtual_time(run())
    [record] = caplog.records
    assert (record.name, record.levelno) == ("clstr.actor", logging.ERROR)
    assert record.getMessage().startswith("1 actors of kind Worker have not stopped within 30 s")


@pytest.mark.parametrize("end", ["aclose", "release"])
def test_periodic_work_that_hangs_is_cancelled_for_the_end(world: World, end: str) -> None:
    async def run() -> None:
        handler = ActorHandler(Ticking)
        await handler(message("a"))
        world.hold("tick a")
        await asyncio.sleep(6)
        before = asyncio.get_running_loop().time()
        await (handler.aclose() if end == "aclose" else handler.release_shards([1]))
        assert asyncio.get_running_loop().time() - before == pytest.approx(STOP_TIMEOUT, abs=0.01)
        assert world.events == ["start a", "a x", "tick a", "stop a"]
        assert len(handler) == 0

    in_virtual_time(run())


def test_work_and_a_task_and_a_stop_that_ignore_cancellation_cost_a_bounded_time(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    let_go: list[asyncio.Event] = []

    async def ignore() -> None:
        while not let_go[0].is_set():
            try:
                await let_go[0].wait()
            except asyncio.CancelledError:
                continue

    class Stubborn(Worker):
        async def on_start(self) -> None:
            await super().on_start()
            self.ignoring = self.spawn(ignore())

        async def on_stop(self) -> None:
            self.world.events.append("stop")
            await ignore()

    async def run() -> None:
        let_go.append(asyncio.Event())
        handler = ActorHandler(Stubborn)
        await handler(message("a"))
        before = asyncio.get_running_loop().time()
        with pytest.raises(StateNotStoredError):
            await handler.aclose()
        assert asyncio.get_running_loop().time() - before == pytest.approx(3 * STOP_TIMEOUT, abs=0.01)
        assert world.events == ["start a", "a x", "stop"]  # the task ate nothing of its time
        let_go[0].set()
        await ticks()
        assert len(handler) == 0

    in_virtual_time(run())
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("1 tasks of a ")
    assert said[0].endswith("Stubborn ignore cancellation")
    assert said[1].startswith("1 spawned tasks of a ")
    assert said[2] == "the stop of key 'a' ignores its cancellation: nothing waits for it any longer"


class Storing(Actor):
    """Stores through a pool of five connections, a quarter of a second each."""

    pool: ClassVar[asyncio.Semaphore]
    stored: ClassVar[list[str]]
    stopping: ClassVar[int]
    peak: ClassVar[int]

    async def on_stop(self) -> None:
        cls = type(self)
        cls.stopping += 1
        cls.peak = max(cls.peak, cls.stopping)
        async with self.pool:
            await asyncio.sleep(0.25)
        self.stored.append(self.key)
        cls.stopping -= 1

    @handles(Do)
    async def do(self, message: Do, _context: Context) -> str:
        return message.name


@pytest.fixture
def storing() -> type[Storing]:
    class Fresh(Storing):
        pool = asyncio.Semaphore(5)
        stored: ClassVar[list[str]] = []
        stopping = 0
        peak = 0

    return Fresh


@pytest.mark.parametrize("end", ["aclose", "release", "idle"])
def test_actors_that_stop_together_take_turns_and_none_loses_its_state(storing: type[Storing], end: str) -> None:
    """If all began at once, those that come last would not get a connection in the ten seconds that a stop has."""

    async def run() -> None:
        handler = ActorHandler(storing, idle_after=60)
        for number in range(300):
            await handler(message(str(number)))
        if end == "aclose":
            await handler.aclose()
        elif end == "release":
            await handler.release_shards([1])
        else:
            await asyncio.sleep(60 + 300 / 5 * 0.25 + 1)
        assert (len(handler), len(storing.stored), storing.peak) == (0, 300, 100)
        await handler.aclose()

    in_virtual_time(run())


def test_an_idle_actor_whose_stop_has_to_wait_is_used_meanwhile(storing: type[Storing]) -> None:
    async def run() -> None:
        handler = ActorHandler(storing, idle_after=60, max_stops=5)
        for number in range(20):
            await handler(message(str(number)))
        await asyncio.sleep(60.1)
        before = asyncio.get_running_loop().time()
        await handler(message("19"))
        assert asyncio.get_running_loop().time() == before
        await asyncio.sleep(3)
        assert (len(handler), len(storing.stored)) == (1, 19)
        await handler.aclose()

    in_virtual_time(run())


def test_a_release_that_is_cancelled_says_what_is_not_stored_and_its_stops_go_on(
    storing: type[Storing], caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        handler = ActorHandler(storing, max_stops=5)
        for number in range(10, 22):
            await handler(message(str(number)))
        releasing = asyncio.create_task(handler.release_shards([1]))
        await asyncio.sleep(0.3)
        releasing.cancel()
        await asyncio.wait([releasing])
        assert releasing.cancelled()
        [record] = caplog.records
        assert record.getMessage() == (
            "the wait for stopping actors of kind Fresh was cancelled: the state of 7 keys is not stored: '15', '16', "
            "'17', '18', '19', '20', '21'; the log says what failed"
        )
        await handler.release_shards([1])
        assert len(storing.stored) == 12

    in_virtual_time(run())


async def test_a_release_waits_for_a_stop_that_began_before_and_says_that_it_failed(world: World) -> None:
    handler = ActorHandler(Worker, max_actors=1)
    await handler(message("a"))
    world.hold("stop a")
    world.errors["stop a"] = ValueError("disk full")
    second = send(handler, "b", shard=2)
    await ticks()
    releasing = asyncio.create_task(handler.release_shards([1]))
    await ticks()
    assert not releasing.done()
    await world.let_go("stop a")
    with pytest.raises(StateNotStoredError) as caught:
        await releasing
    assert caught.value.keys == ("a",)
    assert await second == b'"x by 2"'
    await handler.aclose()


async def test_two_releases_of_a_shard_both_wait_for_its_actor(world: World) -> None:
    handler = ActorHandler(Worker)
    world.hold("a long")
    answer = send(handler, "a", "long")
    await ticks()
    releases = [asyncio.create_task(handler.release_shards([1])) for _ in range(2)]
    await ticks()
    assert not any(release.done() for release in releases)
    await world.let_go("a long")
    await asyncio.gather(answer, *releases)
    assert world.events == ["start a", "a long", "stop a"]


async def test_a_stop_that_cancels_itself_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    handler = ActorHandler(Worker)
    await handler(message("a"))
    world.errors["stop a"] = asyncio.CancelledError()
    with pytest.raises(StateNotStoredError):
        await handler.aclose()
    [record] = caplog.records
    assert record.getMessage() == "stopping a Worker cancelled itself"
    assert len(handler) == 0


async def test_what_a_stop_spawns_is_cancelled_after_it() -> None:
    tasks: list[asyncio.Task[None]] = []

    class Late(Worker):
        async def on_stop(self) -> None:
            tasks.append(self.spawn(asyncio.Event().wait()))  # type: ignore[arg-type]  # what it returns is nothing to us
            await asyncio.sleep(0)

    handler = ActorHandler(Late)
    await handler(message("a"))
    await handler.aclose()
    assert [task.cancelled() for task in tasks] == [True]


tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


class Curious(Actor):
    """Notes in which context it stops and works."""

    seen: ClassVar[set[tuple[str, str, str | None]]]

    async def on_stop(self) -> None:
        self.seen.add((f"stop {self.key}", tenant.get(), name_of(current())))
        tenant.set("on_stop")

    @every(1)
    async def tick(self) -> None:
        self.seen.add((f"tick {self.key}", tenant.get(), name_of(current())))
        tenant.set("tick")

    def on_error(self, _error: Exception) -> bool:
        return True

    @handles(Do)
    async def do(self, message: Do, _context: Context) -> str:
        if message.name == "fail":
            raise ValueError
        return message.name


async def evict(handler: ActorHandler, call: Callable[..., Coroutine[Any, Any, None]]) -> None:
    await asyncio.create_task(call("b"))


async def wait_until_idle(handler: ActorHandler, call: object) -> None:
    await asyncio.sleep(61)


async def release(handler: ActorHandler, call: object) -> None:
    await handler.release_shards([1])


async def restart(handler: ActorHandler, call: Callable[..., Coroutine[Any, Any, None]]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- it has no text
        await asyncio.create_task(call("a", "fail"))
    await ticks()


@pytest.mark.parametrize("stop", [evict, wait_until_idle, release, restart])
def test_stops_and_periodic_work_run_in_the_context_of_connect(
    monkeypatch: pytest.MonkeyPatch, stop: Callable[..., Coroutine[Any, Any, None]]
) -> None:
    """Not in that of a message of another key, nor in that of who releases the shard, nor in an empty one."""
    seen: set[tuple[str, str, str | None]] = set()
    monkeypatch.setattr(Curious, "seen", seen, raising=False)

    async def run() -> None:
        base = contextvars.copy_context()
        base.run(tenant.set, "the application")

        class Received(Asking):
            def base_context(self) -> contextvars.Context:
                return base

        async def call(key: str, name: str = "x") -> None:
            tenant.set(f"the tenant of {key}")
            set_current(Received(envelope=message(key, name)))
            await handler(message(key, name))

        handler = ActorHandler(Curious, max_actors=1, idle_after=60)
        await asyncio.create_task(call("a"))
        await asyncio.sleep(2.5)
        await stop(handler, call)
        assert seen == {(f"{what} a", "the application", "Curious:a") for what in ("tick", "stop")}
        await handler.aclose()

    in_virtual_time(run())


async def test_a_closing_program_cancels_a_stop_for_good(world: World, caplog: pytest.LogCaptureFixture) -> None:
    handler = ActorHandler(Worker)
    await handler(message("a"))
    world.hold("stop a")
    closing = asyncio.create_task(handler.aclose())
    await ticks()
    [stop] = asyncio.all_tasks() - {asyncio.current_task(), closing}
    stop.cancel()
    with pytest.raises(StateNotStoredError):
        await closing
    assert stop.cancelled()
    assert caplog.records == []
    assert (world.live, len(handler)) == (0, 0)


async def test_who_waits_for_room_parks(world: World, handling: Handling) -> None:
    """What stops may need the slot, to store its state over the same node."""
    handler = ActorHandler(Worker, max_actors=1)
    await handler(message("a"))
    world.hold("stop a")
    calls: list[str] = []

    class Parking(Asking):
        def park(self) -> None:
            calls.append("park")

        def unpark(self) -> None:
            calls.append("unpark")

    async def call() -> bytes | None:
        set_current(Parking(envelope=message("b")))
        return await handler(message("b"))

    answer = asyncio.create_task(call())
    await ticks()
    assert calls == ["park"]
    await world.let_go("stop a")
    assert await answer == b'"x by 2"'
    assert calls == ["park", "unpark"]


def test_a_closed_handler_leaves_no_timer(world: World) -> None:
    async def run() -> None:
        handler = ActorHandler(Worker, idle_after=300)
        await handler(message("a"))
        await handler.aclose()
        assert [timer for timer in getattr(asyncio.get_running_loop(), "_scheduled") if not timer.cancelled()] == []  # noqa: B009

    in_virtual_time(run())


def test_an_idle_actor_is_stopped_when_its_time_is_over(world: World) -> None:
    async def run() -> None:
        handler = ActorHandler(Worker, idle_after=10)
        await handler(message("a"))
        await asyncio.sleep(4)
        await handler(message("b"))
        await asyncio.sleep(4)
        await handler(message("a"))  # it was used again, at 8
        await asyncio.sleep(5)
        assert "stop b" not in world.events
        await asyncio.sleep(1.1)
        assert [event for event in world.events if "stop" in event] == ["stop b"]
        await asyncio.sleep(3)
        assert "stop a" not in world.events
        await asyncio.sleep(1)
        assert world.events[-1] == "stop a"
        assert len(handler) == 0
        assert await handler(message("a")) == b'"x by 3"'

    in_virtual_time(run())


def test_a_busy_actor_is_not_idle(world: World) -> None:
    async def run() -> None:
        handler = ActorHandler(Worker, idle_after=10)
        await handler(message("a"))
        world.hold("a long")
        answer = send(handler, "a", "long")
        await asyncio.sleep(50)
        await world.let_go("a long")
        assert await answer == b'"long by 1"'
        await asyncio.sleep(9)
        assert "stop a" not in world.events
        await asyncio.sleep(2)
        assert world.events[-1] == "stop a"

    in_virtual_time(run())


def test_without_idle_after_actors_stay(world: World) -> None:
    async def run() -> None:
        handler = ActorHandler(Worker, idle_after=None)
        await handler(message("a"))
        await asyncio.sleep(1e6)
        assert (len(handler), world.events) == (1, ["start a", "a x"])

    in_virtual_time(run())


# Periodic work.


class Ticking(Worker):
    @every(5.0)
    async def tick(self) -> None:
        await self.world.pass_by(f"tick {self.key}")


def test_periodic_work_takes_turns_with_messages(world: World) -> None:
    async def run() -> None:
        handler = ActorHandler(Ticking, idle_after=None)
        await handler(message("a"))
        await asyncio.sleep(11)
        assert world.events == ["start a", "a x", "tick a", "tick a"]
        world.hold("a long", "tick a")
        answer = send(handler, "a", "long")
        await asyncio.sleep(5)
        assert world.events[4:] == ["a long"]
        await world.let_go("a long")
        assert await answer == b'"long by 1"'
        assert world.events[4:] == ["a long", "tick a"]
        waiting = send(handler, "a", "waiting")
        await ticks()
        assert world.events[4:] == ["a long", "tick a"]
        await world.let_go("tick a")
        assert await waiting == b'"waiting by 1"'
        await handler.aclose()
        await asyncio.sleep(20)
        assert world.events[-1] == "stop a"

    in_virtual_time(run())


def test_periodic_work_that_fails_is_logged_and_goes_on(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        handler = ActorHandler(Ticking, idle_after=None)
        await handler(message("a"))
        world.errors["tick a"] = ValueError("no")
        await asyncio.sleep(11)
        await handler.aclose()

    in_virtual_time(run())
    assert world.events == ["start a", "a x", "tick a", "error no", "tick a", "stop a"]
    [record] = caplog.records
    assert record.getMessage() == "periodic work of a Ticking failed, or took longer than 30 s"


def test_periodic_work_that_hangs_is_cancelled_so_that_messages_go_on(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        handler = ActorHandler(Ticking, idle_after=None)
        await handler(message("a"))
        world.hold("tick a")
        await asyncio.sleep(6)
        answer = send(handler, "a", "waiting")
        await asyncio.sleep(28)
        assert not answer.done()
        await asyncio.sleep(2)
        assert await answer == b'"waiting by 1"'
        world.gates.clear()
        await asyncio.sleep(5)
        assert world.events == ["start a", "a x", "tick a", "error ", "a waiting", "tick a"]  # it goes on as well
        await handler.aclose()

    in_virtual_time(run())
    [record] = caplog.records
    assert record.getMessage() == "periodic work of a Ticking failed, or took longer than 30 s"


def test_periodic_work_that_waits_for_its_turn_when_the_shard_is_released_is_not_done(world: World) -> None:
    async def run() -> None:
        handler = ActorHandler(Ticking, idle_after=None)
        await handler(message("a"))
        world.hold("a long")
        answer = send(handler, "a", "long")
        await asyncio.sleep(6)
        release = asyncio.create_task(handler.release_shards([1]))
        await asyncio.sleep(6)  # the next one waits behind the stop, which cancels it
        await world.let_go("a long")
        await asyncio.gather(answer, release)
        assert world.events == ["start a", "a x", "a long", "stop a"]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    in_virtual_time(run())


def test_an_idle_actor_with_periodic_work_has_no_task(world: World) -> None:
    async def run() -> None:
        handler = ActorHandler(Ticking, idle_after=None)
        await handler(message("a"))
        for _ in range(2):
            assert asyncio.all_tasks() == {asyncio.current_task()}
            await asyncio.sleep(5.5)
        assert world.events == ["start a", "a x", "tick a", "tick a"]
        await handler.aclose()

    in_virtual_time(run())


def test_periodic_work_does_not_keep_an_idle_actor_alive(world: World) -> None:
    async def run() -> None:
        handler = ActorHandler(Ticking, idle_after=12)
        await handler(message("a"))
        await asyncio.sleep(13)
        assert world.events == ["start a", "a x", "tick a", "tick a", "stop a"]
        await handler(message("a"))
        world.hold("tick a")
        await asyncio.sleep(13)  # its time is over while periodic work is under way: that is finished first
        assert world.events[5:] == ["start a", "a x", "tick a"]
        await world.let_go("tick a")
        assert world.events[5:] == ["start a", "a x", "tick a", "stop a"]
        assert len(handler) == 0

    in_virtual_time(run())


def test_periodic_work_does_not_count_as_spawned(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ticking, "max_tasks", 0)

    async def run() -> None:
        handler = ActorHandler(Ticking)
        assert await handler(message("a")) == b'"x by 1"'
        await asyncio.sleep(6)
        assert world.events[-1] == "tick a"
        await handler.aclose()

    in_virtual_time(run())


def test_periodic_work_is_not_done_for_the_message_that_started_the_actor(handling: Handling) -> None:
    seen: list[Current | None] = []

    class Curious(Worker):
        @every(1)
        async def look(self) -> None:
            seen.append(current())

    async def run() -> None:
        handler = ActorHandler(Curious)
        with handling(envelope=message("a")) as inside:
            set_current(inside)
            await handler(message("a"))
            await asyncio.sleep(1.5)
        await handler.aclose()

    in_virtual_time(run())
    assert [name_of(each) for each in seen] == ["Curious:a"]


async def test_an_actor_that_stops_everything_does_not_wait_for_itself(handling: Handling) -> None:
    events: list[str] = []

    class Closer(Actor):
        async def on_stop(self) -> None:
            events.append(f"stop {self.key}")

        @handles(Do)
        async def do(self, _message: Do, _context: Context) -> str:
            if self.key == "closer":
                await handler.aclose()
                events.append("closed")
            return "done"

    handler = ActorHandler(Closer)
    await handler(Envelope(shard=0, type="Do", data=b'{"name":""}', headers={KEY_HEADER: "other"}))
    envelope = Envelope(shard=0, type="Do", data=b'{"name":""}', headers={KEY_HEADER: "closer"})
    with handling(envelope=envelope):
        assert await handler(envelope) == b'"done"'
    await ticks()
    assert events == ["stop other", "closed", "stop closer"]


async def test_what_waits_for_its_turn_when_the_shard_is_released_is_refused(handling: Handling) -> None:
    go_on = asyncio.Event()
    events: list[str] = []

    class Slow(Actor):
        async def on_stop(self) -> None:
            events.append("stop")

        @handles(Do)
        async def do(self, _message: Do, _context: Context) -> str:
            await go_on.wait()
            return "done"

        @every(0.001)
        async def tick(self) -> None:
            events.append("tick")

    handler = ActorHandler(Slow)
    envelope = Envelope(shard=4, type="Do", data=b'{"name":""}', headers={KEY_HEADER: "k"})
    with handling(envelope=envelope) as inside:
        calls = [asyncio.ensure_future(handler(envelope)) for _ in range(3)]
        await ticks()
        releases = []
        for _ in range(2):
            release = asyncio.create_task(handler.release_shards([4]), context=contextvars.Context())
            releases.append(release)
            await ticks()
        for call in calls[1:]:
            with pytest.raises(DrainingError) as caught:
                await call
            assert is_refusal_of(caught.value, inside)
        go_on.set()
        assert await calls[0] == b'"done"'
        await asyncio.gather(*releases)
    assert events == ["stop"]
    assert len(handler) == 0


@pytest.mark.usefixtures("eager")
async def test_actors_that_stop_at_once_under_eager_tasks_are_released(world: World) -> None:
    handler = ActorHandler(Worker)
    for key in ("a", "b"):
        await handler(message(key))
    await handler.release_shards([1])
    assert world.events[-2:] == ["stop a", "stop b"]
    assert len(handler) == 0


class NoWalk(dict[str, Any]):
    """A dict that may be looked up, but not walked through."""

    def __iter__(self) -> Any:
        raise AssertionError("it is walked through")

    keys = values = items = __iter__


async def test_a_release_costs_in_proportion_to_the_keys_of_its_shards(world: World) -> None:
    handler = ActorHandler(Worker)
    handler._cells = NoWalk()
    for key, shard in (("a", 1), ("b", 2), ("c", 1)):
        await handler(message(key, shard=shard))
    await handler.release_shards([1, 3])
    assert world.events[-2:] == ["stop a", "stop c"]
    assert len(handler) == 1
    await handler(message("b", shard=4))  # another number of shards
    await handler.release_shards([2])
    assert len(handler) == 1
    await handler.release_shards([4])
    assert (len(handler), len(handler._by_shard)) == (0, 0)


# What an actor does by itself awaits answers, too.


@pytest.mark.parametrize("work", ["on_stop", "every"])
def test_a_chain_that_comes_back_to_what_an_actor_does_by_itself_is_refused_at_once(
    handling: Handling, work: str
) -> None:
    errors: list[ClstrError] = []

    class Selfish(Worker):
        async def ask_itself(self) -> None:
            own = current()
            assert own is not None
            left.append(own.time_left())
            own.begin_call("Selfish:a#1", message("b"))
            errors.append(await refused(handling, handler, message("a"), "Selfish:a#1", "Worker:b#1"))
            set_current(own)
            own.end_call("Selfish:a#1")

        async def on_stop(self) -> None:
            if work == "on_stop":
                await self.ask_itself()

        @every(7)
        async def look(self) -> None:
            if work == "every":
                await self.ask_itself()

    async def run() -> None:
        await handler(message("a"))
        await asyncio.sleep(8)
        await handler.release_shards([1])

    left: list[float] = []
    handler = ActorHandler(Selfish)
    in_virtual_time(run())
    assert [type(error) for error in errors] == [CallCycleError]
    assert left == [pytest.approx(STOP_TIMEOUT if work == "on_stop" else WORK_TIMEOUT)]
    assert len(handler) == 0


class Leaving(Worker):
    """Awaits an answer of the key ``b`` in ``on_stop``, until a test lets it go on."""

    go_on: ClassVar[asyncio.Event]

    async def on_stop(self) -> None:
        own = current()
        assert own is not None
        own.begin_call("Leaving:a#1", message("b"))
        await self.go_on.wait()
        own.end_call("Leaving:a#1")


def crossing(handling: Handling, work: Callable[[ActorHandler, Current], Coroutine[Any, Any, None]]) -> None:
    """Run ``work`` while the actor of ``a`` stops and awaits ``b``."""

    async def run() -> None:
        Leaving.go_on = asyncio.Event()
        handler = ActorHandler(Leaving)
        await handler(message("a"))
        closing = asyncio.create_task(handler.release_shards([1]))
        await ticks()
        with handling(envelope=message("a")) as inside:
            await work(handler, inside)
        Leaving.go_on.set()
        await closing
        await handler.aclose()

    in_virtual_time(run())


@pytest.mark.parametrize("kind", ["Leaving", "Other"])
def test_a_message_of_a_key_that_a_stop_awaits_is_refused(handling: Handling, kind: str) -> None:
    """Stops that ask each other would wait for their timeouts."""

    async def work(handler: ActorHandler, inside: Current) -> None:
        inside.chain = ("Worker:c#1", f"{kind}:b#2")
        begun = asyncio.get_running_loop().time()
        with pytest.raises(CallCycleError) as caught:
            await handler(inside.envelope)
        assert asyncio.get_running_loop().time() - begun < 1
        assert is_refusal_of(caught.value, inside)
        assert caught.value.chain == f"Worker:c -> {kind}:b -> Leaving:a -> {kind}:b"

    crossing(handling, work)


@pytest.mark.parametrize("chain", [(), ("b#1",), ("Leaving:c#1",), ("Leaving:b#1", "Worker:c#2"), ("Leaving:xb#1",)])
def test_any_other_message_waits_for_the_stop(handling: Handling, chain: tuple[str, ...]) -> None:
    async def work(handler: ActorHandler, inside: Current) -> None:
        inside.chain = chain
        answer = asyncio.create_task(call_as(handler, inside))
        await asyncio.sleep(5)
        assert not answer.done()
        Leaving.go_on.set()
        assert await answer == b'"x by 2"'

    crossing(handling, work)


def test_a_message_whose_sender_answered_the_stop_just_now_waits_for_it(handling: Handling) -> None:
    """The answer may arrive after the next message of who sent it."""

    async def work(handler: ActorHandler, inside: Current) -> None:
        inside.chain = ("Leaving:b#2",)
        answer = asyncio.create_task(call_as(handler, inside))
        await ticks()
        Leaving.go_on.set()
        assert await answer == b'"x by 2"'

    crossing(handling, work)


# Task factories that fail: they are the program's.


async def test_a_task_factory_that_fails_costs_the_messages_that_wait_but_not_the_turn(
    handling: Handling, no_tasks: NoTasks, caplog: pytest.LogCaptureFixture
) -> None:
    handler = ActorHandler(Worker, max_actors=1)
    with handling(envelope=message("a")) as inside, no_tasks(), pytest.raises(HandlerError) as caught:
        await handler(inside.envelope)
    assert (caught.value.error_type, caught.value.error_message) == ("RuntimeError", "no tasks today")
    assert is_refusal_of(caught.value, inside)
    assert "starting an actor of kind Worker failed, 1 in a row" in caplog.text
    assert len(handler) == 0
    assert await handler(message("b")) == b'"x by 1"'  # the place is free too
    await handler.aclose()
    gc.collect()  # a coroutine that nobody awaited would be reported here


async def test_state_is_stored_although_the_task_factory_fails(
    world: World, no_tasks: NoTasks, caplog: pytest.LogCaptureFixture
) -> None:
    handler = ActorHandler(Worker)
    await handler(message("a"))
    with no_tasks():
        await handler.aclose()
    assert world.events[-1] == "stop a"
    assert "the task factory of the event loop failed: a plain task is used" in caplog.text


async def test_a_spawn_that_the_task_factory_refuses_leaves_no_coroutine_behind(no_tasks: NoTasks) -> None:
    work = asyncio.sleep(0)
    with no_tasks(), pytest.raises(RuntimeError, match="no tasks today"):
        _ = Worker().spawn(work)
    assert inspect.getcoroutinestate(work) == inspect.CORO_CLOSED


# For tests of nodes.


async def test_a_fresh_handler_has_the_same_arguments_and_no_actors(world: World) -> None:
    handler = ActorHandler(Worker, idle_after=7, kind="work", max_actors=3, mailbox=4, max_stops=5)
    await handler(message("a"))
    fresh = handler.fresh()
    assert len(fresh) == 0
    assert await fresh(message("a")) == b'"x by 2"'
    assert (fresh._max_actors, fresh._mailbox, fresh._idle.idle_after, fresh._stops.limit) == (3, 4, 7, 5)
    for each in (handler, fresh):
        await each.aclose()


def test_an_aborted_handler_stops_no_actor_and_leaves_nothing(world: World) -> None:
    async def run() -> None:
        handler = ActorHandler(Ticking, idle_after=60, max_actors=2, max_stops=1)
        await handler(message("a"))
        await handler(message("b"))
        world.hold("stop a")
        waiting = send(handler, "c")  # for the place of "a", whose stop is under way
        await asyncio.sleep(1)
        handler.abort()
        waiting.cancel()
        await asyncio.wait([waiting])
        await asyncio.sleep(100)
        assert world.events == ["start a", "a x", "start b", "b x", "stop a"]
        assert len(handler) == 0
        with pytest.raises(DrainingError):
            await handler(message("a"))
        assert asyncio.all_tasks() == {asyncio.current_task()}

    in_virtual_time(run())


async def test_an_aborted_handler_cancels_what_its_actors_spawned() -> None:
    tasks: list[asyncio.Task[None]] = []

    class Busy(Worker):
        async def on_start(self) -> None:
            await super().on_start()
            tasks.append(self.spawn(asyncio.sleep(1000)))

    handler = ActorHandler(Busy)
    await handler(message("a"))
    handler.abort()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True]
