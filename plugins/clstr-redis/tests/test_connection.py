"""`clstr_redis._connection`: each private name of redis-py that is used does what is expected of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, cast

import pytest
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from clstr.errors import TransportUnavailableError
from clstr.spi import Resolver, connect_tcp
from clstr_redis._connection import Connection
from clstr_redis._scripts import Script
from clstr_redis._streams import Plain
from clstr_testing import FaultProxy, Server, no_leaks

ADD = Script.of("return ARGV[1] + ARGV[2]")


class Peer:
    """A connection, and what it said."""

    def __init__(self, port: int, patience: float = 5.0) -> None:
        self.messages: list[bytes] = []
        self.read_at: list[float] = []
        self.lost: list[Connection] = []
        dial = partial(connect_tcp, "127.0.0.1", port, Resolver())
        raw = Plain(dial, host="127.0.0.1", port=port, protocol=3, retry=Retry(NoBackoff(), 0), driver_info=None)
        self.connection = Connection(
            raw,
            inbox=b"inbox",
            patience=patience,
            on_message=self.note,
            on_lost=self.lost.append,
        )

    def note(self, message: bytes, read_at: float) -> None:
        self.messages.append(message)
        self.read_at.append(read_at)

    async def reason(self) -> Exception:
        async with asyncio.timeout(10):
            return await asyncio.shield(self.connection.lost)


@pytest.fixture
async def peer(server: Server) -> AsyncIterator[Peer]:
    peer = Peer(server.port)
    await peer.connection.dial()
    yield peer
    await peer.connection.end()


@pytest.fixture
async def fake_peer(fake_server: Any) -> AsyncIterator[Peer]:
    peer = Peer(fake_server.port)
    await peer.connection.dial()
    yield peer
    await peer.connection.end()


async def test_answers_find_their_questions_and_messages_come_in_between(peer: Peer) -> None:
    """`_AsyncRESP3Parser`, `set_pubsub_push_handler`, `_parser`, `read_response(push_request=True)`."""
    connection = peer.connection
    tasks = len(asyncio.all_tasks())
    assert await connection.ask(b"SUBSCRIBE", b"inbox") == [b"subscribe", b"inbox", 1]
    answers: list[object] = []
    commands = [(b"ECHO", b"1"), (b"PUBLISH", b"inbox", b"hello"), (b"NONSENSE",), (b"ECHO", b"2")]
    connection.send([(answers.append, command) for command in commands])
    assert await connection.ask(b"PING") == b"PONG"
    assert (answers[0], answers[1], answers[3]) == (b"1", 1, b"2")
    assert isinstance(answers[2], redis.exceptions.ResponseError)
    assert peer.messages == [b"hello"]
    assert len(asyncio.all_tasks()) == tasks  # one reader, and nothing for each message


async def test_messages_of_one_read_have_one_time(peer: Peer) -> None:
    """However long the first one blocks the loop. What the socket has not received then is read later."""
    loop = asyncio.get_running_loop()
    reader = peer.connection._reading

    def block(message: bytes, read_at: float) -> None:
        peer.note(message, read_at)
        reader._now = lambda: loop.time() + 100.0 * len(peer.messages)

    peer.connection._on_message = block
    for count in (3, 6):
        push = b">3\r\n$7\r\nmessage\r\n$5\r\ninbox\r\n$1\r\nx\r\n"
        reader.feed_data(push * 3)
        async with asyncio.timeout(30):
            while len(peer.messages) < count:  # noqa: ASYNC110 -- the reader is on its way
                await asyncio.sleep(0)
    assert len(set(peer.read_at[:3])) == len(set(peer.read_at[3:])) == 1
    assert peer.read_at[3] - peer.read_at[0] >= 300


async def test_any_bytes_pass(peer: Peer) -> None:
    await peer.connection.ask(b"SUBSCRIBE", b"inbox")
    for body in (b"", b"\r\n", bytes(range(256)), b"$5\r\nhello\r\n", bytes(3 << 20)):
        assert await peer.connection.ask(b"ECHO", body) == body
        assert await peer.connection.ask(b"PUBLISH", b"inbox", body) == 1
        await peer.connection.ask(b"PING")
        assert peer.messages.pop() == body


async def test_a_question_that_the_server_refuses_raises_its_error(peer: Peer) -> None:
    await peer.connection.ask(b"SET", b"key", b"value")
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        await peer.connection.ask(b"ZADD", b"key", b"1", b"a")
    assert not peer.lost


async def test_a_subscription_that_is_refused_is_an_answer_like_any_other(peer: Peer) -> None:
    await peer.connection.ask(b"ACL", b"SETUSER", b"deaf", b"on", b"nopass", b"+@all", b"-subscribe", b"~*", b"&*")
    await peer.connection.ask(b"AUTH", b"deaf", b"x")
    with pytest.raises(redis.exceptions.NoPermissionError, match="subscribe"):
        await peer.connection.ask(b"SUBSCRIBE", b"inbox")
    assert await peer.connection.ask(b"PING") == b"PONG"


async def test_a_script_that_the_server_has_lost_is_loaded_and_runs_once(peer: Peer) -> None:
    for _ in range(2):
        await peer.connection.ask(b"SCRIPT", b"FLUSH")
        assert await asyncio.gather(*(peer.connection.run(ADD, [], b"%d" % n, b"1") for n in range(10))) == [
            *range(1, 11)
        ]


async def test_a_script_that_cannot_be_loaded_is_an_error_and_no_loop(fake_server: Any, fake_peer: Peer) -> None:
    fake_server.answers = {b"EVALSHA": b"-NOSCRIPT none\r\n", b"SCRIPT": b"-NOPERM no\r\n"}
    with pytest.raises(redis.exceptions.NoScriptError):
        await fake_peer.connection.run(ADD, [])
    assert [said[0] for said in fake_server.said[-6:]] == [b"EVALSHA", *[b"SCRIPT"] * 4, b"EVALSHA"]
    with pytest.raises(redis.exceptions.NoScriptError):  # it knows now that it may not
        await fake_peer.connection.run(ADD, [])
    assert [said[0] for said in fake_server.said[-2:]] == [b"EVALSHA", b"EVALSHA"]


async def test_pushes_that_nobody_asked_for_are_let_pass(fake_server: Any, fake_peer: Peer) -> None:
    for push in (
        b">2\r\n$10\r\ninvalidate\r\n_\r\n",
        b">4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\na\r\n$1\r\nb\r\n",
        b">1\r\n$7\r\nunknown\r\n",
        b">3\r\n$6\r\nMOVING\r\n:1\r\n:2\r\n",
        b">3\r\n$7\r\nmessage\r\n$5\r\ninbox\r\n$2\r\nhi\r\n",
    ):
        fake_server.say(push)
    assert await fake_peer.connection.ask(b"PING") == b"OK"
    assert fake_peer.messages == [b"hi"]


async def test_the_end_of_the_connection_is_told_once(server: Server, peer: Peer) -> None:
    """redis-py does not reconnect, and nothing of it hangs."""
    questions = [asyncio.ensure_future(peer.connection.ask(b"BLPOP", b"never", b"0")) for _ in range(3)]
    await asyncio.sleep(0)
    server.kill()
    assert isinstance(await peer.reason(), (OSError, redis.exceptions.RedisError))
    for question in questions:
        with pytest.raises(TransportUnavailableError, match="lost"):
            await question
    with pytest.raises(TransportUnavailableError, match="lost"):
        await peer.connection.ask(b"PING")
    await peer.connection.end()
    await peer.connection.end()
    assert peer.lost == [peer.connection]


async def test_an_answer_that_does_not_come_is_the_loss_of_the_connection(server: Server) -> None:
    peer = Peer(server.port, patience=0.05)
    await peer.connection.dial()
    with pytest.raises(TransportUnavailableError, match=r"not answered for 0\.05 s"):
        await peer.connection.ask(b"BLPOP", b"never", b"0")
    assert peer.lost == [peer.connection]
    await peer.connection.end()


async def test_a_question_that_is_cancelled_gives_its_answer_to_nobody_else(peer: Peer) -> None:
    for n in range(200):
        question = asyncio.ensure_future(peer.connection.ask(b"ECHO", b"cancelled"))
        await asyncio.sleep(0)
        question.cancel()
        assert await peer.connection.ask(b"ECHO", b"%d" % n) == b"%d" % n


async def test_what_the_socket_has_not_taken_is_known(server: Server, proxy: FaultProxy) -> None:
    """`_writer`."""
    peer = Peer(proxy.port)
    assert peer.connection.unsent_bytes == 0
    await peer.connection.dial()
    proxy.to_server.stall()
    peer.connection.send([(lambda _: None, (b"ECHO", bytes(1 << 24)))])
    assert peer.connection.unsent_bytes > 0
    await peer.connection.end()


async def test_a_stalled_connection_ends_at_once_and_leaves_nothing(proxy: FaultProxy) -> None:
    async with no_leaks():
        peer = Peer(proxy.port)
        await peer.connection.dial()
        proxy.black_hole()
        peer.connection.send([(lambda _: None, (b"ECHO", bytes(1 << 24)))])
        async with asyncio.timeout(5):
            await peer.connection.end()
        await proxy.reset()
    assert peer.lost == []


async def test_a_connection_that_was_never_dialled_can_be_ended(server: Server) -> None:
    peer = Peer(server.port)
    peer.connection.send([(lambda _: None, (b"PING",))])
    await peer.connection.end()
    assert peer.connection.lost.done()


class ClosedSocket:
    """As uvloop's when the connection was reset: it does not ignore a write, as asyncio's does."""

    def __init__(self, real: asyncio.WriteTransport) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def write(self, _: bytes) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")


async def test_a_socket_that_raises_is_the_loss_of_the_connection(peer: Peer) -> None:
    assert peer.connection._socket is not None
    peer.connection._socket = cast("asyncio.WriteTransport", ClosedSocket(peer.connection._socket))
    with pytest.raises(TransportUnavailableError, match="handler is closed"):
        await peer.connection.ask(b"PING")
    assert peer.lost == [peer.connection]
