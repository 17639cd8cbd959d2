"""`clstr._node.node`: a node's life, the messages that it takes, and what it tells of them."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from clstr._client.client import Client
from clstr._context import Current, is_refusal_of, refuse
from clstr._messages.envelope import KEY_HEADER, Envelope
from clstr._messages.node_info import NodeInfo
from clstr._node.metrics import Metrics
from clstr._node.node import Node
from clstr._routing.hashing import MAX_SHARDS, shards_for_node
from clstr.abc import CloseReport, Handler, ReleaseReport, ServerTransport, Subscription, Transport
from clstr.errors import (
    AccessDeniedError,
    ConnectionLostError,
    HandlerError,
    InvalidEnvelopeError,
    NoShardSubscriberError,
    NotOwnerError,
    StateNotStoredError,
    UnknownMessageError,
)

Handling = Callable[..., AbstractContextManager[Current]]


@pytest.fixture(autouse=True)
async def guard() -> AsyncIterator[None]:
    """Nothing here takes time."""
    async with asyncio.timeout(10):
        yield


async def answer(envelope: Envelope) -> bytes:
    return b"answer"


def message(shard: int = 1, type_: str = "Get", **headers: str) -> Envelope:
    return Envelope(shard=shard, type=type_, data=b"secret data", headers=headers)


class Held(Subscription):
    """A subscription whose every step the test can hold up, or fail."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.draining = asyncio.Event()
        self.drained = asyncio.Event()
        self.drained.set()
        self.error: Exception | None = None
        self.report = ReleaseReport()
        self.closed = 0

    @property
    def shards(self) -> frozenset[int]:
        return frozenset(self.held)

    async def add(self, shards: Iterable[int]) -> None:
        if self.error is not None:
            raise self.error
        self.held.update(shards)

    async def remove(self, shards: Iterable[int]) -> ReleaseReport:
        self.draining.set()
        await self.drained.wait()
        if self.error is not None:
            raise self.error
        self.held.difference_update(shards)
        return self.report

    async def aclose(self) -> ReleaseReport:
        self.closed += 1
        return await self.remove(self.shards)


class HeldTransport(ServerTransport):
    """A transport that hands out one `Held`."""

    def __init__(self) -> None:
        self.subscription = Held()
        self.subscribing = asyncio.Event()
        self.subscribed = asyncio.Event()
        self.subscribed.set()
        self.error: Exception | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.handler: Handler = answer

    async def subscribe(self, shards: Iterable[int], handler: Handler) -> Subscription:
        self.subscribing.set()
        await self.subscribed.wait()
        if self.error is not None:
            raise self.error
        self.handler = handler
        await self.subscription.add(shards)
        return self.subscription

    async def wait_closed(self) -> None:
        await asyncio.shield(self.ended)

    async def aclose(self) -> CloseReport:
        return CloseReport()


@pytest.fixture
async def held() -> HeldTransport:
    return HeldTransport()


class Recorder(Metrics):
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def handler_completed(self, message_type: str, *, success: bool) -> None:
        self.calls.append(("handler_completed", message_type, success))

    def handlers_active(self, node_id: str, count: int) -> None:
        self.calls.append(("handlers_active", node_id, count))

    def shards_owned(self, node_id: str, count: int) -> None:
        self.calls.append(("shards_owned", node_id, count))


class TestMaking:
    def test_shards_are_given(self, transport: Transport) -> None:
        assert Node(transport, answer, shards=[3, 1, 3]).shards == {1, 3}
        assert Node(transport, answer, shards=range(4), num_shards=4).shards == {0, 1, 2, 3}
        assert Node(transport, answer, shards=[]).shards == frozenset()

    def test_or_computed_from_the_nodes(self, transport: Transport) -> None:
        nodes = ["node-1", "node-2", "node-3"]
        node = Node(transport, answer, nodes=nodes, node_id="node-1", num_shards=16, seed="seed")
        assert node.shards == set(shards_for_node("node-1", nodes, 16, "seed")) == {0, 7, 11, 13, 14, 15}
        assert Node(transport, answer, nodes=iter(nodes), node_id="node-1", num_shards=16).shards

    def test_a_node_without_an_id_gets_one(self, transport: Transport) -> None:
        ids = {Node(transport, answer, shards=[1]).node_id for _ in range(50)}
        assert len(ids) == 50
        assert all(re.fullmatch(r"node-[A-Za-z0-9_-]{6}", each) for each in ids)
        assert Node(transport, answer, shards=[1], node_id="mine").node_id == "mine"

    def test_its_repr_names_id_and_number_of_shards(self, transport: Transport) -> None:
        assert repr(Node(transport, answer, shards=[1, 2], node_id="mine")) == "Node('mine', 2 shards)"

    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({}, TypeError, "needs either shards.*or nodes"),
            ({"shards": [1], "nodes": ["a"]}, TypeError, "needs either shards.*or nodes"),
            ({"nodes": ["a"]}, TypeError, "needs its node_id.*and num_shards"),
            ({"nodes": ["a"], "node_id": "a"}, TypeError, "needs its node_id.*and num_shards"),
            ({"nodes": ["a"], "num_shards": 4}, TypeError, "needs its node_id.*and num_shards"),
            ({"nodes": ["a"], "num_shards": 4, "node_id": "b"}, ValueError, "'b' is not in node_ids"),
            ({"nodes": ["a", "a"], "num_shards": 4, "node_id": "a"}, ValueError, "twice"),
            ({"nodes": ["a", ""], "num_shards": 4, "node_id": "a"}, ValueError, "empty"),
            ({"nodes": "ab", "num_shards": 4, "node_id": "a"}, TypeError, "several node ids"),
            ({"shards": [1], "node_id": ""}, ValueError, "node id is empty"),
            ({"shards": [1], "node_id": "a\n"}, ValueError, "holds control characters"),
            ({"shards": [1], "node_id": 7}, TypeError, "node id must be a str"),
            ({"shards": [4], "num_shards": 4}, ValueError, "shard 4 is out of range: it must be 0 to 3"),
            ({"shards": [-1]}, ValueError, "shard -1 is out of range"),
            ({"shards": [MAX_SHARDS]}, ValueError, "is out of range"),
            ({"shards": ["1"]}, TypeError, "shard must be an int, not '1'"),
            ({"shards": [True]}, TypeError, "shard must be an int, not True"),
            ({"shards": [1], "num_shards": 0}, ValueError, "num_shards must be between 1"),
            ({"shards": [1], "num_shards": "4"}, TypeError, "num_shards must be an int"),
            ({"shards": [1], "seed": None}, TypeError, "seed must be a str"),
        ],
        ids=str,
    )
    def test_wrong_options_make_no_node(
        self, transport: Transport, options: dict[str, Any], error: type[Exception], match: str
    ) -> None:
        with pytest.raises(error, match=match):
            Node(transport, answer, **options)

    @pytest.mark.parametrize("wrong", [None, "memory://", object()], ids=["none", "a URL", "an object"])
    def test_it_needs_an_open_transport(self, wrong: Any) -> None:
        with pytest.raises(TypeError, match=r"transport must be an open transport.*clstr\.connect"):
            Node(wrong, answer, shards=[1])

    @pytest.mark.parametrize("handler", [None, b"answer"], ids=repr)
    def test_it_needs_a_handler(self, transport: Transport, handler: Any) -> None:
        with pytest.raises(TypeError, match="handler must be an async function"):
            Node(transport, handler, shards=[1])

    def test_its_metrics_derive_from_the_class(self, transport: Transport) -> None:
        wrong: Any = object()  # a user's mistake that types would show
        with pytest.raises(TypeError, match=r"subclass of clstr\.Metrics, not object"):
            Node(transport, answer, shards=[1], metrics=wrong)


class TestLife:
    async def test_it_serves_until_the_block_ends(self, transport: Transport) -> None:
        node = Node(transport, answer, shards=[1, 2])
        assert not node.ready.is_set()
        async with node as same:
            assert same is node
            assert node.ready.is_set()
            assert await transport.request(message(2)) == b"answer"
        assert not node.ready.is_set()
        assert node.shards == frozenset()
        with pytest.raises(NoShardSubscriberError):
            await transport.request(message(2))

    async def test_run_serves_until_it_is_stopped(self, transport: Transport) -> None:
        node = Node(transport, answer, shards=[1])
        running = asyncio.create_task(node.run())
        await node.ready.wait()
        assert await transport.request(message()) == b"answer"
        node.stop()
        node.stop()
        await running
        with pytest.raises(NoShardSubscriberError):
            await transport.request(message())

    async def test_run_ends_when_the_node_is_closed(self, transport: Transport) -> None:
        node = Node(transport, answer, shards=[1])
        running = asyncio.create_task(node.run())
        await node.ready.wait()
        await node.aclose()
        await running

    async def test_run_ends_when_the_transport_is_closed(self, transport: Transport) -> None:
        node = Node(transport, answer, shards=[1])
        running = asyncio.create_task(node.run())
        await node.ready.wait()
        await transport.aclose()
        await running

    async def test_a_node_that_was_stopped_before_it_ran_ends_at_once(self, transport: Transport) -> None:
        node = Node(transport, answer, shards=[1])
        node.stop()
        await node.run()

    async def test_run_raises_what_ended_the_link_for_good(self, held: HeldTransport) -> None:
        node = Node(held, answer, shards=[1])
        running = asyncio.create_task(node.run())
        await node.ready.wait()
        held.ended.set_exception(ConnectionLostError("for good"))
        with pytest.raises(ConnectionLostError, match="for good"):
            await running
        assert held.subscription.closed == 1

    async def test_what_ended_the_link_is_not_hidden_by_a_failing_drain(
        self, held: HeldTransport, caplog: pytest.LogCaptureFixture
    ) -> None:
        node = Node(held, answer, shards=[1])
        running = asyncio.create_task(node.run())
        await node.ready.wait()
        held.subscription.error = ConnectionLostError("while draining")
        held.ended.set_exception(ConnectionLostError("for good"))
        with pytest.raises(ConnectionLostError, match="for good"):
            await running
        assert "did not close cleanly" in caplog.text

    async def test_a_drain_that_fails_is_an_error(self, held: HeldTransport) -> None:
        node = Node(held, answer, shards=[1])
        with pytest.raises(ConnectionLostError, match="while draining"):
            async with node:
                held.subscription.error = ConnectionLostError("while draining")
        assert node.shards == frozenset()

    async def test_a_cancelled_run_drains_first(self, held: HeldTransport) -> None:
        node = Node(held, answer, shards=[1])
        running = asyncio.create_task(node.run())
        await node.ready.wait()
        held.subscription.drained.clear()
        running.cancel()
        await held.subscription.draining.wait()
        assert not running.done()
        assert not node.ready.is_set()
        assert node.shards == {1}
        held.subscription.drained.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert node.shards == frozenset()

    async def test_a_second_cancellation_ends_the_draining(self, held: HeldTransport) -> None:
        node = Node(held, answer, shards=[1])
        running = asyncio.create_task(node.run())
        await node.ready.wait()
        held.subscription.drained.clear()
        running.cancel()
        await held.subscription.draining.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not held.subscription.drained.is_set()

    async def test_a_hard_stop_says_for_how_many_shards_the_handler_still_keeps_state(
        self, held: HeldTransport, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Keeper:
            async def __call__(self, envelope: Envelope) -> bytes:
                return b""

            async def release_shards(self, shards: Iterable[int]) -> None:
                raise AssertionError("it drains")

        node = Node(held, Keeper(), node_id="n", shards=[1, 2])
        running = asyncio.create_task(node.run())
        await node.ready.wait()
        held.subscription.drained.clear()
        running.cancel()
        await held.subscription.draining.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
            "node n was cancelled while it drained: what its handler keeps for 2 shards was not released"
        ]

    @pytest.mark.parametrize("end", ["aclose", "release"])
    async def test_what_the_handler_could_not_store_is_an_error_and_the_shards_are_given_up(
        self, transport: Transport, end: str
    ) -> None:
        class Failing:
            async def __call__(self, envelope: Envelope) -> bytes:
                return b""

            async def release_shards(self, shards: Iterable[int]) -> None:
                raise StateNotStoredError(["ada"])

        node = Node(transport, Failing(), shards=[1])
        await node.__aenter__()
        with pytest.raises(StateNotStoredError) as caught:
            await (node.aclose() if end == "aclose" else node.release([1]))
        assert caught.value.keys == ("ada",)
        assert node.shards == frozenset()
        with pytest.raises(NoShardSubscriberError):
            await transport.request(message())
        with pytest.raises(StateNotStoredError):
            await node.aclose()

    async def test_messages_that_start_while_it_drains_are_handled(self, held: HeldTransport) -> None:
        node = Node(held, answer, shards=[1])
        async with node:
            held.subscription.drained.clear()
            closing = asyncio.create_task(node.aclose())
            await held.subscription.draining.wait()
            assert await held.handler(message()) == b"answer"
            held.subscription.drained.set()
            await closing

    async def test_run_leaves_no_task(self, transport: Transport) -> None:
        before = asyncio.all_tasks()
        node = Node(transport, answer, shards=[1])
        running = asyncio.create_task(node.run())
        await node.ready.wait()
        running.cancel()
        await asyncio.wait((running,))
        assert asyncio.all_tasks() == before

    async def test_aclose_may_be_called_twice_and_before_the_start(self, held: HeldTransport) -> None:
        node = Node(held, answer, shards=[1])
        await node.aclose()
        await node.aclose()
        with pytest.raises(RuntimeError, match="is closed: make a new one"):
            await node.run()
        assert not held.subscribing.is_set()

    async def test_a_node_runs_once(self, transport: Transport) -> None:
        async with (node := Node(transport, answer, shards=[1])):
            with pytest.raises(RuntimeError, match="a node runs once"):
                await node.run()
            assert await transport.request(message()) == b"answer"
        with pytest.raises(RuntimeError, match="is closed"):
            await node.run()

    async def test_a_start_that_fails_leaves_nothing_and_may_be_repeated(self, held: HeldTransport) -> None:
        held.error = AccessDeniedError("no")
        node = Node(held, answer, shards=[1])
        with pytest.raises(AccessDeniedError):
            await node.run()
        assert not node.ready.is_set()
        assert held.subscription.held == set()
        held.error = None
        async with node:
            assert held.subscription.held == {1}

    async def test_a_start_that_is_cancelled_leaves_nothing(self, held: HeldTransport) -> None:
        held.subscribed.clear()
        running = asyncio.create_task(Node(held, answer, shards=[1]).run())
        await held.subscribing.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert held.subscription.held == set()

    async def test_a_node_closed_while_it_starts_does_not_serve(self, held: HeldTransport) -> None:
        held.subscribed.clear()
        node = Node(held, answer, shards=[1])
        running = asyncio.create_task(node.run())
        await held.subscribing.wait()
        await node.aclose()
        held.subscribed.set()
        with pytest.raises(RuntimeError, match="was closed while it started"):
            await running
        assert held.subscription.held == set()
        assert not node.ready.is_set()

    async def test_a_handler_may_stop_its_node(self, transport: Transport) -> None:
        async def stop(envelope: Envelope) -> None:
            node.stop()

        node = Node(transport, stop, shards=[1])
        running = asyncio.create_task(node.run())
        await node.ready.wait()
        assert await transport.request(message()) == b""
        await running


class TestShards:
    async def test_shards_are_acquired_and_released_as_it_runs(self, transport: Transport) -> None:
        async with Node(transport, answer, shards=[1], num_shards=8) as node:
            await node.acquire([2, 3, 1])
            assert node.shards == {1, 2, 3}
            assert await transport.request(message(3)) == b"answer"
            await node.release(iter([1, 2, 7]))
            assert node.shards == {3}
            with pytest.raises(NoShardSubscriberError):
                await transport.request(message(1))

    @pytest.mark.parametrize("change", [Node.acquire, Node.release], ids=["acquire", "release"])
    async def test_only_shards_of_the_cluster_can_change_hands(self, transport: Transport, change: Any) -> None:
        async with Node(transport, answer, shards=[1], num_shards=8) as node:
            with pytest.raises(ValueError, match="shard 8 is out of range"):
                await change(node, [2, 8])
            with pytest.raises(TypeError, match="shard must be an int"):
                await change(node, [2, "1"])
            assert node.shards == {1}

    @pytest.mark.parametrize("change", [Node.acquire, Node.release], ids=["acquire", "release"])
    async def test_only_a_node_that_runs_changes_its_shards(self, transport: Transport, change: Any) -> None:
        node = Node(transport, answer, shards=[1])
        with pytest.raises(RuntimeError, match="does not run"):
            await change(node, [2])
        async with node:
            pass
        with pytest.raises(RuntimeError, match="does not run"):
            await change(node, [2])

    async def test_an_acquisition_that_fails_changes_nothing(self, held: HeldTransport) -> None:
        async with Node(held, answer, shards=[1]) as node:
            held.subscription.error = ConnectionLostError("gone")
            with pytest.raises(ConnectionLostError):
                await node.acquire([1, 2])
            assert node.shards == {1}
            held.subscription.error = None

    async def test_a_release_that_fails_keeps_what_is_still_held(self, held: HeldTransport) -> None:
        async with Node(held, answer, shards=[1, 2]) as node:
            held.subscription.error = ConnectionLostError("gone")
            with pytest.raises(ConnectionLostError):
                await node.release([1])
            assert node.shards == {1, 2}
            held.subscription.error = None

    async def test_messages_that_start_while_their_shard_is_released_are_handled(self, held: HeldTransport) -> None:
        async with Node(held, answer, shards=[1, 2]) as node:
            held.subscription.drained.clear()
            releasing = asyncio.create_task(node.release([1]))
            await held.subscription.draining.wait()
            assert await held.handler(message(1)) == b"answer"
            held.subscription.drained.set()
            await releasing
            with pytest.raises(NotOwnerError):
                await held.handler(message(1))


class TestMessages:
    async def test_a_handler_answers(self, transport: Transport) -> None:
        seen: list[Envelope] = []

        async def handler(envelope: Envelope) -> None:
            seen.append(envelope)

        async with Node(transport, handler, shards=[1]):
            assert await transport.request(message(a="1")) == b""
        assert seen == [message(a="1")]

    async def test_node_info_is_answered_without_the_handler(self, transport: Transport) -> None:
        async def never(envelope: Envelope) -> bytes:
            raise AssertionError

        client = Client(transport, num_shards=8)
        async with Node(transport, never, shards=range(7, -1, -1), node_id="n", num_shards=8) as node:
            assert await client.key("a").get_node_info() == NodeInfo("n", list(range(8)))
            await node.release([0, 2])
            assert await client.shard(1).get_node_info() == NodeInfo("n", [1, 3, 4, 5, 6, 7])

    async def test_a_shard_that_it_does_not_own_is_refused(self, transport: Transport) -> None:
        async with Node(transport, answer, shards=[1]) as node:
            await transport.subscribe([2], node._handle)
            for type_ in ("Get", "clstr.node.info"):
                with pytest.raises(NotOwnerError) as caught:
                    await transport.request(message(2, type_))
                assert (caught.value.shard, caught.value.maybe_executed) == (2, False)

    @pytest.mark.parametrize(("num_shards", "seed"), [(63, "s"), (64, "t")], ids=["num_shards", "seed"])
    async def test_a_client_with_another_idea_of_the_cluster_is_told(
        self, transport: Transport, num_shards: int, seed: str
    ) -> None:
        right, wrong = Client(transport, num_shards=64, seed="s"), Client(transport, num_shards=num_shards, seed=seed)
        sent, expected = wrong.key("secret-key").shard, right.key("secret-key").shard
        assert sent != expected
        async with Node(transport, answer, shards=range(64), num_shards=64, seed="s", node_id="n"):
            assert await right.request_key("secret-key", "Get") == b"answer"
            with pytest.raises(InvalidEnvelopeError) as caught:
                await wrong.request_key("secret-key", "Get")
        assert (caught.value.field, caught.value.maybe_executed) == ("shard", False)
        for fact in (f"is {sent},", f"maps to {expected} at node n", "num_shards=64", "seed='s'"):
            assert fact in str(caught.value)
        assert "secret-key" not in str(caught.value)

    async def test_without_num_shards_keys_are_not_checked(self, transport: Transport) -> None:
        async with Node(transport, answer, shards=[1]):
            assert await transport.request(message(1, **{KEY_HEADER: "any"})) == b"answer"

    async def test_messages_by_shard_carry_no_key_to_check(self, transport: Transport) -> None:
        async with Node(transport, answer, shards=[1], num_shards=64):
            assert await transport.request(message(1)) == b"answer"


class TestLogs:
    async def test_what_a_handler_raises_is_logged_once_without_the_message(
        self, transport: Transport, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def fail(envelope: Envelope) -> bytes:
            raise ValueError("no")

        caplog.set_level(logging.DEBUG)
        async with Node(transport, fail, shards=[1], node_id="n"):
            with pytest.raises(HandlerError, match="ValueError: no"):
                await transport.request(message(1, header="secret value"))
        (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert (record.name, record.levelname) == ("clstr.node", "ERROR")
        assert record.getMessage() == "the handler of Get failed on shard 1 of node n"
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], ValueError)
        facts = vars(record)
        assert (facts["clstr_node"], facts["clstr_shard"], facts["clstr_type"]) == ("n", 1, "Get")
        assert "secret" not in caplog.text

    async def test_refusals_are_not_logged(self, transport: Transport, caplog: pytest.LogCaptureFixture) -> None:
        async def refusing(envelope: Envelope) -> bytes:
            raise refuse(UnknownMessageError("Get", ""))

        async with Node(transport, refusing, shards=[1]):
            with pytest.raises(UnknownMessageError):
                await transport.request(message())
        assert not [each for each in caplog.records if each.levelno >= logging.WARNING]

    async def test_another_logger_may_be_given(self, transport: Transport, caplog: pytest.LogCaptureFixture) -> None:
        async def fail(envelope: Envelope) -> bytes:
            raise ValueError("no")

        async with Node(transport, fail, shards=[1], logger=logging.getLogger("mine")):
            with pytest.raises(HandlerError):
                await transport.request(message())
        assert {record.name for record in caplog.records} == {"mine"}


class TestMetrics:
    async def test_handlers_and_shards_are_measured(self, transport: Transport) -> None:
        async def handler(envelope: Envelope) -> bytes:
            if envelope.type == "Fail":
                raise ValueError("no")
            return b""

        metrics = Recorder()
        async with Node(transport, handler, shards=[1], node_id="n", metrics=metrics) as node:
            await transport.request(message())
            with pytest.raises(HandlerError):
                await transport.request(message(1, "Fail"))
            await transport.request(message(1, "clstr.node.info"))
            await node.acquire([2, 3])
            await node.release([1])
        await node.aclose()
        active = [("handlers_active", "n", 1), ("handlers_active", "n", 0)]
        assert metrics.calls == [
            ("shards_owned", "n", 1),
            *active,
            ("handler_completed", "Get", True),
            *active,
            ("handler_completed", "Fail", False),
            *active,
            ("handler_completed", "clstr.node.info", True),
            ("shards_owned", "n", 3),
            ("shards_owned", "n", 2),
            ("shards_owned", "n", 0),
        ]

    async def test_messages_that_it_refuses_are_no_handlers(self, transport: Transport) -> None:
        metrics = Recorder()
        async with Node(transport, answer, shards=[1], node_id="n", metrics=metrics) as node:
            await transport.subscribe([2], node._handle)
            with pytest.raises(NotOwnerError):
                await transport.request(message(2))
        assert metrics.calls == [("shards_owned", "n", 1), ("shards_owned", "n", 0)]


class Stateful:
    """A handler that keeps state for each shard."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.released: list[tuple[frozenset[int], frozenset[int]]] = []

    async def __call__(self, envelope: Envelope) -> bytes:
        return b""

    async def release_shards(self, shards: frozenset[int]) -> None:
        """Note the shards, and those that messages arrive for still."""
        self.released.append((shards, self.held.shards))


class TestHandlersWithState:
    async def test_released_shards_are_told_after_their_last_message(self, held: HeldTransport) -> None:
        handler = Stateful(held.subscription)
        async with Node(held, handler, shards=[1, 2, 3]) as node:
            held.subscription.drained.clear()
            release = asyncio.create_task(node.release([1, 2]))
            await held.subscription.draining.wait()
            assert handler.released == []
            held.subscription.drained.set()
            await release
            assert handler.released == [(frozenset({1, 2}), frozenset({3}))]

    async def test_a_node_counts_a_shard_as_its_own_until_its_state_is_released(self, held: HeldTransport) -> None:
        seen: list[frozenset[int]] = []

        class Looking(Stateful):
            async def release_shards(self, shards: frozenset[int]) -> None:
                seen.append(node.shards)

        node = Node(held, Looking(held.subscription), shards=[1, 2])
        async with node:
            await node.release([1])
            assert node.shards == {2}
        assert seen == [{1, 2}, {2}]
        assert node.shards == frozenset()

    async def test_the_end_releases_every_shard_after_the_last_message(self, held: HeldTransport) -> None:
        handler = Stateful(held.subscription)
        async with Node(held, handler, shards=[1, 2]):
            assert handler.released == []
        assert handler.released == [(frozenset({1, 2}), frozenset())]

    async def test_a_subscription_that_fails_to_let_go_keeps_its_state(self, held: HeldTransport) -> None:
        handler = Stateful(held.subscription)
        async with Node(held, handler, shards=[1, 2]) as node:
            held.subscription.error = ConnectionLostError("gone")
            with pytest.raises(ConnectionLostError):
                await node.release([1])
            assert handler.released == []
            assert node.shards == {1, 2}
            held.subscription.error = None

    async def test_a_release_that_is_cancelled_goes_on_and_an_acquisition_waits_for_it(
        self, held: HeldTransport
    ) -> None:
        """What the handler keeps from before another node owned the shard must not answer again."""
        events: list[str] = []
        has_begun, go_on = asyncio.Event(), asyncio.Event()

        class Slow(Stateful):
            async def release_shards(self, shards: frozenset[int]) -> None:
                has_begun.set()
                await go_on.wait()
                events.append(f"released {sorted(shards)}, held {sorted(self.held.shards)}")

        async with Node(held, Slow(held.subscription), shards=[1, 2, 3]) as node:
            release = asyncio.create_task(node.release([1]))
            await has_begun.wait()
            release.cancel()
            await asyncio.wait({release})
            assert release.cancelled()
            other = asyncio.create_task(node.acquire([4]))
            acquire = asyncio.create_task(node.acquire([1, 5]))
            await other
            assert node.shards == {1, 2, 3, 4}
            assert held.subscription.shards == {2, 3, 4}
            go_on.set()
            await acquire
            assert node.shards == held.subscription.shards == {1, 2, 3, 4, 5}
            assert events == ["released [1], held [2, 3, 4]"]

    async def test_a_release_that_is_cancelled_while_its_messages_end_goes_on(self, held: HeldTransport) -> None:
        handler = Stateful(held.subscription)
        async with Node(held, handler, shards=[1, 2]) as node:
            held.subscription.drained.clear()
            release = asyncio.create_task(node.release([1]))
            await held.subscription.draining.wait()
            release.cancel()
            await asyncio.wait({release})
            assert node.shards == {1, 2}
            held.subscription.drained.set()
            await node.acquire([1])
            [(released, still_held)] = handler.released
            assert (released, still_held, node.shards) == (frozenset({1}), frozenset({2}), frozenset({1, 2}))

    async def test_a_release_that_fails_after_its_caller_was_cancelled_is_logged(
        self, held: HeldTransport, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with Node(held, answer, shards=[1]) as node:
            held.subscription.drained.clear()
            release = asyncio.create_task(node.release([1]))
            await held.subscription.draining.wait()
            release.cancel()
            await asyncio.wait({release})
            held.subscription.error = ConnectionLostError("gone")
            held.subscription.drained.set()
            with pytest.raises(ConnectionLostError):
                await node.acquire([1])
            held.subscription.error = None
        [record] = caplog.records
        assert (record.name, record.getMessage()) == ("clstr.node", "a release whose caller was cancelled failed")

    @pytest.mark.parametrize("by", ["release", "release of another", "acquire", "end"])
    async def test_a_handler_that_fails_to_release_is_asked_again(self, held: HeldTransport, by: str) -> None:
        asked: list[frozenset[int]] = []

        class Failing(Stateful):
            async def release_shards(self, shards: frozenset[int]) -> None:
                asked.append(shards)
                if len(asked) == 1:
                    raise ValueError("no database")

        async with Node(held, Failing(held.subscription), shards=[1, 2]) as node:
            with pytest.raises(ValueError, match="no database"):
                await node.release([1])
            assert node.shards == {2}
            if by == "acquire":
                await node.acquire([1, 3])
                assert node.shards == {1, 2, 3}
            elif by.startswith("release"):
                await node.release([1] if by == "release" else [2])
        assert asked[1] == {"release": {1}, "release of another": {1, 2}, "acquire": {1}, "end": {1, 2}}[by]

    async def test_a_handler_that_fails_to_release_again_keeps_the_shard_from_coming_back(
        self, held: HeldTransport
    ) -> None:
        class Failing(Stateful):
            async def release_shards(self, shards: frozenset[int]) -> None:
                if shards == {1}:
                    raise ValueError("no database")

        async with Node(held, Failing(held.subscription), shards=[1, 2]) as node:
            for change in (node.release, node.acquire):
                with pytest.raises(ValueError, match="no database"):
                    await change([1])
            assert node.shards == held.subscription.shards == {2}

    async def test_a_node_that_is_closed_while_an_acquisition_waits_acquires_nothing(self, held: HeldTransport) -> None:
        node = Node(held, answer, shards=[1, 2])
        async with node:
            held.subscription.drained.clear()
            release = asyncio.create_task(node.release([1]))
            await held.subscription.draining.wait()
            acquire = asyncio.create_task(node.acquire([1]))
            closing = asyncio.create_task(node.aclose())
            await asyncio.sleep(0)
            held.subscription.drained.set()
            await asyncio.gather(release, closing)
            with pytest.raises(RuntimeError, match="does not run"):
                await acquire
        assert held.subscription.shards == frozenset()

    async def test_what_still_runs_after_the_drain_is_reported(self, held: HeldTransport) -> None:
        held.subscription.report = ReleaseReport(running=("shard 1, type 'Get'",))
        node = Node(held, answer, shards=[1, 2])
        assert await node.aclose() == ReleaseReport()  # it was never started
        node = Node(held, answer, shards=[1, 2])
        async with node:
            assert await node.release([1]) == held.subscription.report
            assert await node.aclose() == held.subscription.report

    async def test_a_handler_behind_middleware_is_not_called_once_its_shard_was_released(
        self, held: HeldTransport, handling: Handling
    ) -> None:
        async def revoke(envelope: Envelope, following: Handler) -> bytes | None:
            inside.is_revoked = True  # as an engine does whose drain is over
            return await following(envelope)

        async with Node(held, answer, shards=[1], middleware=[revoke]):
            with handling(envelope=message(1)) as inside:
                with pytest.raises(NotOwnerError) as caught:
                    await held.handler(message(1))
                assert is_refusal_of(caught.value, inside)

    async def test_an_end_that_is_cancelled_leaves_the_state_to_the_next_call(self, held: HeldTransport) -> None:
        handler = Stateful(held.subscription)
        node = Node(held, handler, shards=[1])
        await node.__aenter__()
        held.subscription.drained.clear()
        closing = asyncio.create_task(node.aclose())
        await held.subscription.draining.wait()
        closing.cancel()
        await asyncio.wait({closing})
        held.subscription.drained.set()
        await node.aclose()
        assert handler.released == [(frozenset({1}), frozenset())]


class TestMistakes:
    async def test_what_fails_after_subscribing_leaves_nothing_subscribed(self, held: HeldTransport) -> None:
        class Broken(Metrics):
            def shards_owned(self, node_id: str, count: int) -> None:
                if count:
                    raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            async with Node(held, answer, shards=[1], metrics=Broken()):
                raise AssertionError("it started")
        assert held.subscription.held == set()

    async def test_closing_on_another_loop_is_refused_and_changes_nothing(self, held: HeldTransport) -> None:
        async with Node(held, answer, shards=[1]) as node:
            with pytest.raises(RuntimeError, match="runs on another event loop: close it there"):
                await asyncio.to_thread(lambda: asyncio.run(node.aclose()))
            assert node.ready.is_set()
            assert node.shards == {1}

    async def test_a_handler_that_is_not_async_is_told_so(self, transport: Transport) -> None:
        """At once, if it says what it returns."""

        def plain(_envelope: Envelope) -> bytes:
            return b"x"

        def silent(_envelope: Envelope) -> Any:  # Any: the mistake that this is about
            return b"x"

        with pytest.raises(TypeError, match=r"the handler must be async, not .*plain: write `async def`"):
            Node(transport, plain, shards=[1])  # type: ignore[arg-type]  # the mistake that this is about
        async with Node(transport, silent, shards=[1]):
            with pytest.raises(HandlerError, match="the handler is not async: write `async def`"):
                await transport.request(message())

    async def test_a_wrong_reply_is_logged_and_counted_as_a_failure(
        self, transport: Transport, caplog: pytest.LogCaptureFixture
    ) -> None:
        completed: list[bool] = []

        class Counting(Metrics):
            def handler_completed(self, message_type: str, *, success: bool) -> None:
                completed.append(success)

        async def wrong(_envelope: Envelope) -> Any:  # Any: the mistake that this is about
            return "text"

        async with Node(transport, wrong, shards=[1], metrics=Counting()):
            with pytest.raises(HandlerError, match="the handler returned str, not bytes or None"):
                await transport.request(message())
        assert completed == [False]
        assert [record.name for record in caplog.records if record.levelno == logging.ERROR] == ["clstr.node"]

    async def test_a_handler_that_cancels_itself_is_logged(
        self, transport: Transport, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def cancels_itself(_envelope: Envelope) -> bytes:
            raise asyncio.CancelledError

        async with Node(transport, cancels_itself, shards=[1]):
            with pytest.raises(asyncio.CancelledError):
                await transport.request(message())
        assert [record.name for record in caplog.records if record.levelno == logging.ERROR] == ["clstr.node"]
