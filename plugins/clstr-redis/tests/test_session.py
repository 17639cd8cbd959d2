"""`clstr_redis._session`: the connection is lost in every way, and found again."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis

import clstr
from clstr import Envelope
from clstr.errors import (
    ClstrError,
    ConnectionLostError,
    NoShardSubscriberError,
    OverloadedError,
    RequestTimeoutError,
    TransportUnavailableError,
)
from clstr.spi import Backoff
from clstr_testing import FaultProxy, Server, no_leaks, redis_server, valkey_server

Connect = Callable[..., Awaitable[clstr.Transport]]
SERVERS = {"valkey": valkey_server, "redis": redis_server}


async def echo(envelope: Envelope) -> bytes:
    return envelope.data


def message(shard: int = 1, data: bytes = b"", **fields: Any) -> Envelope:
    return Envelope(shard=shard, type="Echo", data=data, **fields)


async def eventually(call: Callable[[], Awaitable[Any]]) -> Any:
    """Call until it goes well: for what comes back by itself, some time after an outage."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await call()
            except ClstrError:
                await asyncio.sleep(0)


async def until_owned(client: clstr.Transport, shard: int) -> None:
    assert await eventually(lambda: client.request(message(shard, b"x"), timeout=1)) == b"x"


async def logged(caplog: pytest.LogCaptureFixture, sentence: str, times: int = 1) -> None:
    async with asyncio.timeout(15):
        while caplog.text.count(sentence) < times:  # noqa: ASYNC110 -- a log
            await asyncio.sleep(0)


# Nothing is sent twice.


@pytest.mark.parametrize("is_known", [False, True], ids=["by the script", "straight to the inbox"])
async def test_a_request_whose_reply_is_lost_ran_once_and_says_that_it_may_have_run(
    server: Server, proxy: FaultProxy, connect: Connect, is_known: bool
) -> None:
    ran: list[bytes] = []
    has_run = asyncio.Event()

    async def note(envelope: Envelope) -> bytes:
        ran.append(envelope.data)
        if envelope.data == b"lost":
            has_run.set()
        return envelope.data

    node, client = await connect(server.port), await connect(proxy.port, query="?heartbeat=60")
    await node.subscribe([1], note)
    if is_known:
        await client.request(message(1, b"before"))
    proxy.to_client.stall()
    request = asyncio.ensure_future(client.request(message(1, b"lost"), timeout=60))
    async with asyncio.timeout(10):
        await has_run.wait()
        await proxy.until(lambda: proxy.to_client.bytes_held > 0)
    await proxy.reset()
    with pytest.raises(ConnectionLostError) as caught:
        await request
    assert caught.value.maybe_executed
    proxy.heal()
    assert await eventually(lambda: client.request(message(1, b"after"))) == b"after"
    assert Counter(ran)[b"lost"] == 1


async def test_a_request_of_an_outage_never_runs_afterwards(proxy: FaultProxy, connect: Connect) -> None:
    ran: list[bytes] = []

    async def note(envelope: Envelope) -> bytes:
        ran.append(envelope.data)
        return b""

    node, client = await connect(proxy.port), await connect(proxy.port, query="?reconnect_wait=0.05")
    await node.subscribe([1], note)
    proxy.refuse()
    await proxy.reset()
    for n in range(20):
        with pytest.raises((TransportUnavailableError, ConnectionLostError)):
            await client.request(message(1, b"outage %d" % n))
    proxy.accept()
    await eventually(lambda: client.request(message(1, b"after")))
    assert ran == [b"after"]


class Storm:
    """Callers and nodes that go on whatever happens, and what became of each request."""

    def __init__(self, client: clstr.Transport) -> None:
        self.client = client
        self.is_over = False
        self.ran: Counter[bytes] = Counter()
        self.outcomes: dict[bytes, bytes | ClstrError] = {}

    async def handle(self, envelope: Envelope) -> bytes:
        self.ran[envelope.data] += 1
        return envelope.data

    async def call(self, shard: int) -> None:
        n = 0
        while not self.is_over:
            data = b"%d.%d" % (shard, n)
            n += 1
            try:
                self.outcomes[data] = await self.client.request(message(shard, data), timeout=1)
            except ClstrError as error:
                self.outcomes[data] = error

    async def come_and_go(self, node: clstr.Transport, shards: range) -> None:
        while not self.is_over:
            try:
                subscription = await node.subscribe(shards, self.handle)
            except ClstrError:
                continue
            await asyncio.sleep(0.01)
            await subscription.aclose()

    def answered(self) -> int:
        return sum(isinstance(got, bytes) for got in self.outcomes.values())

    def judge(self) -> None:
        """Nothing ran twice, and every outcome is true."""
        assert max(self.ran.values()) == 1
        for data, got in self.outcomes.items():
            if isinstance(got, bytes):
                assert (got, self.ran[data]) == (data, 1)
            elif not got.maybe_executed:
                assert self.ran[data] == 0


async def test_connections_that_are_killed_a_hundred_times_are_replaced_and_nothing_runs_twice(
    server: Server, admin: Redis, connect: Connect
) -> None:
    nodes, client = [await connect(server.port) for _ in range(2)], await connect(server.port)
    for peer in (*nodes, client):
        peer.link._session._backoff = Backoff(longest=0.05)  # type: ignore[attr-defined]  # the engine's
    storm = Storm(client)
    await nodes[0].subscribe(range(4), storm.handle)
    tasks = [asyncio.ensure_future(storm.call(n)) for n in range(8)]
    tasks += [asyncio.ensure_future(storm.come_and_go(node, range(2, 8))) for node in nodes]
    killed = rounds = 0
    async with asyncio.timeout(60):
        while killed < 100:
            killed += await admin.client_kill_filter(_type="pubsub")
            rounds += 1
            while storm.answered() < rounds:  # noqa: ASYNC110 -- a counter
                await asyncio.sleep(0)
    storm.is_over = True
    await asyncio.gather(*tasks)
    storm.judge()
    await _until_connected(admin, 3)
    for shard in range(4):
        await until_owned(client, shard)


async def _until_connected(admin: Redis, peers: int) -> None:
    """Each peer has one connection and one inbox in the end."""
    async with asyncio.timeout(10):
        while len(await admin.pubsub_channels("*")) != peers:  # noqa: ASYNC110 -- the server tells nobody
            await asyncio.sleep(0)
    assert len(await admin.client_list(_type="pubsub")) == peers


# Mute links.


async def test_a_link_that_is_mute_is_given_up_after_three_heartbeats(proxy: FaultProxy, connect: Connect) -> None:
    client = await connect(proxy.port, query="?heartbeat=0.05")
    proxy.black_hole()
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionLostError, match=r"has not answered for 0\.15 s"):
            await client.request(message(), timeout=60)
    proxy.heal()
    await proxy.reset()
    assert isinstance(await _error_of(client), NoShardSubscriberError)


async def _error_of(client: clstr.Transport) -> ClstrError:
    """Return what a request for nobody ends with when the connection is back."""
    async with asyncio.timeout(15):
        while True:
            try:
                await client.request(message())
            except (ConnectionLostError, TransportUnavailableError):
                continue
            except ClstrError as error:
                return error


@pytest.mark.parametrize("way", ["to_server", "to_client"])
async def test_a_node_that_is_deaf_or_dumb_is_replaced_by_itself(
    server: Server, proxy: FaultProxy, connect: Connect, way: str
) -> None:
    node, client = await connect(proxy.port, query="?heartbeat=0.1"), await connect(server.port)
    await node.subscribe([1], echo)
    assert await client.request(message(1, b"x")) == b"x"
    accepted = proxy.connections_accepted
    direction = getattr(proxy, way)
    direction.stall()
    async with asyncio.timeout(10):
        await proxy.until(lambda: proxy.connections_accepted > accepted)
        direction.resume()
    assert await eventually(lambda: client.request(message(1, b"x"), timeout=0.5)) == b"x"


async def test_a_stalled_link_keeps_neither_deadline_nor_cancellation_from_working(
    proxy: FaultProxy, connect: Connect
) -> None:
    client = await connect(proxy.port, query="?heartbeat=60", max_inflight_bytes=1 << 30, drain_timeout=0)
    proxy.black_hole()
    requests = [asyncio.ensure_future(client.request(message(n, bytes(1 << 19)), timeout=60)) for n in range(20)]
    await asyncio.sleep(0)
    with pytest.raises(RequestTimeoutError):
        await client.request(message(), timeout=0.05)
    for request in requests:
        request.cancel()
    done, _ = await asyncio.wait(requests, timeout=5)
    assert len(done) == 20


async def test_what_the_socket_does_not_take_is_bounded(proxy: FaultProxy, connect: Connect) -> None:
    client = await connect(proxy.port, query="?heartbeat=60", max_inflight_bytes=1 << 30, drain_timeout=0)
    proxy.black_hole()
    requests: list[asyncio.Task[bytes]] = []
    async with asyncio.timeout(60):
        while not any(request.done() for request in requests):  # the system's buffers take some megabytes first
            requests.append(asyncio.create_task(client.request(message(1, bytes(500_000)), timeout=60)))
            await asyncio.sleep(0)
    errors = [request.exception() for request in requests if request.done()]
    assert all(isinstance(error, OverloadedError) and not error.maybe_executed for error in errors)
    for request in requests:
        request.cancel()
    await asyncio.wait(requests)


async def test_a_node_that_the_server_cuts_off_for_reading_too_slowly_comes_back(
    server: Server, proxy: FaultProxy, admin: Redis, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """
    The node reads nothing until the server has closed its connection, however much the system's buffers take before.

    Valkey does not count payloads of 50 kB and more towards the limit, so many small ones have to fill it.
    """
    caplog.set_level(logging.INFO)
    await admin.config_set("client-output-buffer-limit", "pubsub 1572864 0 0")
    node, client = await connect(proxy.port, query="?heartbeat=60"), await connect(server.port)
    await node.subscribe([1], echo)
    proxy.to_client.stall()
    async with asyncio.timeout(60):
        with suppress(NoShardSubscriberError):
            while True:
                await client.notify(message(1, bytes(6_000)))  # one at a time: each is a PUBLISH of its own
    proxy.heal()
    await logged(caplog, "connected to Redis again")
    assert await eventually(lambda: client.request(message(1, b"x"))) == b"x"


# Servers that end, and come back in another state.


async def test_a_server_that_was_killed_and_comes_back_empty_is_used_again_without_waiting_for_a_heartbeat(
    server: Server, connect: Connect
) -> None:
    node, client = await connect(server.port, query="?heartbeat=60"), await connect(server.port, query="?heartbeat=60")
    await node.subscribe(range(64), echo)
    server.kill()
    await server.restart()
    for shard in (0, 63):
        await until_owned(client, shard)


async def test_a_server_that_is_gone_for_longer_than_any_budget_is_used_again(
    proxy: FaultProxy, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    node, client = await connect(proxy.port), await connect(proxy.port)
    await node.subscribe([1], echo)
    proxy.refuse()
    await proxy.reset()
    await logged(caplog, "still unreachable", 6)
    proxy.accept()
    assert await eventually(lambda: client.request(message(1, b"x"))) == b"x"


async def test_a_primary_that_becomes_a_replica_is_left(
    server: Server, admin: Redis, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Both by a node, whose leases it refuses, and by a client, to which it would say that nobody owns anything."""
    node = await connect(server.port, query="?heartbeat=0.1")
    client = await connect(server.port, query="?heartbeat=0.1&reconnect_wait=0.05")
    await node.subscribe([1], echo)
    async with FaultProxy(server.host, server.port) as nowhere:
        await admin.replicaof(nowhere.host, nowhere.port)
        await logged(caplog, "the link is down: the Redis server", 2)
        with pytest.raises(TransportUnavailableError, match="replica"):
            await client.request(message(1))
        with pytest.raises(TransportUnavailableError, match="read-only replica: name the primary"):
            await connect(server.port)
        await admin.replicaof("NO", "ONE")
    assert await eventually(lambda: client.request(message(1, b"x"))) == b"x"


async def test_the_server_unsubscribing_a_peer_is_the_loss_of_its_link(fake_server: Any, connect: Connect) -> None:
    await connect(fake_server.port)
    (inbox,) = [command[1] for command in fake_server.said if command[0] == b"SUBSCRIBE"]
    fake_server.say(b">3\r\n$11\r\nunsubscribe\r\n$%d\r\n%s\r\n:0\r\n" % (len(inbox), inbox))
    await fake_server.until(lambda: sum(command[0] == b"SUBSCRIBE" for command in fake_server.said) == 2)
    assert fake_server.said[-1][1] != inbox


@pytest.mark.parametrize(
    "line",
    [
        b"-ERR Protocol error: invalid bulk length\r\n",
        b"-NOAUTH Authentication required.\r\n",
        b"-LOADING the dataset\r\n",
        b"what?\r\n",
        b"$-5\r\n",
        b"%1\r\n",
        b"+OK\r\n",
        b":7\r\n",
    ],
)
async def test_what_was_not_asked_for_ends_the_connection_and_another_one_takes_its_place(
    fake_server: Any, connect: Connect, line: bytes
) -> None:
    await connect(fake_server.port)
    fake_server.say(line)
    if line == b"%1\r\n":
        fake_server.writers[-1].write_eof()
    await fake_server.until(lambda: sum(command[0] == b"SUBSCRIBE" for command in fake_server.said) == 2)


@pytest.mark.parametrize("command", [b"EVALSHA", b"HELLO"])
async def test_a_heartbeat_that_is_refused_is_complained_of_once_and_tried_again(
    fake_server: Any, connect: Connect, command: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    node = await connect(fake_server.port, query="?heartbeat=0.02")
    await node.subscribe([1], echo)
    fake_server.answers[command] = b"-BUSY with something\r\n"
    before = len(fake_server.said)
    await fake_server.until(lambda: sum(said[0] == command for said in fake_server.said[before:]) >= 4)
    assert caplog.text.count("cannot be renewed, and end if that lasts") == 1
    assert "BUSY" in caplog.text
    assert len(fake_server.writers) == 1


async def test_a_heartbeat_whose_answer_cannot_be_read_is_the_loss_of_the_link(
    fake_server: Any, connect: Connect
) -> None:
    await connect(fake_server.port, query="?heartbeat=0.02")
    fake_server.answers[b"HELLO"] = b"+OK\r\n"
    await fake_server.until(lambda: len(fake_server.writers) == 2)
    del fake_server.answers[b"HELLO"]
    await fake_server.until(lambda: sum(command[0] == b"SUBSCRIBE" for command in fake_server.said) == 2)


async def test_what_nobody_expected_is_survived_and_not_silent(
    fake_server: Any, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = await connect(fake_server.port, query="?heartbeat=0.02")

    async def broken(connection: object) -> None:
        raise RuntimeError("a defect")

    with monkeypatch.context() as patched:
        patched.setattr(client.link._leases, "renew", broken)  # type: ignore[attr-defined]  # the engine's
        await logged(caplog, "still unreachable: a defect")
    assert isinstance(await _error_of(client), NoShardSubscriberError)
    assert any(record.exc_info for record in caplog.records)


# Opening and closing.


async def test_one_byte_at_a_time_is_enough(proxy: FaultProxy, connect: Connect) -> None:
    proxy.to_client.piece_bytes = 1
    node, client = await connect(proxy.port), await connect(proxy.port)
    await node.subscribe([1], echo)
    assert await client.request(message(1, b"x" * 200)) == b"x" * 200


async def test_closing_in_an_outage_takes_no_longer_than_it_may(proxy: FaultProxy) -> None:
    async with no_leaks():
        transport = await clstr.connect(f"redis://127.0.0.1:{proxy.port}", drain_timeout=0.1)
        await transport.subscribe([1], echo)
        proxy.refuse()
        await proxy.reset()
        async with asyncio.timeout(5):
            await transport.aclose()
    proxy.accept()


async def test_closing_on_a_black_hole_takes_no_longer_than_it_may(proxy: FaultProxy) -> None:
    async with no_leaks():
        transport = await clstr.connect(f"redis://127.0.0.1:{proxy.port}?heartbeat=60", drain_timeout=0.1)
        await transport.subscribe([1], echo)
        proxy.black_hole()
        async with asyncio.timeout(5):
            await transport.aclose()
        await proxy.reset()


async def test_opening_and_closing_leaves_nothing(server: Server) -> None:
    async with no_leaks():
        for _ in range(20):
            async with clstr.connect(f"redis://127.0.0.1:{server.port}") as transport:
                await transport.subscribe([1], echo)


async def test_a_unix_socket(kind: str, tmp_path: Any) -> None:
    path = tmp_path / "redis.sock"
    async with (
        SERVERS[kind]("--unixsocket", str(path)),
        clstr.connect(f"redis+unix://{path}?db=2") as node,
        clstr.connect(f"redis+unix://{path}?db=2") as client,
    ):
        await node.subscribe([1], echo)
        assert await client.request(message(1, b"x")) == b"x"
