"""An outbox: the way to one inbox of another peer, dialled again whenever it is lost."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter

import zmq

from clstr.errors import PayloadTooLargeError, TransportUnavailableError
from clstr.spi import unpack
from clstr_zmq._caller import Caller
from clstr_zmq._connection import Connection
from clstr_zmq._dealer import Dealer, DialError
from clstr_zmq._guests import MISSED_HEARTBEATS
from clstr_zmq._pieces import SLACK_BYTES, Pieces
from clstr_zmq._protocol import (
    MAX_SHARDS,
    Ack,
    Answer,
    Bye,
    Drops,
    Holds,
    Introduced,
    Message,
    Peers,
    Ping,
    Place,
    Pong,
    Refused,
    TooLarge,
    Welcome,
    decode,
)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between attempts to connect
LONGEST_AWAY = 30.0  # seconds between two looks where an address leads that led to somebody known
PATIENCE = 1.0  # seconds in which a peer that was just heard of may still turn out to hold a shard


class Outbox:
    """
    The way to one inbox.

    Args:
        place: Where the inbox is.
        caller: Its peer.
        logger: Told when it is lost and found.

    Attributes:
        place: The same.
        peer: What its peer said of itself; ``None`` while there is no connection.
        shards: What its peer holds.
        problem: Why there is no connection.
        lost_at: Since when there is none, in loop time; ``None`` while there is one.
        twin: The outbox of the same peer that it has yielded to.
        leads_home: Whether its address led to this very peer.
        is_settling: Whether it may still turn out that its peer holds a shard.
    """

    def __init__(self, place: Place, caller: Caller, logger: logging.Logger) -> None:
        self._loop = asyncio.get_running_loop()
        self._caller = caller
        self._logger = logger
        self._connection: Connection | None = None
        self._numbers = itertools.count(1)
        self._fences: dict[int, asyncio.Future[None]] = {}
        self._was_heard = False
        self._misses = 0
        self._pause = self._away = FIRST_PAUSE
        self._timer: asyncio.TimerHandle | None = None  # ends the pause before a dial
        self._dialling: asyncio.Task[None] | None = None
        self._endpoint: str = ""  # the last one that there was a connection to
        self._unwelcome: Counter[str] = Counter()  # connections to each endpoint that led to no welcome, since one did
        self._pieces = Pieces(0)  # of this connection
        self.place: Place = place
        self.peer: Welcome | None = None
        self.shards: set[int] = set()
        self.problem: str = "it has not answered yet"
        self.lost_at: float | None = self._loop.time()
        self.twin: Outbox | None = None
        self.leads_home: bool = False
        self.is_settling: bool = True
        self._settling = self._loop.call_later(PATIENCE, self._settle)

    # Its life.

    def dial(self) -> None:
        """Connect, unless that is under way, or another outbox of the same peer lives."""
        if self._connection is None and self._dialling is None and self.twin is None:
            self._stop_timer()
            self._dialling = self._caller.tasks.start(self._dial())

    async def _dial(self) -> None:
        try:
            self._endpoint, dealer = await self._caller.dial(self.place, self._order)
        except DialError as error:
            self._dialling = None
            self._failed(error)
        else:
            self._dialling = None
            self._connected(dealer)

    def _order(self, endpoint: str) -> tuple[int, bool]:
        """Put the address that was used last first, and those behind which nobody speaks as we do last."""
        return self._unwelcome[endpoint], endpoint != self._endpoint

    def _connected(self, dealer: Dealer) -> None:
        """There is a connection: say who this is."""
        self._misses, self._was_heard = 0, False
        self._unwelcome[self._endpoint] += 1
        self._pieces = Pieces(self._caller.me.max_bytes + SLACK_BYTES)
        self._connection = Connection(dealer, self.place.address, self._caller.sink, self.lost)
        self._connection.say(self._caller.me.hello())
        dealer.attach(self)

    def _failed(self, error: DialError) -> None:
        """No connection: if not even one could be tried, log that once. Try again after a pause."""
        if not error.was_tried and str(error) != self.problem:
            self._logger.warning("%s: %s; this is tried again", self.place.address, error)
        self.problem = str(error)
        self._settle()
        self.dial_later()
        if error.is_denied:
            self._caller.refused(self, Refused(code="key", reason=str(error)))
        self._caller.lost(self)

    def lost(self, reason: str) -> None:
        """There is no connection any more: dial again after a pause."""
        if self._connection is not None:
            self.hang_up(reason)
            self.dial_later()
            self._caller.lost(self)

    def dial_later(self) -> None:
        """Connect after a pause, longer each time that it is in vain."""
        self._stop_timer()
        self._timer = self._loop.call_later(self._pause, self.dial)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def hang_up(self, reason: str, *, is_polite: bool = False) -> None:
        """Close the connection, and do not dial again by itself."""
        self._stop_timer()
        if self._dialling is not None:
            self._dialling.cancel()
            self._dialling = None
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self.peer is not None:
            self._logger.log(logging.DEBUG if is_polite else logging.INFO, "%s: %s", self.place.address, reason)
            self.lost_at = self._loop.time()
        self.peer, self.problem = None, reason
        self._caller.drops(self, self.shards)
        self.shards = set()
        connection.close(reason, is_polite=is_polite)
        self._pass()
        self._settle()

    def is_way_to(self, peer_id: str, epoch: int) -> bool:
        """Tell whether its peer is this one."""
        return self.peer is not None and (self.peer.peer_id, self.peer.epoch) == (peer_id, epoch)

    def is_former_life(self, peer_id: str, epoch: int) -> bool:
        """Tell whether its peer is an earlier life of this one."""
        return self.peer is not None and self.peer.peer_id == peer_id and self.peer.epoch != epoch

    def yield_to(self, twin: Outbox) -> None:
        """Its peer has another outbox: one is enough, as long as that one lives."""
        self.twin = twin
        self.leads_home = False
        self.hang_up(f"it is the peer at {twin.place.address}", is_polite=True)
        self._settle()

    def come_home(self) -> None:
        """Its address led to this very peer."""
        self.leads_home = True
        self.hang_up("this is the peer itself", is_polite=True)

    def look_again_later(self) -> None:
        """
        Connect after a pause, longer each time: its address led to somebody known, and may lead elsewhere then.

        So does a virtual address with several peers behind it. Peers that were led to each other, or to themselves,
        would never learn of the rest.
        """
        self._stop_timer()
        self._timer = self._loop.call_later(self._away, self._look_again)
        self._away = min(2 * self._away, LONGEST_AWAY)

    def _look_again(self) -> None:
        self.twin = None
        self.dial()

    def take_over(self, twin: Outbox) -> None:
        """Dial again if it has yielded to ``twin``."""
        if self.twin is twin:
            self.twin = None
            self.dial()

    def beat(self) -> None:
        """Count a heartbeat; the peer is dead after some without a word from it. Our own loop may be late: no clock."""
        if self._connection is None:
            return
        self._misses = 0 if self._was_heard else self._misses + 1
        self._was_heard = False
        if self._misses >= MISSED_HEARTBEATS:
            self.lost("it does not answer any more")
        elif self.peer is not None:  # and writes what found no room
            self._connection.say(Ping(number=next(self._numbers)))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _settle(self) -> None:
        self._settling.cancel()
        if self.is_settling:
            self.is_settling = False
            self._caller.settled()

    # Out.

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Connection:
        """Send a request at the end of the tick; return what stands for this connection."""
        if self._connection is None or self.peer is None:
            raise TransportUnavailableError(f"{self.place.address}: {self.problem}")
        if len(body) > self.peer.max_bytes:
            raise PayloadTooLargeError(len(body), self.peer.max_bytes, setting="max_payload_bytes at the receiver")
        self._connection.request(token, shard, body, oneway=oneway)
        return self._connection

    def fence(self) -> asyncio.Future[None]:
        """Return what is done when the peer has read everything that was sent, or the connection is gone."""
        fence: asyncio.Future[None] = self._loop.create_future()
        if self._connection is None or self.peer is None:
            fence.set_result(None)
        else:
            number = next(self._numbers)
            self._fences[number] = fence
            self._connection.say(Ping(number=number))
        return fence

    def _pass(self, number: int | None = None) -> None:
        """What was sent before the ping of this number was read; without one, nothing will be any more."""
        for each in list(self._fences) if number is None else [number]:
            fence = self._fences.pop(each, None)
            if fence is not None and not fence.done():
                fence.set_result(None)

    # In.

    def receive(self, frames: list[zmq.Frame]) -> None:
        """A message came."""
        connection = self._connection
        if len(frames) != 1 or connection is None:
            self._caller.sink.garbage(f"a message of {len(frames)} ZeroMQ frames")
            return
        self._was_heard = True
        try:
            for frame in unpack(self._pieces.add(frames[0].bytes)):
                self._act(decode(frame), connection)
                if self._connection is not connection:
                    return
        except ValueError as error:
            self._caller.sink.garbage(str(error))

    def _act(self, message: Message, connection: Connection) -> None:
        match message:
            case Answer():
                self._caller.sink.answer(message.token, message.body, connection)
            case Pong():
                self._pass(message.number)
            case Ping():
                connection.say(Pong(number=message.number))
            case Holds() | Drops():
                self._update(message)
                connection.say(Ack(number=message.number))
            case Peers():
                self._caller.heard_of(message.places)
                connection.say(Ack(number=message.number))
            case _:
                self._act_on_greeting(message)

    def _act_on_greeting(self, message: Message) -> None:
        match message:
            case Welcome() if self.peer is None:
                self._be_welcome(message)
            case Introduced():
                self._settle()
            case Refused():
                self._caller.refused(self, message)
            case TooLarge():
                maximum = self._caller.me.max_bytes
                error = PayloadTooLargeError(message.size, maximum, is_reply=True)
                self._caller.sink.failed(message.token, error)
            case Bye():
                self.hang_up("it has closed", is_polite=True)
                self._caller.has_left(self)
            case _:
                raise ValueError(f"a {type(message).__name__} that no inbox says")

    def _be_welcome(self, welcome: Welcome) -> None:
        self.peer, self.lost_at, self.problem = welcome, None, ""
        self._caller.holds(self, self.shards)
        self._caller.welcomed(self)
        if self.peer is not None:  # else its key must not say that, or it is known already
            self._pause = FIRST_PAUSE
            self._unwelcome.clear()

    def _update(self, message: Holds | Drops) -> None:
        """Note what the peer holds; before it has said that we are welcome, nothing is sent there."""
        shards = set(message.shards)
        if isinstance(message, Drops):
            self.shards -= shards
            self._caller.drops(self, shards)
            return
        if len(self.shards | shards) > MAX_SHARDS:
            raise ValueError(f"a peer that claims to hold more than {MAX_SHARDS} shards")
        self.shards |= shards
        if self.peer is not None:
            self._caller.holds(self, shards)
