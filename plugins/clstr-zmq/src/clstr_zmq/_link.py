"""The ZeroMQ link: an inbox, an outbox for each other peer, and who holds what."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import socket
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict
from functools import partial

import zmq

from clstr.errors import (
    AuthenticationError,
    ClstrError,
    NoShardSubscriberError,
    TransportUnavailableError,
)
from clstr.spi import Link, RateLimitedLog, Route, Sink, printable
from clstr_zmq._counters import Counters
from clstr_zmq._curve import Security
from clstr_zmq._dealer import Dealer
from clstr_zmq._dial import Order, dial
from clstr_zmq._directory import Directory
from clstr_zmq._guests import MISSED_HEARTBEATS
from clstr_zmq._here import Here, ToHere
from clstr_zmq._identity import Identity
from clstr_zmq._inbox import Inbox, To
from clstr_zmq._names import Lookup, host_and_port, new_lookup, tcp_endpoint
from clstr_zmq._options import Bind, Options
from clstr_zmq._outbox import Outbox
from clstr_zmq._protocol import MAX_PLACES, Drops, Hello, Holds, Place, Refused
from clstr_zmq._routes import Routes
from clstr_zmq._sockets import Sockets
from clstr_zmq._tasks import Tasks

SETTLE_TIMEOUT = 1.5  # seconds that opening waits for peers that do not answer; what they hold is learned later
FLUSH_TIMEOUT = 0.3


class ZmqLink(Link):
    """
    One peer.

    Args:
        options: Where it is reached, whom it knows, how it is protected.
        peer_id: Its id.
        epoch: Which life of it this is.
        max_bytes: The largest body that it takes.
        logger: Where it says who comes and goes.
        lookup: Resolves names; by default the system does, in threads of its own.

    Attributes:
        sink: The engine's side.
        me: Who this peer is.
        counters: What happened beside what the engine counts.
        lookup: Resolves names.
        tasks: What runs in the background.
    """

    sink: Sink
    me: Identity

    def __init__(
        self,
        options: Options,
        *,
        peer_id: str,
        epoch: int,
        max_bytes: int,
        logger: logging.Logger,
        lookup: Lookup | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._options = options
        self._logger = logger
        self._log = RateLimitedLog(logger)
        self.counters: Counters = Counters()
        self._security = Security(options.curve, peer_id, counters=self.counters, logger=logger)
        self._epoch = epoch
        self._max_bytes = max_bytes
        self._routes = Routes[Outbox | Here]()
        self.lookup: Lookup = lookup or new_lookup()
        self.tasks: Tasks = Tasks()
        self._directory = Directory(
            options.seeds, self._new_outbox, self.settled, logger=logger, lookup=self.lookup, tasks=self.tasks
        )
        self._here = Here()
        self._sockets: Sockets | None = None
        self._inbox: Inbox | None = None
        self._held: set[int] = set()
        self._news = asyncio.Event()
        self._beats: asyncio.TimerHandle | None = None
        self._beaten_at = 0.0
        self._pauses = (0.0, 0.0)  # seconds before the last heartbeat, and before the one before it
        self._refusal: ClstrError | None = None  # why a peer that the URL names does not want us
        self._is_unwanted = False  # for good
        self._is_open = False
        self._is_closed = False

    # Its life.

    async def open(self, sink: Sink) -> None:
        """Bind the inbox, and connect to those that answer soon."""
        self.sink = self._here.sink = sink
        self._sockets = Sockets(self.counters, self._logger)
        self._security.start(self._sockets)
        if self._options.bind is None:
            self._identify(None)
        else:
            self._directory.is_own((await self._bind(self._options.bind)).address)
        self._beaten_at = self._loop.time()
        self._beats = self._loop.call_later(self._options.heartbeat, self._beat, context=contextvars.Context())
        self._directory.start()
        await self._settle()
        self._is_open = True

    async def _bind(self, bind: Bind) -> Place:
        """Make the inbox; what arrives is read in the next tick at the earliest."""
        assert self._sockets is not None  # noqa: S101 -- `open` made it
        bind.check_free()
        bindable = await self._with_address(bind.endpoint)
        wire, endpoint = self._sockets.router(bindable, self._receive, self._security.guard)
        place = Place(address=bind.advertised(endpoint), key=self._security.public_key)
        self._identify(place)
        self._inbox = Inbox(wire, place, self.me, self, counters=self.counters, logger=self._logger)
        return place

    async def _with_address(self, endpoint: str) -> str:
        """Return ``endpoint`` with an address in place of its host's name; interfaces' names are left to ZeroMQ."""
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        named = host_and_port(f"tcp://{host}:0") if endpoint.startswith("tcp://") else None
        if named is None or host == "*" or host in {name for _, name in socket.if_nameindex()}:
            return endpoint
        try:
            addresses = await self.lookup(*named)
        except OSError as error:
            raise TransportUnavailableError(f"cannot bind {endpoint}: {error}") from error
        return tcp_endpoint(min(addresses, key=lambda each: ":" in each), port)  # IPv4 first, as ZeroMQ itself

    def _receive(self, frames: list[zmq.Frame]) -> None:
        assert self._inbox is not None  # noqa: S101 -- it is made in the tick that binds it
        self._inbox.receive(frames)

    def _identify(self, place: Place | None) -> None:
        self.me = Identity(
            cluster=self._options.cluster,
            peer_id=self._security.peer_id,
            epoch=self._epoch,
            inbox=place,
            max_bytes=self._max_bytes,
        )

    async def _settle(self) -> None:
        """Wait for peers that may be there, but not for long; raise if one that the URL names does not want us."""
        try:
            async with asyncio.timeout(SETTLE_TIMEOUT):
                while self._directory.is_settling and not self._is_unwanted:
                    await self._news.wait()
                    self._news.clear()
        except TimeoutError:
            self._logger.info("not every peer has answered yet; they are tried again")
        if self._refusal is not None and (self._is_unwanted or not self._reaches_anybody()):
            raise self._refusal

    def _beat(self) -> None:
        now = self._loop.time()
        self._pauses = (now - self._beaten_at, self._pauses[0])
        self._beaten_at = now
        for outbox in self._directory:
            outbox.beat()
        for outbox in self._directory.forget_lost():
            outbox.hang_up("it has not been reached for long")
        if self._inbox is not None:
            self._inbox.beat()
        self._beats = self._loop.call_later(self._options.heartbeat, self._beat)

    def stats(self) -> dict[str, float]:
        """Count what the engine does not know: the fields of `Counters`."""
        return asdict(self.counters)

    async def flush(self) -> None:
        """Return when every live peer has read what was sent to it."""
        fences = [outbox.fence() for outbox in self._directory]
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT):
                if self._inbox is not None:
                    await self._inbox.flush()
                for fence in fences:
                    await fence
        except TimeoutError:
            self._logger.info("closing without waiting for peers that do not read")

    async def aclose(self) -> None:
        """Say good-bye, and release everything."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._beats is not None:
            self._beats.cancel()
        self._directory.close()
        for outbox in self._directory:
            outbox.hang_up("this peer is closing", is_polite=True)
        try:
            if self._inbox is not None:
                await self._inbox.say_goodbye()
        finally:
            await self.tasks.aclose()
            if self._sockets is not None:
                self._sockets.close()
        if self._sockets is not None:
            await self._sockets.wait_closed()

    # Shards.

    async def hold(self, shards: Sequence[int]) -> None:
        """Announce ``shards``; every peer that is connected knows of them on return."""
        if self._inbox is None:
            raise TransportUnavailableError(
                "this peer has no inbox, so nobody can reach it: connect with bind=tcp://127.0.0.1:5555 or the like"
            )
        self._held.update(shards)
        self._routes.hold(self._here, shards)
        await self._inbox.acknowledged(self._inbox.announce(Holds, shards))

    async def drop(self, shards: Sequence[int]) -> None:
        """Take ``shards`` back; what every peer sent before it knew has arrived on return."""
        self._held.difference_update(shards)
        self._routes.drop(self._here, shards)
        await asyncio.sleep(0)  # what this peer sent to itself in this tick
        if self._inbox is not None:
            await self._inbox.acknowledged(self._inbox.announce(Drops, shards))

    def held(self) -> Sequence[int]:
        """Return the shards that this peer holds."""
        return sorted(self._held)

    # Messages.

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        """Send to one of those that hold ``shard``."""
        holder = self._routes.pick(shard)
        if holder is None:
            raise self._unowned(shard)
        return holder.send(shard, token, body, oneway=oneway)

    def _unowned(self, shard: int) -> ClstrError:
        """Say why there is no way to an owner: nobody is, or nobody is known."""
        if self._directory.is_settling:
            return TransportUnavailableError("peers that may own the shard have not answered yet")
        named = [each for each in self._directory if self._directory.is_named(each) and not each.leads_home]
        if named and not self._reaches_anybody():
            problems = "; ".join(f"{outbox.place.address}: {outbox.problem}" for outbox in named)
            return TransportUnavailableError(f"no peer can be reached: {problems}")
        return NoShardSubscriberError(shard)

    def _reaches_anybody(self) -> bool:
        return any(outbox.peer is not None for outbox in self._directory)

    def reply(self, to: object, body: bytes) -> bool:
        """Send an answer back along the connection that the request came from."""
        if isinstance(to, To) and self._inbox is not None:
            return self._inbox.reply(to, body)
        if isinstance(to, ToHere):
            self._here.reply(to, body)
        return True

    def destination(self, to: object) -> Hashable:
        """Return the guest that asked; ``None`` is this peer itself."""
        return to.guest if isinstance(to, To) else None

    # What outboxes say.

    def _new_outbox(self, place: Place) -> Outbox:
        return Outbox(place, self, self._logger)

    async def dial(self, place: Place, order: Order) -> tuple[str, Dealer]:
        """Connect to whichever address of a place answers; return that and the connection."""
        assert self._sockets is not None  # noqa: S101 -- there are no outboxes before `open`
        new_dealer = partial(self._sockets.dealer, secure=self._security.credentials(place.key))
        return await dial(place.address, lookup=self.lookup, order=order, new_dealer=new_dealer)

    def welcomed(self, outbox: Outbox) -> None:
        """An outbox may be written to, unless its peer is this one, or has another outbox."""
        peer = outbox.peer
        assert peer is not None  # noqa: S101 -- it was welcomed
        if reason := self._security.check_host(outbox.place.key, peer.peer_id):
            self._refuse(outbox, reason)
            return
        others = (each for each in self._directory if each is not outbox and each.peer is not None)
        twin = next((each for each in others if each.is_way_to(peer.peer_id, peer.epoch)), None)
        if self.me.is_self(peer.peer_id, peer.epoch):
            outbox.come_home()
            self._know(outbox)
        elif twin is not None:
            outbox.yield_to(twin)
            self._know(outbox)
        else:
            self._logger.info("connected to peer %s at %s", peer.peer_id, outbox.place.address)
            if self._directory.is_named(outbox) and self._is_elsewhere(outbox, peer.inbox):
                self._directory.move(outbox, peer.inbox)
            if self._inbox is not None:
                self._inbox.tell([peer.inbox])
            self.settled()

    def _refuse(self, outbox: Outbox, reason: str) -> None:
        """Do not ask an inbox, whatever it holds: its key must not say what it says."""
        self.counters.refused_peers += 1
        self._log.say(logging.WARNING, "the inbox at %s is not asked: %s", outbox.place.address, reason)
        self._refusal = AuthenticationError(f"{outbox.place.address}: {reason}")
        outbox.lost(reason)

    def _know(self, outbox: Outbox) -> None:
        """An address led to somebody known: if the URL names it, it may be several peers' and lead elsewhere later."""
        if self._directory.is_named(outbox):
            outbox.look_again_later()
        elif outbox.leads_home:
            self._directory.is_own(outbox.place.address)
            self._directory.remove(outbox)

    def _is_elsewhere(self, outbox: Outbox, place: Place) -> bool:
        """Tell whether an outbox's peer says that it is at another place, which we would believe."""
        way = outbox.place
        return place.address != way.address and place.key == way.key and self._is_reachable(place)

    def holds(self, outbox: Outbox, shards: Iterable[int]) -> None:
        """An outbox's peer holds ``shards`` too."""
        self._routes.hold(outbox, shards)

    def drops(self, outbox: Outbox, shards: Iterable[int]) -> None:
        """An outbox's peer does not hold ``shards`` any more."""
        self._routes.drop(outbox, shards)

    def heard_of(self, places: list[Place]) -> None:
        """There are inboxes at these places too."""
        connected = {outbox.peer.inbox.address for outbox in self._directory if outbox.peer is not None}
        for place in places:
            if place.address not in connected and self._is_reachable(place):
                self._directory.add(place)

    def _is_reachable(self, place: Place) -> bool:
        """Tell whether a peer may send us there: not to other sockets of this machine, not to a key that we refuse."""
        return place.address.startswith(f"{self._options.carrier}://") and self._security.trusts(place.key)

    def lost(self, outbox: Outbox) -> None:
        """An outbox has lost its connection: another address of the same peer may do."""
        for each in self._directory:
            each.take_over(outbox)

    def has_left(self, outbox: Outbox) -> None:
        """An outbox's peer has closed for good; the URL's peers may come back."""
        self.lost(outbox)
        if self._directory.is_named(outbox):
            outbox.dial_later()
        else:
            self._directory.remove(outbox)

    def refused(self, outbox: Outbox, refusal: Refused) -> None:
        """An outbox's peer does not want us."""
        if refusal.code == "stranger":
            self._tell_of_silence(outbox)
            outbox.lost("it took this peer for dead")
            return
        why = printable(refusal.reason)
        reason = f"{outbox.place.address} refused this peer: {why}"
        self._log.say(logging.WARNING, "%s", reason, kind=outbox)
        is_identity = refusal.code in {"identity", "key"}
        self._refusal = AuthenticationError(reason) if is_identity else TransportUnavailableError(reason)
        if refusal.code != "taken":
            outbox.lost(why)
            return
        self._is_unwanted = True
        outbox.hang_up(why)
        self._news.set()
        if self._is_open:
            self.sink.down(self._refusal, fatal=True)

    def _tell_of_silence(self, outbox: Outbox) -> None:
        """Say why a peer took this one for dead, if it was for our silence; it may also have restarted."""
        pause, patience = max(self._pauses), MISSED_HEARTBEATS * self._options.heartbeat
        if pause > patience:
            text = (
                "%s took this peer for dead, and had no owner for its shards: this peer was silent for %.1f s, longer "
                "than %d heartbeats (%g s), because its event loop was blocked or the process did not run"
            )
            self._logger.warning(text, outbox.place.address, pause, MISSED_HEARTBEATS, patience)

    def settled(self) -> None:
        """One more is known to answer, or not to: requests that have no way are tried again."""
        self._news.set()
        if self._is_open:
            self.sink.up()

    # What the inbox asks.

    def places(self) -> list[Place]:
        """Return the inboxes of live peers."""
        guests = self._inbox.guests if self._inbox is not None else []
        known = [guest.hello.inbox for guest in guests if guest.hello.inbox is not None]
        known += [outbox.peer.inbox for outbox in self._directory if outbox.peer is not None]
        return list({place.address: place for place in known}.values())[:MAX_PLACES]

    def check_guest(self, user: str, hello: Hello) -> str:
        """Return why the owner of the key that ZeroMQ calls ``user`` must not say so; empty if it may."""
        return self._security.check_guest(user, hello)

    def visited(self, hello: Hello) -> None:
        """A peer has connected to the inbox: an earlier life of it is over, and it may have an inbox too."""
        for outbox in self._directory:
            if outbox.peer is not None and outbox.is_former_life(hello.peer_id, hello.epoch):
                outbox.lost("its peer has restarted")
        if hello.inbox is not None:
            self.heard_of([hello.inbox])
            self._directory.dial(hello.inbox)
