"""What may keep an outbox from dialling: names that are slow, unknown or moved, and descriptors that have run out."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import zmq

import clstr
from clstr.spi import Engine, Limits
from clstr_zmq import _dial, _sockets
from clstr_zmq._counters import Counters
from clstr_zmq._directory import Seed
from clstr_zmq._link import ZmqLink
from clstr_zmq._options import Bind, Options
from clstr_zmq._protocol import Place
from clstr_zmq._sockets import Sockets, set_nothing

Connect = Callable[..., Awaitable[clstr.Transport]]
NewPort = Callable[[], int]
ENVELOPE = clstr.Envelope(shard=0, type="t", data=b"x")
LOGGER = logging.getLogger("test")


class Names:
    """A name server; a name without addresses is never answered, one that it does not know is an error."""

    def __init__(self, **names: list[str]) -> None:
        self.names = names
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if not self.names[host]:
            await asyncio.Event().wait()
        return self.names[host]


async def echo(message: clstr.Envelope) -> bytes:
    return message.data


@pytest.fixture
async def open_peer(new_port: NewPort) -> AsyncIterator[Callable[..., Awaitable[Engine]]]:
    """Open peers, each with an inbox that it advertises by a name, and a name server of its own."""
    opened: list[Engine] = []

    async def open_one(
        names: Names, advertised: str = "", bind: str = "127.0.0.1", port: int = 0, **options: Any
    ) -> Engine:
        if advertised:
            port = port or new_port()
            options["bind"] = Bind(endpoint=f"tcp://{bind}:{port}", host=advertised)
        link = ZmqLink(
            Options(**options), peer_id=f"p{len(opened)}", epoch=1, max_bytes=2**22, logger=LOGGER, lookup=names
        )
        opened.append(await Engine(link, limits=Limits(drain_timeout=1.0)).open())
        return opened[-1]

    yield open_one
    for each in opened:
        await each.aclose()


def seeds(seed: clstr.Transport) -> tuple[Seed]:
    link = link_of(seed)
    assert link.me.inbox is not None
    return (Seed(host="127.0.0.1", port=int(link.me.inbox.address.rpartition(":")[2])),)


def link_of(transport: clstr.Transport) -> ZmqLink:
    assert isinstance(transport, Engine)
    assert isinstance(transport.link, ZmqLink)
    return transport.link


async def answered(client: clstr.Transport) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                assert await client.request(ENVELOPE, timeout=60) == b"x"
                return
            except (clstr.NoShardSubscriberError, clstr.TransportUnavailableError, clstr.ConnectionLostError):
                await asyncio.sleep(0.01)


async def test_a_name_that_is_never_resolved_keeps_no_other_peer_waiting(open_peer: Any) -> None:
    names = Names(good=["127.0.0.1"], slow=[])
    seed = await open_peer(names, "127.0.0.1")
    client = await open_peer(names, seeds=seeds(seed))
    slow = await open_peer(names, "slow", seeds=seeds(seed))
    owner = await open_peer(names, "good", seeds=seeds(seed))
    await owner.subscribe([0], echo)
    await answered(client)
    assert "slow" in names.asked
    await slow.aclose()


async def test_a_name_with_an_ipv6_address_alone_is_reached(open_peer: Any) -> None:
    names = Names(six=["::1"])
    seed = await open_peer(names, "127.0.0.1")
    client = await open_peer(names, seeds=seeds(seed))
    owner = await open_peer(names, "six", bind="[::1]", seeds=seeds(seed))
    await owner.subscribe([0], echo)
    await answered(client)


async def test_every_address_of_a_name_is_tried(open_peer: Any) -> None:
    """At the first ones nobody listens."""
    names = Names(many=["127.0.0.9", "::1", "127.0.0.1"])
    seed = await open_peer(names, "127.0.0.1")
    client = await open_peer(names, seeds=seeds(seed))
    owner = await open_peer(names, "many", seeds=seeds(seed))
    await owner.subscribe([0], echo)
    await answered(client)
    [outbox] = [each for each in link_of(client)._directory if "many" in each.place.address]
    assert "127.0.0.1" in outbox._endpoint
    asked = names.asked.count("many")
    outbox.lost("the test says so")
    await answered(client)
    assert names.asked.count("many") > asked  # looked up anew, since it may have moved


async def test_a_mute_address_of_a_name_does_not_keep_the_next_one_waiting(
    open_peer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system accepts a connection to it, and nobody shakes hands: ZeroMQ would give it up after an hour."""
    for name in ("HANDSHAKE_MS", "CONNECT_MS"):
        monkeypatch.setattr(_sockets, name, 3_600_000)
    monkeypatch.setattr(_dial, "DIAL_TIMEOUT", 3600.0)
    names = Names(many=["127.0.0.9", "127.0.0.1"])
    seed = await open_peer(names, "127.0.0.1")
    owner = await open_peer(names, "many", seeds=seeds(seed))
    await owner.subscribe([0], echo)
    port = int(str(link_of(owner).me.inbox).partition("many:")[2].partition("'")[0])
    with socket.create_server(("127.0.0.9", port)):
        client = await open_peer(names, seeds=seeds(seed))
        await answered(client)


async def test_an_address_behind_which_nobody_speaks_as_we_do_is_tried_last_the_next_time(
    open_peer: Any, new_port: NewPort
) -> None:
    """It shakes hands, and welcomes nobody."""
    port = new_port()
    names = Names(many=["127.0.0.9", "127.0.0.1"])
    deaf = Sockets(Counters(), LOGGER)
    deaf.router(f"tcp://127.0.0.9:{port}", lambda _: None, set_nothing)
    owner = await open_peer(names, "many", bind="127.0.0.1", port=port)
    await owner.subscribe([0], echo)
    client = await open_peer(names)
    link_of(client).heard_of([Place(address=f"tcp://many:{port}")])
    [outbox] = link_of(client)._directory
    async with asyncio.timeout(20):
        while outbox._connection is None:  # noqa: ASYNC110 -- ZeroMQ's threads tell no event
            await asyncio.sleep(0.01)
    assert "127.0.0.9" in outbox._endpoint
    outbox.lost("the test says so")
    await answered(client)
    assert "127.0.0.1" in outbox._endpoint
    deaf.close()
    await deaf.wait_closed()


async def test_a_name_that_is_unknown_is_looked_up_again(open_peer: Any, caplog: pytest.LogCaptureFixture) -> None:
    names = Names()
    seed = await open_peer(names, "127.0.0.1")
    client = await open_peer(names, seeds=seeds(seed))
    owner = await open_peer(names, "late", seeds=seeds(seed))
    await owner.subscribe([0], echo)
    async with asyncio.timeout(20):
        while names.asked.count("late") < 4:  # noqa: ASYNC110 -- the outboxes tell no event
            await asyncio.sleep(0.01)
    assert caplog.text.count("late:") <= 2 * 2  # once for each peer that dials it, not for each attempt
    names.names["late"] = ["127.0.0.1"]
    await answered(client)


async def test_an_inbox_is_bound_at_a_name(open_peer: Any) -> None:
    owner = await open_peer(Names(here=["::1", "127.0.0.1"]), "here", bind="here")
    client = await open_peer(Names(), seeds=seeds(owner))
    await owner.subscribe([0], echo)
    await answered(client)


async def test_an_inbox_that_is_bound_at_an_unknown_name_is_an_error(open_peer: Any) -> None:
    with pytest.raises(clstr.TransportUnavailableError, match=r"cannot bind tcp://nowhere:.*not known"):
        await open_peer(Names(), "127.0.0.1", bind="nowhere")


# Descriptors.


def run_out(*_: Any) -> Any:
    raise zmq.ZMQError(errno.EMFILE)


async def test_a_dial_for_which_there_is_no_socket_is_tried_again(
    connect: Connect, new_port: NewPort, caplog: pytest.LogCaptureFixture
) -> None:
    port = new_port()
    client = await connect(f"zmq://127.0.0.1:{port}", reconnect_wait=0.01)
    sockets = link_of(client)._sockets
    assert sockets is not None
    with pytest.MonkeyPatch.context() as shortage:
        shortage.setattr(sockets._context, "socket", run_out)
        async with asyncio.timeout(20):
            while "Too many open files" not in caplog.text:  # noqa: ASYNC110 -- the outbox tells no event
                await asyncio.sleep(0.01)
        with pytest.raises(clstr.TransportUnavailableError, match="Too many open files"):
            await client.request(ENVELOPE, timeout=60)
    owner = await connect(f"zmq://?bind=tcp://127.0.0.1:{port}")
    await owner.subscribe([0], echo)
    await answered(client)


async def test_a_dial_that_zeromq_gives_up_in_silence_is_tried_again(
    connect: Connect, new_port: NewPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own thread finds no descriptor: there is no event, and heartbeats are far apart."""
    monkeypatch.setattr(_dial, "DIAL_TIMEOUT", 0.05)
    port = new_port()
    with monkeypatch.context() as shortage:
        shortage.setattr(zmq.Socket, "connect", _connect_nothing)
        client = await connect(f"zmq://127.0.0.1:{port}?heartbeat=60", reconnect_wait=0.01)
        with pytest.raises(clstr.TransportUnavailableError, match="no connection within"):
            await client.request(ENVELOPE, timeout=60)
    monkeypatch.setattr(_dial, "DIAL_TIMEOUT", 5.0)
    owner = await connect(f"zmq://?bind=tcp://127.0.0.1:{port}")
    await owner.subscribe([0], echo)
    await answered(client)


_real_connect = zmq.Socket.connect


def _connect_nothing(socket: zmq.Socket[bytes], address: str) -> Any:
    return _real_connect(socket, address) if address.startswith("inproc:") else None


async def test_sockets_without_descriptors_are_errors_that_leave_nothing() -> None:
    """An inbox, a connection, its monitor, the check of keys."""
    sockets = Sockets(Counters(), LOGGER)
    try:
        for working, make in (
            (0, lambda: sockets.router("tcp://127.0.0.1:*", print, set_nothing)),
            (0, lambda: sockets.zap(print)),
            (0, lambda: sockets.dealer("tcp://127.0.0.1:1", set_nothing)),
            (1, lambda: sockets.dealer("tcp://127.0.0.1:1", set_nothing)),
        ):
            with pytest.MonkeyPatch.context() as shortage:
                shortage.setattr(sockets._context, "socket", limited(sockets._context.socket, working))
                with pytest.raises(clstr.TransportUnavailableError, match="Too many open files"):
                    make()
        assert sockets.dialled == {}
    finally:
        sockets.close()
        async with asyncio.timeout(10):
            await sockets.wait_closed()  # it would wait for a socket that was left


def limited(make: Callable[..., Any], number: int) -> Callable[..., Any]:
    """Let only this many sockets be made."""
    left = [number]

    def make_one(*args: Any, **options: Any) -> Any:
        if not left[0]:
            raise zmq.ZMQError(errno.EMFILE)
        left[0] -= 1
        return make(*args, **options)

    return make_one


async def test_peers_that_could_not_be_accepted_are_accepted_after_the_shortage(connect: Connect) -> None:
    """The whole process has no descriptor: neither side can make one."""
    owner = await connect("zmq://?bind=tcp://127.0.0.1:*")
    await owner.subscribe([0], echo)
    inbox = link_of(owner).me.inbox
    assert inbox is not None
    client = await connect(inbox.address.replace("tcp", "zmq"), reconnect_wait=0.01)
    await answered(client)
    [outbox] = link_of(client)._directory
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4, before[1]))
    try:
        outbox.lost("the test says so")
        async with asyncio.timeout(20):
            while "Too many open files" not in outbox.problem:  # noqa: ASYNC110 -- it tells no event
                await asyncio.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    await answered(client)
