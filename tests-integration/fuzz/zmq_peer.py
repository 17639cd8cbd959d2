"""A peer of clstr-zmq on sockets that are none: its real link and engine, one good neighbour, and three strangers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import zmq

from clstr import Envelope
from clstr._messages.wire import CODECS
from clstr.spi import Engine, Limits, pack, unpack
from clstr_testing import VirtualTimeLoop
from clstr_zmq import _connection, _directory, _guests, _link, _outbox, _post
from clstr_zmq._inbox import Inbox
from clstr_zmq._link import ZmqLink
from clstr_zmq._options import Bind, Options
from clstr_zmq._outbox import Outbox
from clstr_zmq._protocol import (
    Ack,
    Answer,
    Bye,
    Drops,
    Hello,
    Holds,
    Introduced,
    Message,
    Peers,
    Ping,
    Place,
    Pong,
    Refused,
    Request,
    Welcome,
    decode,
    encode,
    encode_answer,
    encode_request,
)
from clstr_zmq._wire import GoneError
from fuzz.zmq_script import BEAT, DEAF, LEAVE, LONG, TIME, TURN, parts, steps

EPOCH = 5
SHARD, GOOD_SHARD = 0, 7
GOOD = b"good"
STRANGERS = (b"first", b"second", b"third")
HOME, GOOD_PLACE, BAD_PLACE = (Place(address=f"tcp://127.0.0.1:{port}") for port in (1, 2, 3))
HEARTBEAT = 1.0
TICK, TURNS = 1e-6, 1000
FEW = 8  # instead of the bounds of the code, so that inputs of a few bytes reach them
LOGGER = logging.getLogger("fuzz")
LOGGER.addHandler(logging.NullHandler())  # else warnings, of which there are many, are printed
_CODEC = CODECS["msgpack"]
REQUEST = _CODEC.encode(_CODEC.new_request(SHARD, "t", b"data"))
ANSWER = _CODEC.encode(_CODEC.new_reply(b"ok"))


class Frame:
    """What ZeroMQ hands over: bytes, and who sent them if that is known."""

    def __init__(self, data: bytes) -> None:
        self.bytes = data

    def get(self, _name: str) -> str:
        """Return what ZeroMQ knows of the sender: nothing, without CURVE."""
        raise zmq.ZMQError(zmq.EINVAL)


class Router:
    """The inbox's socket. Who is ``deaf`` has no room for a message; who is ``gone`` has closed its connection."""

    def __init__(self, deliver: Callable[[bytes, bytes], None]) -> None:
        self.deliver = deliver
        self.deaf: set[bytes] = set()
        self.gone: set[bytes] = set()
        self.read_at = asyncio.get_running_loop().time()

    def send(self, route: bytes, message: bytes) -> bool:
        """Send, as `clstr_zmq._wire.Wire` does."""
        if route in self.gone:
            raise GoneError
        if route in self.deaf:
            return False
        self.deliver(route, message)
        return True


class Dealer:
    """A connection to somebody's inbox."""

    def __init__(self, place: Place, deliver: Callable[[Dealer, bytes], None]) -> None:
        self.place, self.deliver = place, deliver
        self.user: Outbox | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_deaf = self.is_closed = False

    def attach(self, user: Outbox) -> None:
        """Give ``user`` what arrives."""
        self.user = user

    def receive(self, *parts: bytes) -> None:
        """Let parts of a message arrive, if somebody uses it."""
        if self.user is not None and not self.is_closed:
            self.user.receive([Frame(part) for part in parts])  # type: ignore[misc]  # a part of a frame

    def send(self, message: bytes) -> bool:
        """Send, as `clstr_zmq._dealer.Dealer` does."""
        if not self.is_deaf:
            self.deliver(self, message)
        return not self.is_deaf

    def look(self) -> None:
        """It is connected."""

    def close(self, _linger: int = 0) -> None:
        """Close it."""
        self.is_closed = True


class Sockets:
    """In place of `clstr_zmq._sockets.Sockets`."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def router(self, endpoint: str, _receive: object, _secure: object) -> tuple[Router, str]:
        """Bind the inbox."""
        return self._peer.router, endpoint

    def dealer(self, endpoint: str, secure: object) -> Dealer:
        """Connect to an inbox."""
        return self._peer.dial(Place(address=endpoint))

    def close(self) -> None:
        """Close nothing."""

    async def wait_closed(self) -> None:
        """Wait for nothing."""


class Peer:
    """
    The peer, its neighbours and the wires between them; made on a running loop.

    The good neighbour is connected in both directions, holds `GOOD_SHARD`, and answers what it is asked. The inbox at
    `BAD_PLACE` says what a script says.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.router = Router(self._at_guest)
        self.dealers: dict[str, Dealer] = {}
        self.answers: list[int] = []  # tokens of what the good neighbour was answered
        options = Options(bind=Bind(endpoint=HOME.address, host="127.0.0.1", port=1), heartbeat=HEARTBEAT)
        self.link = ZmqLink(options, peer_id="home", epoch=EPOCH, max_bytes=4096, logger=LOGGER, lookup=_look_up)
        self.engine = Engine(self.link, limits=Limits(drain_timeout=1.0), logger=LOGGER)
        self.rebuffs: list[Message] = []  # what a good neighbour should not hear
        self.tokens = itertools.count(1)

    def dial(self, place: Place) -> Dealer:
        """Connect to an inbox: to the good one, and to the bad one, at once."""
        dealer = self.dealers[place.address] = Dealer(place, self._at_inbox)
        if place in {GOOD_PLACE, BAD_PLACE}:
            dealer.opened.set_result(None)
        return dealer

    # The neighbours.

    def _at_guest(self, route: bytes, message: bytes) -> None:
        """Something is said to who is connected to the inbox: the good neighbour answers, strangers do not."""
        for frame in unpack(message):
            told = decode(frame)
            if route == GOOD:
                self._good_guest_hears(told)

    def _good_guest_hears(self, told: Message) -> None:
        if isinstance(told, Answer):
            self.answers.append(told.token)
        elif isinstance(told, Bye | Refused):
            self.rebuffs.append(told)
        else:
            self.loop.call_soon(self.say, GOOD, *_acknowledge(told))

    def _at_inbox(self, dealer: Dealer, message: bytes) -> None:
        """Something is said to an inbox that this peer is connected to."""
        told = [decode(frame) for frame in unpack(message)]
        if dealer.place == GOOD_PLACE:
            answer = [frame for each in told for frame in _good_inbox_answers(each)]
            if answer:
                self.loop.call_soon(dealer.receive, pack(answer))

    def say(self, route: bytes, *frames: bytes) -> None:
        """Let somebody say something to the inbox."""
        if frames:
            self.receive(route, pack(frames))

    def receive(self, route: bytes, *parts: bytes) -> None:
        """Let parts of a message arrive at the inbox."""
        self.link._receive([Frame(part) for part in (route, *parts)])  # type: ignore[misc]  # as above

    # What a test does.

    async def open(self) -> None:
        """Open it, and let the good neighbour come."""
        await self.engine.open()
        await self.engine.subscribe([SHARD], _handle)
        self.say(GOOD, encode(hello("good", 1, GOOD_PLACE)))
        await self._until(lambda: self.link._routes.pick(GOOD_SHARD) is not None)

    @property
    def inbox(self) -> Inbox:
        """Its inbox."""
        assert self.link._inbox is not None
        return self.link._inbox

    def outbox(self, place: Place) -> Outbox | None:
        """Return its outbox for an inbox."""
        return self.link._directory._outboxes.get(place.address)

    async def play(self, script: bytes) -> None:
        """Let strangers do what a script says."""
        for step, body in steps(script):
            who, how = step & 3, step >> 2 & 3
            if who == TIME:
                await self._let_pass(how, STRANGERS[step >> 4 & 3 :][:1])
            else:
                self._stranger_says(STRANGERS[who], how, body)
            await asyncio.sleep(0)
            self.check_bounds()

    async def play_inbox(self, script: bytes) -> None:
        """Let the bad inbox say what a script says."""
        for step, body in steps(script):
            how = step >> 2 & 3
            if step & 3 == TIME:
                await self._let_pass(how, [])
            elif (dealer := self.dealers.get(BAD_PLACE.address)) is not None and not dealer.is_closed:
                dealer.is_deaf |= how == DEAF
                dealer.receive(*parts(how, body))
            await asyncio.sleep(0)
            self.check_bounds()

    def _stranger_says(self, route: bytes, how: int, body: bytes) -> None:
        if how == DEAF:
            self.router.deaf.add(route)
        if route not in self.router.gone:
            self.receive(route, *parts(how, body))

    async def _let_pass(self, how: int, leaving: Iterable[bytes]) -> None:
        if how == LEAVE:
            self.router.gone.update(leaving)
        else:
            await asyncio.sleep({BEAT: HEARTBEAT, LONG: 4 * HEARTBEAT, TURN: 0}[how])

    # What must hold.

    async def _until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(TURNS * TICK):
            while not is_so():  # noqa: ASYNC110 -- each turn takes a microsecond of virtual time
                await asyncio.sleep(0)

    def check_bounds(self) -> None:
        """Nobody fills this peer's memory."""
        inbox, routes = self.inbox, {GOOD, *STRANGERS}
        assert set(inbox._guests._by_route) <= routes
        assert set(inbox._reception._trials) <= set(STRANGERS)
        assert len(inbox._guests._rounds) <= len(routes)
        assert all(len(late) <= FEW for late in inbox._post._late.values())
        assert all(len(guest.told) <= 2 * FEW for guest in inbox.guests)
        outboxes = list(self.link._directory)
        assert len(outboxes) <= FEW
        for outbox in outboxes:
            assert len(outbox.shards) <= FEW
            assert outbox._connection is None or len(outbox._connection._late) <= FEW
        assert len(self.link._routes._holders) <= 1 + FEW * len(outboxes)

    async def check_health(self) -> None:
        """The good neighbour is what it was: it asks and is answered, it is asked and answers."""
        guest = self.inbox._guests.get(GOOD)
        assert guest is not None, "the good neighbour is a guest no more"
        assert not self.rebuffs
        token = next(self.tokens)
        self.say(GOOD, encode_request(token, SHARD, REQUEST))
        await self._until(lambda: token in self.answers)
        assert self.answers.count(token) == 1
        assert await self.engine.request(Envelope(shard=GOOD_SHARD, type="t"), timeout=HEARTBEAT) == b"ok"

    async def check_calm(self) -> None:
        """Once the strangers have gone nothing is left of them."""
        self.router.gone.update(STRANGERS)
        await asyncio.sleep((FEW + 0.5) * HEARTBEAT)  # between two heartbeats
        inbox = self.inbox
        assert [guest.route for guest in inbox.guests] == [GOOD]
        assert inbox.guests[0].told <= {HOME.address, GOOD_PLACE.address}
        assert not inbox._reception._trials
        assert not inbox._guests._rounds
        assert not inbox._post._late
        assert not inbox._post._out
        assert {outbox.place for outbox in self.link._directory} <= {GOOD_PLACE, BAD_PLACE}


async def _handle(envelope: Envelope) -> bytes:
    return envelope.data


def hello(peer_id: str, epoch: int, inbox: Place | None = None) -> Hello:
    """Return what somebody says first."""
    return Hello(cluster="clstr", peer_id=peer_id, epoch=epoch, inbox=inbox, max_bytes=4096)


def _acknowledge(told: Message) -> Iterator[bytes]:
    if isinstance(told, Ping):
        yield encode(Pong(number=told.number))
    elif isinstance(told, Holds | Drops | Peers):
        yield encode(Ack(number=told.number))


def _good_inbox_answers(told: Message) -> Iterator[bytes]:
    if isinstance(told, Hello):
        welcome = Welcome(peer_id="good", epoch=1, inbox=GOOD_PLACE, max_bytes=4096)
        yield from (encode(Holds(number=1, shards=[GOOD_SHARD])), encode(welcome), encode(Introduced()))
    elif isinstance(told, Request):
        yield encode_answer(told.token, ANSWER)
    else:
        yield from _acknowledge(told)


def run(act: Callable[[Peer], Any]) -> None:
    """Run something with a peer, on a loop of its own; whatever its callbacks raise, or it logs as an error, fails."""
    loop, faults = VirtualTimeLoop(), _Faults()
    loop.set_exception_handler(lambda _, context: faults.noted.append(str(context)))

    async def live() -> None:
        peer = Peer()
        with ExitStack() as stack:
            for module, name, value in _changes(peer):
                stack.enter_context(mock.patch.object(module, name, value))
            await peer.open()
            await act(peer)
            await peer.engine.aclose()

    with faults:
        loop.run_until_complete(live())
        loop.close()
    assert not faults.noted, faults.noted


async def _look_up(host: str, _port: int) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, f"nobody knows {host}")


def _changes(peer: Peer) -> Iterator[tuple[object, str, object]]:
    yield _link, "Sockets", lambda *_: Sockets(peer)
    yield _directory, "MAX_PLACES", FEW
    yield _guests, "MAX_TOLD", FEW
    yield _post, "MAX_LATE", FEW
    yield _connection, "MAX_LATE", FEW
    yield _directory, "FORGET_AFTER", 2 * HEARTBEAT
    yield _outbox, "MAX_SHARDS", FEW


class _Faults(logging.Handler):
    """Notes what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.noted: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.noted.append(self.format(record))

    def __enter__(self) -> None:
        LOGGER.addHandler(self)

    def __exit__(self, *exc_info: object) -> None:
        LOGGER.removeHandler(self)
