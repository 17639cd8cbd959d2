"""What becomes of messages that ZeroMQ has no room for, at both ends of a connection."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from clstr.errors import ClstrError, OverloadedError, TransportUnavailableError
from clstr.spi import unpack
from clstr_zmq import _connection, _post
from clstr_zmq._connection import Connection
from clstr_zmq._post import Post
from clstr_zmq._protocol import Ack, Answer, Bye, Message, Ping, Pong, Refused, decode
from clstr_zmq._wire import GoneError

ROUTE = b"route"


class Socket:
    """Takes messages as long as it has room; ``breaks`` is what looking at its connection shows."""

    def __init__(self) -> None:
        self.has_room = True
        self.is_gone = False
        self.sent: list[list[Message]] = []
        self.breaks: Any = None
        self.is_closed = False

    def send(self, *frames: bytes) -> bool:
        if self.is_gone:
            raise GoneError
        if self.has_room:
            self.sent.append([decode(frame) for frame in unpack(frames[-1])])
        return self.has_room

    def look(self) -> None:
        if self.breaks is not None:
            self.breaks()

    def close(self, linger: int = 0) -> None:
        self.is_closed = True


class Sink:
    """Notes what becomes of requests."""

    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []
        self.errors: list[ClstrError] = []

    def accepted(self, token: int) -> None:
        self.events.append(("accepted", token))

    def refused(self, token: int, error: ClstrError, *, again_after: float | None = None) -> None:
        self.events.append(("refused" if again_after is None else "again", token))
        self.errors.append(error)

    def lost(self, route: object) -> None:
        self.events.append(("lost", route))


@pytest.fixture
async def socket() -> Socket:
    return Socket()


@pytest.fixture
async def sink() -> Sink:
    return Sink()


@pytest.fixture
async def lost() -> list[str]:
    return []


@pytest.fixture
async def connection(socket: Socket, sink: Sink, lost: list[str]) -> Connection:
    return Connection(cast("Any", socket), "tcp://there:1", cast("Any", sink), lost.append)


def kinds(messages: list[Message]) -> list[str]:
    return [type(message).__name__ for message in messages]


async def test_what_one_tick_says_is_one_message_in_order(connection: Connection, socket: Socket, sink: Sink) -> None:
    connection.request(1, 0, b"a", oneway=False)
    connection.say(Ack(number=1))
    connection.request(2, 0, b"b", oneway=True)
    await asyncio.sleep(0)
    [message] = socket.sent
    assert kinds(message) == ["Request", "Ack", "Request"]
    assert sink.events == [("accepted", 2)]


async def test_requests_without_room_are_overload_and_acknowledgements_wait(
    connection: Connection, socket: Socket, sink: Sink
) -> None:
    socket.has_room = False
    connection.request(1, 0, b"a", oneway=False)
    connection.say(Ack(number=1))
    await asyncio.sleep(0)
    assert sink.events == [("refused", 1)]
    assert isinstance(sink.errors[0], OverloadedError)
    socket.has_room = True
    connection.say(Ping(number=2))
    await asyncio.sleep(0)
    assert [kinds(message) for message in socket.sent] == [["Ack", "Ping"]]


async def test_requests_that_meet_a_broken_connection_are_sent_another_way(
    connection: Connection, socket: Socket, sink: Sink
) -> None:
    """ZeroMQ gives the same answer as for a full queue: only a look at the connection tells."""
    socket.has_room = False
    socket.breaks = lambda: connection.close("the connection broke", is_polite=False)
    connection.request(1, 0, b"a", oneway=False)
    connection.say(Ack(number=1))
    await asyncio.sleep(0)
    assert sink.events == [("lost", connection), ("again", 1)]
    assert isinstance(sink.errors[0], TransportUnavailableError)
    assert socket.is_closed
    connection.say(Ack(number=2))
    await asyncio.sleep(0)
    assert socket.sent == []


async def test_a_polite_end_says_good_bye(connection: Connection, socket: Socket, sink: Sink) -> None:
    connection.request(1, 0, b"a", oneway=True)
    connection.close("done", is_polite=True)
    assert sink.events == [("again", 1), ("lost", connection)]
    assert socket.sent == [[Bye()]]


async def test_a_peer_that_makes_us_speak_and_reads_nothing_is_left(
    connection: Connection, socket: Socket, sink: Sink, lost: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connection, "MAX_LATE", 2)
    socket.has_room = False
    for number in range(3):
        assert lost == []
        connection.request(number, 0, b"a", oneway=False)
        connection.say(Pong(number=number))
        await asyncio.sleep(0)
    assert lost == ["it does not read what it makes us say"]
    assert connection._late == []
    assert sink.events == [("refused", 0), ("refused", 1), ("refused", 2)]


@pytest.fixture
async def gone() -> list[tuple[bytes, str]]:
    return []


@pytest.fixture
async def dropped() -> list[int]:
    return []


@pytest.fixture
async def post(socket: Socket, gone: list[tuple[bytes, str]], dropped: list[int]) -> Post:
    return Post(cast("Any", socket), lambda route, why: gone.append((route, why)), dropped.append)


async def test_what_finds_no_room_is_written_in_order_as_soon_as_there_is(
    post: Post, socket: Socket, dropped: list[int]
) -> None:
    socket.has_room = False
    post.answer(ROUTE, 1, b"a")
    post.say(ROUTE, Pong(number=1))
    await asyncio.sleep(0)
    socket.has_room = True
    async with asyncio.timeout(5):
        while not socket.sent:  # noqa: ASYNC110 -- a fake socket has no event
            await asyncio.sleep(0)
    post.retry()
    assert socket.sent == [[Answer(1, memoryview(b"a")), Pong(number=1)]]
    assert dropped == []


async def test_answers_that_wait_for_room_end_with_their_connection_and_are_counted(
    post: Post, socket: Socket, gone: list[tuple[bytes, str]], dropped: list[int]
) -> None:
    socket.has_room = False
    for token in range(3):
        post.answer(ROUTE, token, b"a")
    await asyncio.sleep(0)
    socket.is_gone = True
    post.retry()
    assert (gone, sum(dropped)) == ([(ROUTE, "has closed its connection")], 3)


async def test_closing_drops_what_waits_and_tries_nothing_more(post: Post, socket: Socket, dropped: list[int]) -> None:
    socket.has_room = False
    post.answer(ROUTE, 1, b"a")
    await asyncio.sleep(0)
    post.close()
    assert (post._late, sum(dropped)) == ({}, 1)


async def test_what_waited_goes_before_what_is_said_now(post: Post, socket: Socket) -> None:
    socket.has_room = False
    post.say(ROUTE, Pong(number=1))
    await asyncio.sleep(0)
    socket.has_room = True
    post.say(ROUTE, Pong(number=2))
    post.retry()
    assert socket.sent == []
    await asyncio.sleep(0)
    assert socket.sent == [[Pong(number=1), Pong(number=2)]]


async def test_a_closed_connection_is_told_of_and_nothing_is_kept_for_it(
    post: Post, socket: Socket, gone: list[tuple[bytes, str]]
) -> None:
    socket.has_room = False
    post.say(ROUTE, Pong(number=1))
    await asyncio.sleep(0)
    socket.is_gone = True
    post.retry()
    assert gone == [(ROUTE, "has closed its connection")]
    assert (post._out, post._late) == ({}, {})


async def test_a_guest_that_makes_us_speak_and_reads_nothing_is_as_good_as_gone(
    post: Post, socket: Socket, gone: list[tuple[bytes, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_post, "MAX_LATE", 2)
    socket.has_room = False
    for number in range(3):
        assert gone == []
        post.say(ROUTE, Pong(number=number))
        await asyncio.sleep(0)
    assert gone == [(ROUTE, "does not read what it makes us say")]
    assert post._late == {}


async def test_a_refusal_that_finds_no_room_is_lost_and_is_no_dropped_answer(
    post: Post, socket: Socket, dropped: list[int]
) -> None:
    """Whoever goes on is refused again; a stranger must not make them pile up."""
    socket.has_room = False
    post.say(ROUTE, Refused(code="stranger", reason="say hello first"))
    await asyncio.sleep(0)
    assert (post._late, sum(dropped)) == ({}, 0)


async def test_what_waits_for_a_peer_that_is_forgotten_is_forgotten(post: Post, socket: Socket) -> None:
    socket.has_room = False
    post.say(ROUTE, Pong(number=1))
    await asyncio.sleep(0)
    post.forget(ROUTE)
    socket.has_room = True
    post.retry()
    assert socket.sent == []
