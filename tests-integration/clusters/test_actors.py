"""Actors over real transports: no count is lost, no key holds up another, no cycle hangs."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from itertools import count
from typing import ClassVar

import msgspec
import pytest

import clstr
from clstr.spi import Engine
from clusters.types import Connect

CALLS, CALLERS, KEYS, LIVE = 10_000, 64, 2_000, 100
NODES = ["node-0", "node-1"]
NUM_SHARDS = 32


class Total(msgspec.Struct):
    value: int


class Add(msgspec.Struct, clstr.Message[Total]):
    amount: int


class Visit(msgspec.Struct, clstr.Message[Total]):
    path: list[str]


class Check(msgspec.Struct, clstr.Message[Total]):
    comes_back: bool


class Tally(clstr.Actor):
    """Counts in memory, and stores the count when it stops."""

    stored: ClassVar[dict[str, int]] = {}
    live: ClassVar[Counter[str]] = Counter()
    peak: ClassVar[int] = 0

    async def on_start(self) -> None:
        Tally.live[self.key] += 1
        Tally.peak = max(Tally.peak, Tally.live.total())
        await asyncio.sleep(0)
        self.value = Tally.stored.get(self.key, 0)

    async def on_stop(self) -> None:
        await asyncio.sleep(0)
        Tally.stored[self.key] = self.value
        Tally.live[self.key] -= 1

    @clstr.handles(Add)
    async def add(self, message: Add, _context: clstr.Context) -> Total:
        assert Tally.live[self.key] == 1
        value = self.value
        await asyncio.sleep(0)  # another message that ran now would be lost
        self.value = value + message.amount
        return Total(self.value)


@pytest.fixture(autouse=True)
def fresh_tally() -> None:
    Tally.stored.clear()
    Tally.live.clear()
    Tally.peak = 0


async def add_patiently(client: clstr.Client, key: str) -> int:
    """Send again what was refused: every place was taken."""
    while True:
        try:
            return (await client.key(key).request(Add(1))).value
        except clstr.OverloadedError as error:
            assert not error.maybe_executed  # noqa: PT017 -- one of many outcomes
            await asyncio.sleep(0)


async def test_a_bounded_number_of_actors_counts_exactly_what_was_answered(connect: Connect) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 -- to run a failure again
    chance = random.Random(seed)
    answered: Counter[str] = Counter()
    numbers = count()
    handler = clstr.ActorHandler(Tally, max_actors=LIVE)
    server, transport = await connect(), await connect()
    async with clstr.Node(server, handler, shards=range(NUM_SHARDS)):
        client = clstr.Client(transport, num_shards=NUM_SHARDS, timeout=60)

        async def caller() -> None:
            while next(numbers) < CALLS:
                key = f"key-{chance.randrange(KEYS)}"
                await add_patiently(client, key)
                answered[key] += 1

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        assert len(handler) <= LIVE + CALLERS
    assert answered.total() == CALLS
    assert Tally.stored == answered
    assert Tally.live.total() == 0
    assert Tally.peak <= LIVE


async def test_a_hot_key_keeps_no_other_from_answering(connect: Connect) -> None:
    go_on = asyncio.Event()

    class Slow(clstr.Actor):
        @clstr.handles(Add)
        async def add(self, message: Add, _context: clstr.Context) -> Total:
            if self.key == "hot":
                await go_on.wait()
            return Total(message.amount)

    server, transport = await connect(), await connect()
    async with clstr.Node(server, clstr.ActorHandler(Slow), shards=range(NUM_SHARDS)):
        client = clstr.Client(transport, num_shards=NUM_SHARDS, timeout=60)
        hot = [asyncio.create_task(client.key("hot").request(Add(1))) for _ in range(500)]
        others = await asyncio.gather(*(client.key(f"key-{number}").request(Add(number)) for number in range(200)))
        assert [total.value for total in others] == list(range(200))
        go_on.set()
        outcomes = await asyncio.gather(*hot, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {Total, clstr.OverloadedError}
        assert sum(isinstance(outcome, Total) for outcome in outcomes) == 257  # one runs, 256 wait


async def test_a_call_chain_that_comes_back_fails_at_once_over_nodes(connect: Connect) -> None:
    transport = await connect()
    client = clstr.Client(transport, num_shards=NUM_SHARDS, timeout=60)

    class Visitor(clstr.Actor):
        @clstr.handles(Visit)
        async def visit(self, message: Visit, _context: clstr.Context) -> Total:
            if not message.path:
                return Total(0)
            first, *rest = message.path
            reply = await client.key(first).request(Visit(rest))
            return Total(reply.value + 1)

    async with AsyncExitStack() as stack:
        for node_id in NODES:
            node = clstr.Node(
                await connect(), clstr.ActorHandler(Visitor), node_id=node_id, nodes=NODES, num_shards=NUM_SHARDS
            )
            await stack.enter_async_context(node)
        assert (await client.key("a").request(Visit(["b", "c", "d"]))).value == 3
        with pytest.raises(clstr.HandlerError) as caught:
            await client.key("a").request(Visit(["b", "a"]))
        assert "CallCycleError" in str(caught.value)
        assert "Visitor:a -> Visitor:b -> Visitor:a" in str(caught.value)


async def test_what_a_request_led_to_that_its_sender_gave_up_comes_in_its_turn(connect: Connect) -> None:
    """A asks B and gives up, then asks C; what B sends to A now is neither a cycle nor in the midst of anything."""
    asked, given_up, answered = asyncio.Event(), asyncio.Event(), asyncio.Event()
    order: list[str] = []

    class Ask(msgspec.Struct, clstr.Message[Total]):
        pass

    class Hold(msgspec.Struct, clstr.Message[Total]):
        pass

    class First(clstr.Actor):
        reentrant = True

        @clstr.handles(Ask)
        async def ask(self, _message: Ask, _context: clstr.Context) -> Total:
            request = asyncio.ensure_future(client.key("b").request(Visit([])))
            await asked.wait()
            request.cancel()
            await asyncio.wait((request,))
            given_up.set()
            total = await client.key("c").request(Hold())
            order.append("asked")
            return total

        @clstr.handles(Add)
        async def add(self, _message: Add, _context: clstr.Context) -> Total:
            order.append("added")
            return Total(1)

    class Others(clstr.Actor):
        @clstr.handles(Visit)
        async def visit(self, _message: Visit, _context: clstr.Context) -> Total:
            asked.set()
            await given_up.wait()  # until then A awaits this answer, and what B sends it comes in at once
            try:
                return await client.key("a").request(Add(1))
            except clstr.CallCycleError:
                order.append("cycle")
                raise
            finally:
                answered.set()

        @clstr.handles(Hold)
        async def hold(self, _message: Hold, _context: clstr.Context) -> Total:
            for _ in range(10):  # so that the message from B is there, and would have come in
                await client.shard(0).get_node_info()
            return Total(0)

    transport = await connect()
    client = clstr.Client(transport, num_shards=NUM_SHARDS)
    router = clstr.Router()
    router.include(clstr.ActorHandler(First))
    router.include(clstr.ActorHandler(Others))
    async with clstr.Node(transport, router, shards=range(NUM_SHARDS)):
        await asyncio.wait_for(client.key("a").request(Ask(), timeout=30), 30)
        await asyncio.wait_for(answered.wait(), 30)
    assert order == ["asked", "added"]


async def test_a_released_shard_stores_its_state_before_another_node_has_it(connect: Connect) -> None:
    handlers = {node_id: clstr.ActorHandler(Tally) for node_id in NODES}
    transport = await connect()
    client = clstr.Client(transport, num_shards=NUM_SHARDS, timeout=60)
    shard = clstr.shard_for_key("a", NUM_SHARDS)
    async with (
        clstr.Node(await connect(), handlers["node-0"], shards=[shard]) as first,
        clstr.Node(await connect(), handlers["node-1"], shards=[]) as second,
    ):
        for _ in range(3):
            await client.key("a").request(Add(1))
        await first.release([shard])
        assert Tally.stored == {"a": 3}
        await second.acquire([shard])
        assert (await client.key("a").request(Add(1))).value == 4


async def test_a_message_that_middleware_kept_beyond_the_drain_starts_no_actor_there(connect: Connect) -> None:
    """The sender is told that another node owns the shard, and asks that one."""
    arrived, go_on = asyncio.Event(), asyncio.Event()
    started: list[str] = []

    class Where(clstr.Actor):
        @clstr.handles(Add)
        async def add(self, _message: Add, context: clstr.Context) -> Total:
            started.append(context.node_id)
            return Total(1)

    async def keep(envelope: clstr.Envelope, following: clstr.Handler) -> bytes | None:
        arrived.set()
        await go_on.wait()
        return await following(envelope)

    transport = await connect()
    client = clstr.Client(transport, num_shards=NUM_SHARDS, timeout=60)
    shard = clstr.shard_for_key("a", NUM_SHARDS)
    handlers = [clstr.ActorHandler(Where), clstr.ActorHandler(Where)]
    async with (
        asyncio.timeout(60),
        clstr.Node(
            await connect(drain_timeout=0.1), handlers[0], shards=[shard], node_id="first", middleware=[keep]
        ) as first,
        clstr.Node(await connect(), handlers[1], shards=[], node_id="second") as second,
    ):
        answer = asyncio.create_task(client.key("a").request(Add(1)))
        await arrived.wait()
        report = await first.release([shard])
        assert report.running == (f"shard {shard}, type 'Add'",)
        await second.acquire([shard])
        go_on.set()
        assert await answer == Total(1)
        assert started == ["second"]
        assert [len(handler) for handler in handlers] == [0, 1]


async def test_a_cycle_through_two_kinds_of_actors_on_one_node_is_seen(connect: Connect) -> None:
    transport = await connect()
    client = clstr.Client(transport, num_shards=NUM_SHARDS, timeout=60)

    class Audit(clstr.Actor):
        @clstr.handles(Check)
        async def check(self, message: Check, _context: clstr.Context) -> Total:
            if message.comes_back:
                return await client.key("a").request(Visit([]))
            return Total(1)

    class Account(clstr.Actor):
        @clstr.handles(Visit)
        async def visit(self, message: Visit, _context: clstr.Context) -> Total:
            return await client.key("a").request(Check(comes_back="back" in message.path))

    async with AsyncExitStack() as stack:
        for node_id in NODES:
            router = clstr.Router()
            router.include(clstr.ActorHandler(Account))
            router.include(clstr.ActorHandler(Audit))
            node = clstr.Node(await connect(), router, node_id=node_id, nodes=NODES, num_shards=NUM_SHARDS)
            await stack.enter_async_context(node)
        async with asyncio.timeout(10):
            assert (await client.key("a").request(Visit([]))).value == 1  # the same key, and no cycle
            with pytest.raises(clstr.HandlerError) as caught:
                await client.key("a").request(Visit(["back"]))
        assert "CallCycleError" in str(caught.value)
        assert "Account:a -> Audit:a -> Account:a" in str(caught.value)


async def test_stops_that_ask_each_other_do_not_wait_for_their_timeouts(connect: Connect) -> None:
    transport = await connect()
    client = clstr.Client(transport, num_shards=NUM_SHARDS, timeout=60)
    others = {"a": "b", "b": "a"}
    asking: set[str] = set()
    both = asyncio.Event()
    errors: list[clstr.ClstrError] = []

    class Partner(clstr.Actor):
        async def on_stop(self) -> None:
            if self.key in asking:
                return
            asking.add(self.key)
            if len(asking) == len(others):
                both.set()
            await both.wait()
            try:
                await client.key(others[self.key]).request(Check(comes_back=False))
            except clstr.ClstrError as error:
                errors.append(error)

        @clstr.handles(Check)
        async def check(self, _message: Check, _context: clstr.Context) -> Total:
            return Total(1)

    async with AsyncExitStack() as stack:
        handlers = [clstr.ActorHandler(Partner) for _ in NODES]
        for node_id, handler in zip(NODES, handlers, strict=True):
            node = clstr.Node(await connect(), handler, node_id=node_id, nodes=NODES, num_shards=NUM_SHARDS)
            await stack.enter_async_context(node)
        for key in others:
            await client.key(key).request(Check(comes_back=False))
        async with asyncio.timeout(5):
            await asyncio.gather(*(handler.release_shards(range(NUM_SHARDS)) for handler in handlers))
    assert errors
    assert {type(error) for error in errors} == {clstr.CallCycleError}


async def test_what_waits_for_its_turn_when_a_node_has_drained_is_refused_and_what_runs_is_stored(
    connect: Connect,
) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    events: list[str] = []

    class Slow(clstr.Actor):
        async def on_stop(self) -> None:
            events.append("stored")

        @clstr.handles(Add)
        async def add(self, message: Add, _context: clstr.Context) -> Total:
            events.append(f"handled {message.amount}")
            started.set()
            await go_on.wait()
            return Total(message.amount)

    server, transport = await connect(drain_timeout=0.2), await connect()
    client = clstr.Client(transport, num_shards=NUM_SHARDS, timeout=60)
    shard = clstr.shard_for_key("a", NUM_SHARDS)
    async with clstr.Node(server, clstr.ActorHandler(Slow), shards=[shard]) as node:
        running = asyncio.create_task(client.key("a").request(Add(1)))
        async with asyncio.timeout(10):
            await started.wait()
        waiting = [asyncio.create_task(client.key("a").request(Add(number))) for number in (2, 3)]
        async with asyncio.timeout(10):
            while server_waits(server) < 3:  # noqa: ASYNC110 -- nothing tells when a message has arrived
                await asyncio.sleep(0)
        release = asyncio.create_task(node.release([shard]))
        async with asyncio.timeout(10):
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        for error in outcomes:
            assert isinstance(error, clstr.DrainingError)
            assert not error.maybe_executed
        assert not release.done()  # the state is not stored yet
        go_on.set()
        assert (await running).value == 1
        await release
        assert events == ["handled 1", "stored"]


def server_waits(server: clstr.Transport) -> int:
    """Return how many messages have arrived and not ended."""
    assert isinstance(server, Engine)
    return len(server.dispatcher.running())
