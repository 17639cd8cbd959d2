"""`clstr_nats._connection`: each private name of nats-py that is overridden or used does what is expected of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import nats.errors
import pytest

from clstr.errors import TransportUnavailableError
from clstr.spi import Address, Resolver
from clstr_nats._connection import Connection
from clstr_nats._parser import LARGE
from clstr_testing import FaultProxy, Server, no_leaks


class Peer:
    """A connection, and what it said."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, bytes, bytes, bytes, bytes]] = []
        self.denied: list[str] = []
        self.losses: list[Connection] = []
        self.connection = Connection(
            lambda *message: self.messages.append(message), self.denied.append, self.losses.append
        )

    async def dial(self, port: int, **options: Any) -> Connection:
        given = {"resolver": Resolver(), "needs_tls": False, "tls": None, "connect_timeout": 2.0, **options}
        await self.connection.dial(f"nats://127.0.0.1:{port}", **given)
        return self.connection

    async def reason(self) -> Exception:
        async with asyncio.timeout(10):
            return await asyncio.shield(self.connection.lost)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    yield peer
    await peer.connection.end()


async def pong(connection: Connection) -> None:
    async with asyncio.timeout(10):
        await connection.ping()


async def test_a_message_is_handed_over_by_the_reader_itself(peer: Peer, server: Server) -> None:
    """`_process_msg`: no queue, no task, no decoding."""
    connection = await peer.dial(server.port)
    connection.write(b"SUB a 1\r\nPUB a reply 4\r\ndata\r\nHPUB a 17 19\r\nNATS/1.0\r\nx:1\r\n\r\nhi\r\n")
    tasks = len(asyncio.all_tasks())
    await pong(connection)
    assert peer.messages[0] == (1, b"a", b"reply", b"", b"data")
    assert len(asyncio.all_tasks()) == tasks


async def test_whole_messages_are_read_by_our_parser(
    peer: Peer, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`_ps`: nats-py reads with the parser that it finds there."""
    connection = await peer.dial(server.port)
    monkeypatch.delattr(Connection, "_process_msg")  # nats-py's own would look for a subscription, and find none
    connection.write(b"SUB a 1\r\nPUB a 4\r\ndata\r\n")
    await pong(connection)
    assert peer.messages == [(1, b"a", b"", b"", b"data")]


async def test_large_parts_and_small_ones_arrive_in_order(peer: Peer, server: Server) -> None:
    """`write`: large parts are not joined to their neighbours."""
    connection = await peer.dial(server.port)
    large = b"x" * (LARGE + 1)
    connection.write(b"SUB a 1\r\n", b"PUB a 1\r\n1", b"\r\n", b"PUB a %d\r\n" % len(large), large, b"\r\n")
    connection.write(b"PUB a 1\r\n2\r\n")
    await pong(connection)
    assert [message[-1] for message in peer.messages] == [b"1", large, b"2"]


async def test_one_ping_fences_all_that_was_written_before_it(peer: Peer, fake_server: Any) -> None:
    """`_pongs`, `_process_pong`. nats-py's own flush overtakes what waits for its flusher (N1)."""
    connection = await peer.dial(fake_server.port)
    for n in range(3):
        connection.write(b"SUB s.%d %d\r\n" % (n, n))
        await pong(connection)
    pairs = [line for n in range(3) for line in (b"SUB s.%d %d\r\n" % (n, n), b"PING\r\n")]
    assert fake_server.said[-6:] == pairs


async def test_the_end_of_the_connection_is_told_once(peer: Peer, server: Server) -> None:
    """`_process_op_err`, `_reading_task`: nats-py does not reconnect, and nothing of it hangs."""
    await peer.dial(server.port)
    server.kill()
    assert isinstance(await peer.reason(), (OSError, nats.errors.Error))
    await peer.connection.end()
    assert peer.losses == [peer.connection]


@pytest.mark.parametrize(
    "line",
    [
        b"-ERR 'User Authentication Expired'\r\n",
        b"-ERR 'Maximum Payload Violation'\r\n",
        b"-ERR 'Stale Connection'\r\n",
    ],
)
async def test_an_error_of_the_server_ends_the_connection(peer: Peer, fake_server: Any, line: bytes) -> None:
    """`_process_err` (N9): nats-py would close for good."""
    await peer.dial(fake_server.port)
    fake_server.say(line)
    assert line[6:20].decode().lower() in str(await peer.reason())


async def test_a_right_that_is_refused_does_not_end_it(peer: Peer, fake_server: Any) -> None:
    """`_process_err` (N14)."""
    connection = await peer.dial(fake_server.port)
    fake_server.say(b"-ERR 'Permissions Violation for Subscription to \"a\"'\r\n")
    await pong(connection)
    assert peer.denied == ['permissions violation for subscription to "a"']
    assert peer.losses == []


@pytest.mark.parametrize(
    "poison",
    [
        b"MSG a\xff 1 2\r\nhi\r\n",
        b"MSG a 1 reply\x0bto\x0cme 2\r\nhi\r\n",
        b"HMSG a 1 10 12\r\nNATS/1.0\xff\xffhi\r\n",
        b"HMSG a 1 12 14\r\nno newline!!hi\r\n",
        b"HMSG a 1 16 18\r\nNATS/1.0 9\xff9 x\r\nhi\r\n",
    ],
    ids=["subject", "white space", "header", "block", "status"],
)
async def test_poison_does_not_stop_the_reader(peer: Peer, fake_server: Any, poison: bytes) -> None:
    """`_process_msg` (N7): nats-py's own would end the reader, and `is_connected` would stay true."""
    connection = await peer.dial(fake_server.port)
    fake_server.say(poison)
    await pong(connection)
    assert peer.messages[0][-1] == b"hi"
    assert peer.losses == []


@pytest.mark.parametrize("nonsense", [b"WHAT\r\n", b"MSG a x y\r\n", b"-ERR '\xff'\r\n", b"INFO {\r\n"])
async def test_what_cannot_be_read_ends_the_connection_and_says_so(
    peer: Peer, fake_server: Any, nonsense: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """`_reading_task`: nats-py logs, stops reading and keeps `is_connected` (N7)."""
    await peer.dial(fake_server.port)
    fake_server.say(nonsense)
    assert isinstance(await peer.reason(), (ConnectionError, nats.errors.Error))


async def test_without_tls_no_secret_is_sent_where_tls_was_asked_for(peer: Peer, fake_server: Any) -> None:
    """`_connect_command` (N17)."""
    with pytest.raises(TransportUnavailableError, match="offers no TLS"):
        await peer.dial(fake_server.port, needs_tls=True, user="u", password="PLANTED")
    await peer.connection.end()
    assert fake_server.said == []


@pytest.mark.parametrize(("info", "is_clustered"), [({}, False), ({"cluster": "c"}, True)])
async def test_whether_the_server_is_one_of_several(
    peer: Peer, fake_server: Any, info: dict[str, Any], is_clustered: bool
) -> None:
    """`_server_info`."""
    fake_server.info |= info
    assert (await peer.dial(fake_server.port)).is_clustered is is_clustered


async def test_what_the_socket_has_not_taken_is_known(peer: Peer, proxy: FaultProxy) -> None:
    """`_transport`, `_io_writer`."""
    connection = await peer.dial(proxy.port)
    assert connection.unsent_bytes == 0
    proxy.to_server.stall()
    connection.write(b"PUB a 16777216\r\n" + bytes(1 << 24) + b"\r\n")
    assert connection.unsent_bytes > 0


async def test_nothing_is_left_of_a_server_that_never_answers(proxy: FaultProxy) -> None:
    proxy.to_client.stall()
    async with no_leaks():
        peer = Peer()
        with pytest.raises(TimeoutError):
            await peer.dial(proxy.port, connect_timeout=0.05)
        await peer.connection.end()
        await proxy.reset()


async def test_a_stalled_connection_ends_at_once(proxy: FaultProxy) -> None:
    async with no_leaks():
        peer = Peer()
        connection = await peer.dial(proxy.port)
        proxy.black_hole()
        connection.write(b"PUB a 16777216\r\n" + bytes(1 << 24) + b"\r\n")
        async with asyncio.timeout(5):
            await connection.end()
        await proxy.reset()


class ClosedSocket:
    """As uvloop's when the connection was reset: it does not ignore a write, as asyncio's does."""

    def __init__(self, real: asyncio.WriteTransport) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def write(self, _: bytes) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")


async def test_a_socket_that_raises_is_the_loss_of_the_connection(peer: Peer, server: Server) -> None:
    connection = await peer.dial(server.port)
    connection._socket = cast("asyncio.WriteTransport", ClosedSocket(connection._socket))
    connection.write(b"PUB a 1\r\n1\r\n")
    assert not connection.ping().done()
    assert peer.losses == [connection]
    assert "handler is closed" in str(connection.lost.result())


async def test_progress_is_bytes_read_and_bytes_sent_up_to_a_mark(peer: Peer, proxy: FaultProxy) -> None:
    connection = await peer.dial(proxy.port)
    mark = connection.written
    before = connection.progress(mark)
    connection.write(b"PUB a 1\r\n1\r\n")
    assert connection.progress(mark) == before
    await pong(connection)
    assert connection.progress(mark) > before
    proxy.black_hole()
    connection.write(b"PUB a 16777216\r\n" + bytes(1 << 24) + b"\r\n")
    assert connection.unsent_bytes > 0
    assert connection.progress(connection.written) < connection.progress(0) + connection.written


async def test_the_server_is_found_by_our_own_resolver(peer: Peer, server: Server) -> None:
    """`_transport`: nats-py keeps the one that it finds there."""
    asked: list[str] = []

    class Names(Resolver):
        async def resolve(self, host: str, port: int) -> list[Address]:
            asked.append(host)
            return await super().resolve(server.host, port)

    connection = Connection(lambda *_: None, peer.denied.append, peer.losses.append)
    await connection.dial(
        f"nats://nats.example:{server.port}", resolver=Names(), needs_tls=False, tls=None, connect_timeout=5.0
    )
    await pong(connection)
    await connection.end()
    assert asked == ["nats.example"]
