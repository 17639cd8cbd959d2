"""The cluster for tests: what people test their applications on."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable
from typing import Any, ClassVar

import msgspec
import pytest

import clstr
from clstr_testing._cluster import Cluster, cluster

pytest.importorskip("clstr_memory")  # the wheel is tested beside clstr-core alone, too

KEYS = [f"user-{number}" for number in range(40)]
GUARD = 5.0  # seconds in which what comes "at once" comes; every timeout in here is far longer
FAR = 60.0


def naming(node_id: str) -> clstr.Handler:
    """Answer with the node's id."""

    async def handler(envelope: clstr.Envelope) -> bytes:
        return node_id.encode()

    return handler


class Stopped:
    """A handler that says when it starts, and waits to be told to go on."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended = asyncio.Event()
        self.count = 0
        self.cancelled = 0
        self._deaf = deaf

    async def __call__(self, envelope: clstr.Envelope) -> bytes:
        self.count += 1
        self.started.set()
        try:
            while not self.go_on.is_set():
                await self._wait()
        finally:
            self.ended.set()
        return envelope.data

    async def _wait(self) -> None:
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            if not self._deaf:
                raise


@pytest.fixture
async def named() -> AsyncIterator[Cluster]:
    """Three nodes that answer with their ids."""
    async with cluster(handler_of=naming) as running:
        yield running


async def ask(running: Cluster, key: str) -> str:
    async with asyncio.timeout(GUARD):
        return (await running.client.request_key(key, "Who", timeout=FAR)).decode()


async def outcome(call: Awaitable[bytes]) -> BaseException | bytes:
    async with asyncio.timeout(GUARD):
        try:
            return await call
        except clstr.ClstrError as error:
            return error


async def test_by_default_three_nodes_share_256_shards_by_rendezvous_hashing(named: Cluster) -> None:
    names = ["node-0", "node-1", "node-2"]
    assert list(named.nodes) == names
    for name, node in named.nodes.items():
        assert sorted(node.shards) == clstr.shards_for_node(name, names, 256, "seed")


async def test_each_key_is_answered_by_the_node_that_owner_names(named: Cluster) -> None:
    answers = {key: await ask(named, key) for key in KEYS}
    assert answers == {key: named.owner(key) for key in KEYS}
    assert set(answers.values()) == {"node-0", "node-1", "node-2"}


async def test_one_handler_may_serve_every_node() -> None:
    async def echo(envelope: clstr.Envelope) -> bytes:
        return envelope.data

    async with cluster(echo, nodes=2, num_shards=8, seed="") as running:
        assert await running.client.request_key("k", "Echo", b"data") == b"data"
        assert {len(running.nodes), running.num_shards} == {2, 8}
        assert clstr.shard_for_key("k", 8) in running.nodes[running.owner("k")].shards


async def test_two_clusters_do_not_meet(named: Cluster) -> None:
    async with cluster(handler_of=lambda node_id: naming(f"other {node_id}")) as other:
        assert await ask(other, "k") == f"other {other.owner('k')}"
        assert await ask(named, "k") == named.owner("k")


async def test_a_stopped_node_drains_and_leaves_its_shards_unowned(named: Cluster) -> None:
    owners = {key: named.owner(key) for key in KEYS}
    await named.stop("node-1")
    assert list(named.nodes) == ["node-0", "node-2"]
    lost = [key for key in KEYS if owners[key] == "node-1"]
    for key in lost:
        with pytest.raises(clstr.NoShardSubscriberError):
            named.owner(key)
        assert isinstance(await outcome(named.client.request_key(key, "Who")), clstr.NoShardSubscriberError)
    for key in set(KEYS) - set(lost):
        assert await ask(named, key) == owners[key] == named.owner(key)


async def test_stop_waits_for_the_message_that_runs() -> None:
    stopped = Stopped()
    async with cluster(stopped, nodes=1, drain_timeout=FAR) as running:
        request = asyncio.create_task(running.client.request_key("k", "T", b"done", timeout=FAR))
        await stopped.started.wait()
        stopping = asyncio.create_task(running.stop("node-0"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not stopping.done()
        stopped.go_on.set()
        assert await outcome(request) == b"done"
        await stopping
    assert stopped.cancelled == 0


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_the_remaining_nodes_take_over_if_they_are_told_to(named: Cluster, end: str) -> None:
    owners = {key: named.owner(key) for key in KEYS}
    await getattr(named, end)("node-1", take_over=True)
    for key in KEYS:
        assert await ask(named, key) == named.owner(key) != "node-1"
        assert owners[key] in {"node-1", named.owner(key)}  # no other shard moved


async def test_the_last_node_leaves_nobody_to_take_over(named: Cluster) -> None:
    for node_id in list(named.nodes):
        await named.kill(node_id, take_over=True)
    assert isinstance(await outcome(named.client.request_key("k", "Who")), clstr.NoShardSubscriberError)


async def test_a_killed_node_answers_nobody_and_its_handler_is_cancelled() -> None:
    stopped = Stopped()
    async with cluster(stopped, nodes=1) as running:
        request = asyncio.create_task(running.client.request_key("k", "T", timeout=FAR))
        await stopped.started.wait()
        await running.kill("node-0")
        error = await outcome(request)
    assert isinstance(error, clstr.ConnectionLostError)
    assert error.maybe_executed
    assert stopped.cancelled == 1


async def test_what_waited_at_a_killed_node_never_starts() -> None:
    stopped = Stopped()
    async with cluster(stopped, nodes=1, max_concurrent=1) as running:
        requests = [asyncio.create_task(running.client.request_key("k", "T", timeout=FAR)) for _ in range(5)]
        await stopped.started.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        await running.kill("node-0")
        errors = [await outcome(request) for request in requests]
    assert {type(error) for error in errors} == {clstr.ConnectionLostError}
    assert stopped.count == 1


async def test_a_killed_node_that_ignores_cancellation_is_left_behind() -> None:
    stopped = Stopped(deaf=True)
    async with cluster(stopped, nodes=1, drain_timeout=0.01) as running:
        request = asyncio.create_task(running.client.request_key("k", "T", timeout=FAR))
        await stopped.started.wait()
        await running.kill("node-0")
        assert isinstance(await outcome(request), clstr.ConnectionLostError)
        assert not stopped.ended.is_set()
    stopped.go_on.set()
    await stopped.ended.wait()


async def test_what_does_not_run_can_be_neither_stopped_nor_killed(named: Cluster) -> None:
    await named.stop("node-1")
    with pytest.raises(KeyError, match=re.escape("no node 'node-1' runs; these do: node-0, node-2")):
        await named.kill("node-1")


async def test_options_reach_every_transport_and_the_url_its_name(named: Cluster) -> None:
    async with cluster(naming("n"), url="memory://shared-{cluster}?max_concurrent=1", max_payload_bytes=3) as running:
        assert re.fullmatch(r"memory://shared-[0-9a-f]{32}\?max_concurrent=1", running.url)
        with pytest.raises(clstr.PayloadTooLargeError):
            await running.client.request_key("k", "T", b"1234")


async def test_a_cluster_that_cannot_start_leaves_nothing_open() -> None:
    def handler_of(node_id: str) -> clstr.Handler:
        if node_id == "node-2":
            raise LookupError("no handler")
        return naming(node_id)

    with pytest.raises(LookupError, match="no handler"):
        async with cluster(handler_of=handler_of):
            raise AssertionError("it started")
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_end_of_the_block_closes_everything() -> None:
    async with cluster(handler_of=naming) as running:
        await ask(running, "k")
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    with pytest.raises(clstr.TransportClosedError):
        await running.client.request_key("k", "Who")


@pytest.mark.parametrize("arguments", [{}, {"handler": naming("n"), "handler_of": naming}])
def test_exactly_one_of_handler_and_handler_of_is_needed(arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"either handler, .* or handler_of"):
        cluster(**arguments)


def test_a_cluster_has_a_node() -> None:
    with pytest.raises(ValueError, match="nodes must be at least 1, not 0"):
        cluster(naming("n"), nodes=0)


def test_without_the_memory_plugin_the_error_says_what_to_install() -> None:
    program = """
import asyncio, importlib.metadata
importlib.metadata.entry_points = lambda **_: ()  # as if nothing were installed
from clstr_testing._cluster import cluster
async def main():
    async with cluster(len): pass
asyncio.run(main())
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "UnknownSchemeError" in ran.stderr
    assert ran.stderr.rstrip().endswith("pip install clstr-memory")


# Handlers that keep state.


class Add(msgspec.Struct, clstr.Message[int]):
    amount: int


class Account(clstr.Actor):
    store: ClassVar[dict[str, int]]
    events: ClassVar[list[str]]

    async def on_start(self) -> None:
        self.amount = self.store.get(self.key, 0)

    async def on_stop(self) -> None:
        self.events.append("stop")
        if self.amount < 0:
            raise ValueError("an account is never stored below 0")
        self.store[self.key] = self.amount

    @clstr.handles(Add)
    async def add(self, message: Add, _context: clstr.Context) -> int:
        self.amount += message.amount
        return self.amount


@pytest.fixture(autouse=True)
def accounts(monkeypatch: pytest.MonkeyPatch) -> type[Account]:
    monkeypatch.setattr(Account, "store", {}, raising=False)
    monkeypatch.setattr(Account, "events", [], raising=False)
    return Account


def routed() -> clstr.Router:
    router = clstr.Router()
    router.include(clstr.ActorHandler(Account))
    return router


@pytest.mark.parametrize(
    "arguments",
    [
        {"handler": clstr.ActorHandler(Account)},
        {"handler": routed()},
        {"handler_of": lambda _node_id: clstr.ActorHandler(Account)},
    ],
    ids=["handler", "router", "handler_of"],
)
async def test_actors_store_their_state_when_their_node_stops_and_when_the_cluster_ends(
    arguments: dict[str, Any],
) -> None:
    async with cluster(**arguments) as c:
        ada = c.client.key("ada")
        assert await ada.request(Add(5)) == 5
        await c.stop(c.owner("ada"), take_over=True)
        assert Account.store == {"ada": 5}
        assert await ada.request(Add(5)) == 10  # by an actor of another node, which loaded it
    assert Account.store == {"ada": 10}


async def test_a_killed_node_stores_nothing() -> None:
    async with cluster(clstr.ActorHandler(Account)) as c:
        ada = c.client.key("ada")
        assert await ada.request(Add(5)) == 5
        await c.kill(c.owner("ada"), take_over=True)
        assert await ada.request(Add(1)) == 1
    assert (Account.store, Account.events) == ({"ada": 1}, ["stop"])


async def test_state_that_could_not_be_stored_is_an_error_of_the_test() -> None:
    with pytest.raises(clstr.StateNotStoredError) as caught:
        async with cluster(clstr.ActorHandler(Account)) as c:
            await c.client.key("ada").request(Add(-5))
    assert caught.value.keys == ("ada",)


def test_a_handler_that_keeps_state_and_cannot_be_made_anew_is_not_shared() -> None:
    class Keeper:
        async def __call__(self, envelope: clstr.Envelope) -> bytes:
            return b""

        async def release_shards(self, shards: frozenset[int]) -> None: ...

    with pytest.raises(TypeError, match=r"a Keeper keeps state, .* use handler_of="):
        cluster(Keeper())
    router = clstr.Router()
    router.fallback(Keeper())
    with pytest.raises(TypeError, match=r"Keeper keeps state, and two nodes cannot share it: give it a method fresh"):
        cluster(router)
