"""The inbox: the socket that other peers connect to, to ask this one and to be told what it holds."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol

import zmq

from clstr.spi import Sink, unpack
from clstr_zmq._counters import Counters
from clstr_zmq._guests import Guest, Guests, Round
from clstr_zmq._identity import Identity
from clstr_zmq._pieces import SLACK_BYTES, Pieces
from clstr_zmq._post import Post
from clstr_zmq._protocol import (
    FRAME_OVERHEAD,
    Ack,
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
    Request,
    TooLarge,
    VersionError,
    decode,
    in_chunks,
)
from clstr_zmq._reception import Reception
from clstr_zmq._wire import Wire

PROBE_INTERVAL = 0.1  # seconds between two looks whether somebody who is waited for has gone
GOODBYE_TIMEOUT = 0.15  # closing has 0.4 seconds in all
PROBE_BYTES = 1024 * 1024
MAX_UNREAD_BYTES = 16 * 1024 * 1024  # as much as a peer asks for at once with the default `max_inflight_bytes`


class To(NamedTuple):
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

    def check_guest(self, user: str, hello: Hello) -> str:
        """Return why the owner of the key that ZeroMQ calls ``user`` must not say so; empty if it may."""

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
        self._wire = wire
        self._place = place
        self._me = me
        self._host = host
        self._logger = logger
        self._guests = Guests()
        self._numbers = itertools.count(1)
        self._post = Post(wire, self._gone, self._dropped)
        self._reception = Reception(
            me, self._guests, self._post, self, numbers=self._numbers, counters=counters, logger=logger
        )

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
                self._post.say(guest.route, kind(number=number, shards=part))
        return self._guests.begin(number, set(self._guests))

    def tell(self, places: list[Place], to: Sequence[Guest] | None = None) -> tuple[int, set[Guest]]:
        """Tell every guest, or some, of inboxes that it does not know; return the number of that, and who was told."""
        number = next(self._numbers)
        told = set()
        for guest, news in self._guests.untold(places, self.guests if to is None else to):
            self._post.say(guest.route, Peers(number=number, places=news))
            told.add(guest)
        return number, told

    async def acknowledged(self, awaited: Round) -> None:
        """Return when everybody has acknowledged, or is dead."""
        while not awaited.done.done():
            await asyncio.wait((awaited.done,), timeout=PROBE_INTERVAL)
            for guest in list(awaited.waiting):
                self._post.say(guest.route, Ping(number=0))  # finds out whether its connection is closed

    async def flush(self) -> None:
        """Return when every guest has read what it was sent, or is dead."""
        number = next(self._numbers)
        awaited = self._guests.begin(number, set(self._guests))
        for guest in list(awaited.waiting):
            self._post.say(guest.route, Peers(number=number, places=[]))
        await self.acknowledged(awaited)

    def beat(self) -> None:
        """Count a heartbeat, ask everybody for a word until the next, and try again what found no room."""
        for guest in self._guests:
            if guest.beat():
                self._post.say(guest.route, Ping(number=0))
            else:
                self.dismiss(guest, "has not been heard of any more")
        self._post.retry()

    async def say_goodbye(self) -> None:
        """
        Let every guest hang up, for a moment.

        If the connection broke under them instead, ZeroMQ would throw away what they have not read yet, our good-bye
        included.
        """
        self._reception.close()
        awaited = self._guests.begin(next(self._numbers), set(self._guests))
        for guest in self._guests:
            self._post.say(guest.route, Bye())
        await asyncio.wait((awaited.done,), timeout=GOODBYE_TIMEOUT)
        self._post.close()

    # Answers.

    def reply(self, to: To, body: bytes) -> bool:
        """Send an answer; ``False`` if the guest has too much to read."""
        guest = to.guest
        if self._guests.get(guest.route) is not guest:
            self._host.sink.dropped(1)
            return True
        if guest.unread_bytes > MAX_UNREAD_BYTES:
            guest.is_full = True
            return False
        if len(body) > guest.hello.max_bytes:
            self._post.say(guest.route, TooLarge(token=to.token, size=len(body)))
            return True
        guest.sent_bytes += len(body) + FRAME_OVERHEAD
        self._post.answer(guest.route, to.token, body)
        self._probe(guest)
        return True

    def _probe(self, guest: Guest) -> None:
        """Ask a guest to say how much it has read, if that may be much less than it was sent."""
        if guest.probe is None and guest.unread_bytes > PROBE_BYTES:
            number = next(self._numbers)
            guest.probe = number, guest.sent_bytes
            self._post.say(guest.route, Ping(number=number))

    def _has_read(self, guest: Guest, number: int) -> None:
        guest.has_read(number)
        self._probe(guest)
        if guest.is_full and guest.unread_bytes <= MAX_UNREAD_BYTES // 2:
            guest.is_full = False
            self._host.sink.writable()

    def _dropped(self, answers: int) -> None:
        self._host.sink.dropped(answers)

    # Who comes and goes.

    def check_guest(self, user: str, hello: Hello) -> str:
        """Return why the owner of the key that ZeroMQ calls ``user`` must not say so; empty if it may."""
        return self._host.check_guest(user, hello)

    def admit(self, route: bytes, hello: Hello) -> None:
        """Tell a newcomer everything, and everybody of the newcomer."""
        guest = Guest(route, hello, Pieces(self._me.max_bytes + SLACK_BYTES))
        if self._me.is_self(hello.peer_id, hello.epoch):
            self._post.say(route, self._me.welcome(self._place))
            self._introduce(guest)
            return
        self._guests.enter(guest)
        for part in in_chunks(self._host.held()):
            self._post.say(route, Holds(number=0, shards=part))
        self._host.visited(hello)
        self.tell(self._host.places(), [guest])
        number, told = self.tell([] if hello.inbox is None else [hello.inbox])
        self._post.say(route, self._me.welcome(self._place))
        begun = self._guests.begin(number, told, guest)
        begun.done.add_done_callback(partial(self._introduce, guest))

    def _introduce(self, guest: Guest, _: asyncio.Future[None] | None = None) -> None:
        self._post.say(guest.route, Introduced())

    def dismiss(self, guest: Guest, why: str) -> None:
        """Forget a guest."""
        self._logger.debug("peer %s %s", guest.hello.peer_id, why)
        self._guests.remove(guest)
        self._post.forget(guest.route)
        self._reception.has_left(guest)
        if guest.is_full:
            self._host.sink.writable()  # what it did not take is offered again, and dropped

    def _gone(self, route: bytes, why: str) -> None:
        """A connection is closed, or as good as that."""
        self._post.forget(route)
        self._reception.forget(route)
        guest = self._guests.get(route)
        if guest is not None:
            self.dismiss(guest, why)

    # What arrives.

    def receive(self, frames: list[zmq.Frame]) -> None:
        """A message came from a connection."""
        if len(frames) != 2:  # noqa: PLR2004 -- the connection's name and one frame, whatever more is
            self._host.sink.garbage(f"a message of {len(frames)} ZeroMQ frames")
            return
        route, frame = frames[0].bytes, frames[1]
        guest = self._guests.get(route)
        try:
            for each in unpack(frame.bytes if guest is None else guest.receive(frame.bytes)):
                if guest is None:
                    self._reception.receive(route, _user_of(frame), decode(each))
                    return
                self._act(guest, decode(each))
        except VersionError as error:
            self._reception.refuse(route, "version", str(error))
        except ValueError as error:
            self._host.sink.garbage(str(error))

    def _act(self, guest: Guest, message: Message) -> None:
        match message:
            case Request():
                self._host.sink.request(message.shard, message.body, To(guest, message.token), self._wire.read_at)
            case Ping():
                self._post.say(guest.route, Pong(number=message.number))
            case Pong():
                self._has_read(guest, message.number)
                self._reception.has_answered(guest, message.number)
            case Ack():
                self._guests.acknowledge(guest, message.number)
            case Bye():
                self.dismiss(guest, "said good-bye")
            case _:
                raise ValueError(f"a {type(message).__name__} that nobody says to an inbox")


def _user_of(frame: zmq.Frame) -> str:
    """Return the role and the name of the owner of the connection's key; empty without CURVE."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""
