"""What networks, name servers and forks do to a link to a broker: the same for each, whatever its driver does."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

import clstr
from clstr import Envelope
from clstr.errors import ClstrError, ConnectionLostError, NoShardSubscriberError
from clstr_testing import FaultProxy, Server, nats_server, valkey_server

SERVERS = {"nats": nats_server, "redis": valkey_server}
Open = Callable[..., Awaitable[clstr.Transport]]


@pytest.fixture(params=SERVERS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def server(kind: str) -> AsyncIterator[Server]:
    async with SERVERS[kind]() as running:
        yield running


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(server.host, server.port) as running:
        yield running


@pytest.fixture
async def connect(kind: str) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_one(port: int, *, host: str = "127.0.0.1", **options: Any) -> clstr.Transport:
            return await stack.enter_async_context(clstr.connect(f"{kind}://{host}:{port}", **options))

        yield open_one


async def echo(envelope: Envelope) -> bytes:
    return envelope.data


def message(shard: int = 1, data: bytes = b"x") -> Envelope:
    return Envelope(shard=shard, type="Echo", data=data)


async def eventually(call: Callable[[], Awaitable[bytes]]) -> bytes:
    async with asyncio.timeout(30):
        while True:
            try:
                return await call()
            except ClstrError:
                await asyncio.sleep(0)


def connection_of(transport: clstr.Transport) -> Any:  # Any: the driver's
    return transport.link._session.connection  # type: ignore[attr-defined]  # the engine's


# The link comes back.


async def test_a_socket_that_closes_beneath_the_link_is_a_loss_like_any_other(server: Server, connect: Open) -> None:
    """A reset while the loop is busy. uvloop raises `RuntimeError` from a write then, asyncio ignores it."""
    node, client = await connect(server.port), await connect(server.port)
    await node.subscribe([1], echo)
    for peer in (node, client):
        connection_of(peer)._socket.abort()
    for call in (node.subscribe([2], echo), node.request(message(2)), client.notify(message()), client.aclose()):
        with suppress(ClstrError):
            await call
    other = await connect(server.port)
    assert await eventually(lambda: other.request(message())) == b"x"


async def test_a_broker_that_reads_nothing_is_noticed_although_we_go_on_writing(
    proxy: FaultProxy, connect: Open
) -> None:
    """What the system takes for it proves nothing: it takes megabytes."""
    client = await connect(proxy.port, heartbeat=0.1)
    proxy.black_hole()
    lost = asyncio.create_task(client.request(message(), timeout=60))
    async with asyncio.timeout(20):
        while not lost.done():
            with suppress(ClstrError):
                await client.request(message(), timeout=0.02)
    with pytest.raises(ConnectionLostError, match="has not answered"):
        await lost
    proxy.heal()
    await proxy.reset()


@pytest.mark.parametrize("way", ["to_server", "to_client"])
async def test_a_link_that_is_slow_but_moves_is_not_lost(
    server: Server, proxy: FaultProxy, connect: Open, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """A heartbeat waits behind megabytes for longer than a mute link is given."""
    behind = await connect(proxy.port, heartbeat=0.2)
    node, client = (await connect(server.port), behind) if way == "to_server" else (behind, await connect(server.port))
    await node.subscribe([1], echo)
    direction = getattr(proxy, way)
    direction.piece_bytes = 8192
    direction.delay = 0.001
    answers = await asyncio.gather(
        *(client.request(message(1, bytes(600_000)), timeout=50) for _ in range(12)), return_exceptions=True
    )
    assert [len(answer) if isinstance(answer, bytes) else answer for answer in answers] == [600_000] * 12
    assert "unreachable" not in caplog.text
    assert proxy.connections_accepted == 1


# Names.


class Names:
    """The system's name server: ``broker.example`` has the addresses that a test gives it."""

    def __init__(self) -> None:
        self.addresses: list[tuple[str, int]] = []
        self._real = socket.getaddrinfo

    def getaddrinfo(self, host: str, port: int, *args: Any, **options: Any) -> Any:
        if host != "broker.example" or options.get("flags"):
            return self._real(host, port, *args, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in self.addresses]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    return names


@pytest.fixture
def mute() -> Iterator[tuple[str, int]]:
    """An address that does not even refuse: its queue is full, and the system drops what else comes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()
        for filler in fillers:
            filler.close()


async def test_a_name_whose_first_address_is_dead_connects_by_the_second(
    server: Server, connect: Open, names: Names, mute: tuple[str, int]
) -> None:
    names.addresses = [mute, (server.host, server.port)]
    client = await connect(server.port, host="broker.example", connect_timeout=20)
    with pytest.raises(NoShardSubscriberError):
        await client.request(message())


async def test_a_full_default_executor_does_not_keep_a_link_from_its_broker(
    server: Server, connect: Open, names: Names
) -> None:
    """The loop's own name lookups wait there, behind handlers' blocking calls."""
    names.addresses = [(server.host, server.port)]
    node = await connect(server.port, host="broker.example")
    client = await connect(server.port, host="broker.example")
    await node.subscribe([1], echo)
    release = threading.Event()
    blocked = [asyncio.create_task(asyncio.to_thread(release.wait, 60)) for _ in range(64)]
    try:
        server.kill()
        await server.restart()
        assert await eventually(lambda: client.request(message())) == b"x"
    finally:
        release.set()
        await asyncio.gather(*blocked)


# Forks.


async def test_a_connection_that_is_given_up_ends_although_a_child_has_its_descriptor(
    server: Server, proxy: FaultProxy, connect: Open
) -> None:
    """Else the broker takes it for alive, and goes on to send it every second message."""
    node, client = await connect(proxy.port, heartbeat=0.1), await connect(server.port)
    await node.subscribe([1], echo)
    child_s = os.dup(connection_of(node)._socket.get_extra_info("socket").fileno())
    try:
        proxy.black_hole()
        async with asyncio.timeout(20):
            await proxy.until(lambda: proxy.connections_accepted > 1)
            proxy.heal()
            await proxy.until(lambda: proxy.connections == 1)
        assert await eventually(lambda: client.request(message())) == b"x"
    finally:
        os.close(child_s)
