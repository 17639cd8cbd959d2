"""What becomes of messages that ZeroMQ has no room for, at both ends of a connection."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from clstr.errors import ClstrError, OverloadedError, TransportUnavailableError
from clstr.spi import unpack
from clstr_zmq._connection import Connection
from clstr_zmq._counters import Counters
from clstr_zmq._post import Post
from clstr_zmq._protocol import Ack, Bye, Message, Ping, Pong, decode
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
async def connection(socket: Socket, sink: Sink) -> Connection:
    return Connection(cast("Any", socket), "tcp://there:1", cast("Any", sink))


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


@pytest.fixture
async def gone() -> list[bytes]:
    return []


@pytest.fixture
async def counters() -> Counters:
    return Counters()


@pytest.fixture
async def post(socket: Socket, gone: list[bytes], counters: Counters) -> Post:
    return Post(cast("Any", socket), gone.append, counters)


async def test_answers_without_room_are_dropped_and_counted_and_the_rest_waits_for_the_next_heartbeat(
    post: Post, socket: Socket, counters: Counters
) -> None:
    socket.has_room = False
    post.answer(ROUTE, 1, b"a")
    post.say(ROUTE, Pong(number=1))
    await asyncio.sleep(0)
    assert counters.dropped_answers == 1
    post.retry()
    socket.has_room = True
    post.retry()
    post.retry()
    assert socket.sent == [[Pong(number=1)]]


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
    post: Post, socket: Socket, gone: list[bytes]
) -> None:
    socket.has_room = False
    post.say(ROUTE, Pong(number=1))
    await asyncio.sleep(0)
    socket.is_gone = True
    post.retry()
    assert gone == [ROUTE]
    assert (post._out, post._late) == ({}, {})


async def test_what_waits_for_a_peer_that_is_forgotten_is_forgotten(post: Post, socket: Socket) -> None:
    socket.has_room = False
    post.say(ROUTE, Pong(number=1))
    await asyncio.sleep(0)
    post.forget(ROUTE)
    socket.has_room = True
    post.retry()
    assert socket.sent == []
