"""The inbox: the socket that other peers connect to, to ask this one and to be told what it holds."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import zmq

from clstr.spi import Batcher, Sink, pack, unpack
from clstr_zmq._counters import Counters
from clstr_zmq._guests import Guest, Guests, Round
from clstr_zmq._identity import Identity
from clstr_zmq._protocol import (
    Ack,
    Answer,
    Bye,
    Control,
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
    TooLarge,
    VersionError,
    chunk_ends,
    decode,
    encode,
    encode_answer,
    in_chunks,
)
from clstr_zmq._wire import GoneError, Wire

TRIAL = 0.5  # seconds in which the holder of a peer id that somebody else claims has to show that it is alive
PROBE_INTERVAL = 0.1  # seconds between two looks whether somebody who is waited for has gone
GOODBYE_TIMEOUT = 0.2
PROBE_BYTES = 1024 * 1024
MAX_UNREAD_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class To:
    """Where an answer goes."""

    guest: Guest
    token: int


class Host(Protocol):
    """What the inbox asks of its peer."""

    sink: Sink

    def held(self) -> Sequence[int]:
        """Return the shards that this peer holds."""

    def places(self) -> list[Place]:
        """Return the inboxes of live peers."""

    def check_name(self, user: str, peer_id: str) -> str:
        """Return why the owner of the key that ZeroMQ calls ``user`` must not have this id; empty if it may."""

    def visited(self, hello: Hello) -> None:
        """A peer was welcomed."""


class Inbox:
    """
    A ROUTER and its guests.

    Args:
        wire: The ROUTER.
        place: Where the others reach it.
        me: Who this peer is.
        host: Its peer.
        counters: Where refusals and drops are counted.
        logger: Told who was refused.
    """

    def __init__(
        self, wire: Wire, place: Place, me: Identity, host: Host, *, counters: Counters, logger: logging.Logger
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._wire = wire
        self._place = place
        self._me = me
        self._host = host
        self._counters = counters
        self._logger = logger
        self._guests = Guests()
        self._numbers = itertools.count(1)
        self._out: dict[bytes, Batcher[bytes]] = {}
        self._late: dict[bytes, list[bytes]] = {}  # what must not be lost, and found no room
        self._trials: dict[bytes, tuple[Hello, Guest, asyncio.TimerHandle]] = {}

    @property
    def guests(self) -> list[Guest]:
        """Everybody who is here."""
        return list(self._guests)

    # What is said to all.

    def announce(self, kind: type[Holds | Drops], shards: Sequence[int]) -> Round:
        """Tell every guest of ``shards``; each is to acknowledge it."""
        number = 0
        for part in in_chunks(shards):
            number = next(self._numbers)
            for guest in self._guests:
                self._say(guest.route, kind(number=number, shards=part))
        return self._guests.begin(number, set(self._guests))

    def tell(self, places: list[Place]) -> Round:
        """Tell every guest of inboxes that it does not know."""
        number = next(self._numbers)
        told = set()
        for guest, news in self._guests.untold(places):
            self._say(guest.route, Peers(number=number, places=news))
            told.add(guest)
        return self._guests.begin(number, told)

    async def acknowledged(self, awaited: Round) -> None:
        """Return when everybody has acknowledged, or is dead."""
        while not awaited.done.done():
            await asyncio.wait((awaited.done,), timeout=PROBE_INTERVAL)
            for guest in list(awaited.waiting):
                self._say(guest.route, Ping(number=0))  # finds out whether its connection is closed

    async def flush(self) -> None:
        """Return when every guest has read what it was sent, or is dead."""
        number = next(self._numbers)
        awaited = self._guests.begin(number, set(self._guests))
        for guest in list(awaited.waiting):
            self._say(guest.route, Peers(number=number, places=[]))
        await self.acknowledged(awaited)

    def beat(self) -> None:
        """Count a heartbeat, ask everybody for a word until the next, and try again what found no room."""
        for guest in self._guests:
            if guest.beat():
                self._say(guest.route, Ping(number=0))
            else:
                self._remove(guest, "has not been heard of any more")
        for route, frames in list(self._late.items()):
            del self._late[route]
            self._write(route, frames)

    async def say_goodbye(self) -> None:
        """
        Let every guest hang up, for a moment.

        If the connection broke under them instead, ZeroMQ would throw away what they have not read yet, our good-bye
        included.
        """
        for _, _, timer in self._trials.values():
            timer.cancel()
        self._trials.clear()
        awaited = self._guests.begin(next(self._numbers), set(self._guests))
        for guest in self._guests:
            self._say(guest.route, Bye())
        await asyncio.wait((awaited.done,), timeout=GOODBYE_TIMEOUT)

    # Answers.

    def reply(self, to: To, body: bytes) -> bool:
        """Send an answer; ``False`` if it had to be dropped."""
        guest = to.guest
        if self._guests.get(guest.route) is not guest or guest.unread_bytes > MAX_UNREAD_BYTES:
            return False
        if len(body) > guest.hello.max_bytes:
            self._say(guest.route, TooLarge(token=to.token, size=len(body)))
            return True
        guest.sent_bytes += len(body)
        self._add(guest.route, encode_answer(to.token, body))
        if guest.probe is None and guest.unread_bytes > PROBE_BYTES:
            number = next(self._numbers)
            guest.probe = number, guest.sent_bytes
            self._say(guest.route, Ping(number=number))
        return True

    def _say(self, route: bytes, message: Control | Refused) -> None:
        self._add(route, encode(message))

    def _add(self, route: bytes, frame: bytes) -> None:
        batch = self._out.get(route)
        if batch is None:
            batch = self._out[route] = Batcher(self._loop, partial(self._write, route))
        batch.add(frame)

    def _write(self, route: bytes, frames: list[bytes]) -> None:
        frames = self._late.pop(route, []) + frames
        begin = 0
        for end in chunk_ends([len(frame) for frame in frames]):
            try:
                is_out = self._wire.send(route, pack(frames[begin:end]))
            except GoneError:
                self._gone(route)
                return
            if not is_out:
                self._keep(route, frames[begin:])
                return
            begin = end
        if self._guests.get(route) is None and route not in self._trials:
            self._out.pop(route, None)  # it was a stranger's

    def _keep(self, route: bytes, frames: list[bytes]) -> None:
        """There is no room: answers are dropped, and what else there is waits for it."""
        kept = [frame for frame in frames if not isinstance(decode(memoryview(frame)), Answer)]
        self._counters.dropped_answers += len(frames) - len(kept)
        if kept:
            self._late[route] = kept

    # Who comes and goes.

    def _gone(self, route: bytes) -> None:
        """ZeroMQ says that the connection is closed."""
        guest = self._guests.get(route)
        if guest is not None:
            self._remove(guest, "has closed its connection")
        self._forget(route)

    def _forget(self, route: bytes) -> None:
        self._out.pop(route, None)
        self._late.pop(route, None)
        trial = self._trials.pop(route, None)
        if trial is not None:
            trial[2].cancel()

    def _remove(self, guest: Guest, why: str) -> None:
        self._logger.debug("peer %s %s", guest.hello.peer_id, why)
        self._guests.remove(guest)
        self._forget(guest.route)
        for route, (hello, rival, _) in list(self._trials.items()):
            if rival is guest:
                self._end_trial(route)
                self._greet(route, hello)

    def receive(self, frames: list[zmq.Frame]) -> None:
        """A message came from a connection."""
        if len(frames) != 2:  # noqa: PLR2004 -- the connection's name and one frame, whatever more is
            self._host.sink.garbage(f"a message of {len(frames)} ZeroMQ frames")
            return
        route, frame = frames[0].bytes, frames[1]
        guest = self._guests.get(route)
        try:
            for each in unpack(frame.bytes):
                if guest is None:
                    self._receive_from_stranger(route, _user_of(frame), decode(each))
                    return
                self._act(guest, decode(each))
        except VersionError as error:
            self._refuse(route, "version", str(error))
        except ValueError as error:
            self._host.sink.garbage(str(error))

    def _act(self, guest: Guest, message: Message) -> None:
        guest.was_heard = True
        match message:
            case Request():
                self._host.sink.request(message.shard, message.body, To(guest, message.token))
            case Ping():
                self._say(guest.route, Pong(number=message.number))
            case Pong():
                self._has_answered(guest, message.number)
            case Ack():
                self._guests.acknowledge(guest, message.number)
            case Bye():
                self._remove(guest, "said good-bye")
            case _:
                raise ValueError(f"a {type(message).__name__} that nobody says to an inbox")

    def _receive_from_stranger(self, route: bytes, user: str, message: Message) -> None:
        """A message came from a connection that is no guest's: only its first frame is looked at."""
        if isinstance(message, Hello):
            self._check(route, user, message)
        elif route not in self._trials and not isinstance(message, Bye | Refused):
            self._refuse(route, "stranger", "say hello first: this peer does not know you, or took you for dead")

    def _check(self, route: bytes, user: str, hello: Hello) -> None:
        reason = self._host.check_name(user, hello.peer_id)
        if hello.cluster != self._me.cluster:
            here, there = self._me.cluster, hello.cluster
            self._refuse(route, "cluster", f"this peer is in the cluster {here!r}, the other one in {there!r}")
        elif reason:
            self._refuse(route, "identity", reason)
        else:
            self._greet(route, hello)

    def _greet(self, route: bytes, hello: Hello) -> None:
        """Welcome a newcomer, unless its id is somebody else's: then that one is asked whether it lives."""
        rival = self._guests.rival(hello)
        if hello.peer_id == self._me.peer_id and hello.epoch != self._me.epoch:
            self._refuse_taken(route, hello)
        elif rival is None:
            self._welcome(route, hello)
        else:
            number = next(self._numbers)
            timer = self._loop.call_later(TRIAL, self._remove, rival, "did not defend its id")
            self._trials[route] = hello, rival, timer
            rival.probe = number, rival.sent_bytes
            self._say(rival.route, Ping(number=number))

    def _has_answered(self, guest: Guest, number: int) -> None:
        is_proof = guest.probe is not None and guest.probe[0] == number
        guest.has_read(number)
        for route, (hello, rival, _) in list(self._trials.items()):
            if rival is guest and is_proof:
                self._end_trial(route)
                self._refuse_taken(route, hello)

    def _end_trial(self, route: bytes) -> None:
        _, _, timer = self._trials.pop(route)
        timer.cancel()

    def _welcome(self, route: bytes, hello: Hello) -> None:
        """Tell the newcomer everything, and everybody of the newcomer."""
        guest = Guest(route, hello)
        if not self._me.is_self(hello.peer_id, hello.epoch):
            self._guests.enter(guest)
            for part in in_chunks(self._host.held()):
                self._say(route, Holds(number=0, shards=part))
            self._host.visited(hello)
        told = self.tell(self._host.places())
        told.leave(guest)
        self._say(route, self._me.welcome(self._place))
        told.done.add_done_callback(partial(self._introduce, guest))

    def _introduce(self, guest: Guest, _: asyncio.Future[None]) -> None:
        self._say(guest.route, Introduced())

    def _refuse_taken(self, route: bytes, hello: Hello) -> None:
        self._refuse(route, "taken", f"the peer id {hello.peer_id!r} belongs to another live peer: choose another one")

    def _refuse(self, route: bytes, code: str, reason: str) -> None:
        self._counters.refused_peers += 1
        self._logger.log(
            logging.DEBUG if code == "stranger" else logging.WARNING, "refused a peer (%s): %s", code, reason
        )
        self._say(route, Refused(code=code, reason=reason))


def _user_of(frame: zmq.Frame) -> str:
    """Return the name that the owner of the connection's key has; empty without CURVE."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""


__all__ = ["Inbox", "To"]
