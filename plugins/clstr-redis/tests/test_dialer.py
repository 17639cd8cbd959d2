"""`clstr_redis._dialer`: which servers are refused, and what is said of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import clstr
from clstr import Envelope
from clstr.errors import AuthenticationError, NoShardSubscriberError, TransportUnavailableError
from clstr_redis._dialer import Dialer
from clstr_redis._options import Options
from clstr_testing import FaultProxy, free_port, no_leaks, redis_server, valkey_server

Connect = Callable[..., Awaitable[clstr.Transport]]
SERVERS = {"valkey": valkey_server, "redis": redis_server}


def hello(version: bytes = b"7.2.0", mode: bytes = b"standalone", role: bytes = b"master") -> bytes:
    facts = {b"version": version, b"mode": mode, b"role": role}
    parts = [b"$%d\r\n%s\r\n" % (len(part), part) for pair in facts.items() for part in pair]
    return b"%3\r\n" + b"".join(parts)


async def test_an_unreachable_server_is_named() -> None:
    port = free_port()
    with pytest.raises(TransportUnavailableError, match=f"the Redis server 127.0.0.1:{port} cannot be used"):
        await clstr.connect(f"redis://127.0.0.1:{port}")


async def test_a_socket_that_is_not_there_is_named(tmp_path: Any) -> None:
    with pytest.raises(TransportUnavailableError, match=f"the Redis server {tmp_path}/none.sock cannot be used"):
        await clstr.connect(f"redis+unix://{tmp_path}/none.sock")


@pytest.mark.parametrize("stall", ["to_client", "to_server"])
async def test_a_server_that_never_answers_costs_connect_timeout_and_leaves_nothing(
    proxy: FaultProxy, stall: str
) -> None:
    getattr(proxy, stall).stall()
    async with no_leaks(), asyncio.timeout(5):
        with pytest.raises(TransportUnavailableError, match=r"in time|within"):
            await clstr.connect(f"redis://127.0.0.1:{proxy.port}", connect_timeout=0.1)
        await proxy.reset()


@pytest.mark.parametrize(
    ("answers", "error", "says"),
    [
        ({b"HELLO": hello(version=b"6.0.16")}, TransportUnavailableError, r"has version 6\.0\.16: Redis 6\.2 is"),
        ({b"HELLO": hello(version=b"5")}, TransportUnavailableError, r"has version 5: Redis 6\.2 is"),
        ({b"HELLO": hello(mode=b"cluster")}, TransportUnavailableError, "Redis Cluster, which clstr-redis does not"),
        ({b"HELLO": hello(role=b"replica")}, TransportUnavailableError, "read-only replica: name the primary"),
        ({b"HELLO": b"%0\r\n"}, TransportUnavailableError, "what no Redis says"),
        ({b"HELLO": b"+OK\r\n"}, TransportUnavailableError, "cannot be used"),
        (
            {b"HELLO": b"-ERR unknown command `HELLO`, with args beginning with: `3`\r\n"},
            TransportUnavailableError,
            r"does not know HELLO: Redis 6\.2 is the oldest",
        ),
        (
            {b"HELLO": b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n"},
            TransportUnavailableError,
            "protected mode, which lets in this machine alone",
        ),
        ({b"HELLO": b"-NOAUTH HELLO must be called with\r\n"}, AuthenticationError, "refused the credentials"),
        ({b"HELLO": b"-LOADING Redis is loading\r\n"}, TransportUnavailableError, "LOADING Redis is loading"),
        ({b"SUBSCRIBE": b"-LOADING Redis is loading\r\n"}, TransportUnavailableError, "Redis is loading"),
        ({b"SCRIPT": b"-BUSY Redis is busy\r\n"}, TransportUnavailableError, "BUSY Redis is busy"),
        ({b"SELECT": b"-ERR DB index is out of range\r\n"}, TransportUnavailableError, "DB index is out of range"),
        ({b"HELLO": b"-ERR max number of clients reached\r\n"}, TransportUnavailableError, "number of clients"),
    ],
)
async def test_a_server_that_cannot_be_used_is_refused_with_the_reason(
    fake_server: Any, answers: dict[bytes, bytes], error: type[Exception], says: str
) -> None:
    fake_server.answers = answers
    async with no_leaks():
        with pytest.raises(error, match=says):
            await clstr.connect(f"redis://127.0.0.1:{fake_server.port}/3")
        await asyncio.sleep(0)


async def test_a_node_of_a_cluster_is_refused(kind: str, connect: Connect) -> None:
    async with SERVERS[kind]("--cluster-enabled", "yes") as server:
        with pytest.raises(TransportUnavailableError, match="Redis Cluster, which clstr-redis does not support"):
            await connect(server.port)


async def test_a_database_that_is_not_there_is_named(server: Any, connect: Connect) -> None:
    with pytest.raises(TransportUnavailableError, match="DB index is out of range"):
        await connect(server.port, query="/99")


async def test_a_server_closing_in_the_middle_of_opening_is_unavailable(proxy: FaultProxy) -> None:
    for count in (1, 40, 200, 400):
        proxy.to_client.cut_after(count)
        with pytest.raises(TransportUnavailableError):
            await clstr.connect(f"redis://127.0.0.1:{proxy.port}")
        proxy.heal()
    async with clstr.connect(f"redis://127.0.0.1:{proxy.port}") as transport:
        with pytest.raises(NoShardSubscriberError):
            await transport.request(Envelope(shard=1, type="t"))


def test_plaintext_to_elsewhere_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    for host in ("127.0.0.1", "localhost", "::1", "10.0.0.7", "redis.example"):
        dialer = Dialer(Options(scheme="redis", hosts=((host, 6379),)), 1.0, logging.getLogger("clstr"))
        dialer._warn_of_plaintext()
        dialer._warn_of_plaintext()
    assert [record.args for record in caplog.records] == [(["10.0.0.7"],), (["redis.example"],)]


def test_encrypted_connections_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    options = Options(scheme="rediss", hosts=(("10.0.0.7", 6379),))
    Dialer(options, 1.0, logging.getLogger("clstr"))._warn_of_plaintext()
    assert caplog.records == []
