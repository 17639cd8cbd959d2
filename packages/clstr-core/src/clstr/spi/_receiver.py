"""The engine's sink: everything that arrives. Nothing from the wire may stop it (T15)."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING

from clstr._limits import MAX_CHAIN_BYTES, MAX_CHAIN_KEYS, MAX_TTL_MS
from clstr._messages.cluster_name import describe_cluster
from clstr._messages.envelope import Envelope
from clstr._messages.error_wire import decode_error
from clstr._messages.wire import (
    CODECS,
    PROTOCOL_VERSION,
    Buffer,
    Codec,
    JsonReply,
    RequestFrame,
    decode_reply,
    decode_request,
    read_sender,
    sniff,
)
from clstr._rate_limited_log import RateLimitedLog
from clstr.errors import (
    ClstrError,
    ConnectionLostError,
    DrainingError,
    InvalidEnvelopeError,
    InvalidReplyError,
    NotOwnerError,
    PayloadTooLargeError,
)
from clstr.spi._answer_window import MIN_ROOM, read_held
from clstr.spi._delivery import Delivery
from clstr.spi._foreign import ForeignReplies
from clstr.spi._link import Route
from clstr.spi._pending import AskAgain, Outcome, Pending

if TYPE_CHECKING:
    from clstr.spi._engine import Engine

MAX_DEPTH = 1000
FOREIGN_QUIET_SECONDS = 10.0  # between two log lines about another cluster: its clients may go on for days


class Receiver:
    """Implements `clstr.spi.Sink` for one engine."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, codec: Codec, logger: logging.Logger) -> None:
        self._engine = engine
        self._codec = codec
        self._link = engine.link
        self._clock = loop.time
        self._logger = logger
        self._read_at = 0.0  # of the messages that arrive now: loop time
        self._read_at_ms = 0  # the same on the clock of the machine
        self._log = RateLimitedLog(logger, clock=loop.time)
        self._foreign_log = RateLimitedLog(logger, seconds=FOREIGN_QUIET_SECONDS, clock=loop.time)
        self._answered_shards = engine.link.answered_shards
        self._foreign = ForeignReplies(engine.link, engine.counters, logger, loop.time)
        maximum = engine.limits.max_payload_bytes
        self._max_payload_bytes = maximum
        self._max_body_bytes = max(codec.most_bytes(maximum) for codec in CODECS.values())

    def request(self, shard: int, body: Buffer, to: object, read_at: float | None = None) -> None:
        """A message for ``shard`` arrived, which was read at ``read_at``."""
        self._engine.counters.received += 1
        try:
            if read_at is None or read_at != self._read_at:
                self._note_read(read_at)
            self._receive(shard, body, to)
        except Exception as error:  # noqa: BLE001 -- a defect of ours or of the link costs one message, not the reader
            self._log.say(
                logging.ERROR, "a message for shard %s could not be received", shard, kind=type(error), error=error
            )
            self._engine.counters.garbage += 1

    def _note_read(self, read_at: float | None) -> None:
        """Something was read: all messages that were read with it count from the same moment."""
        now = self._clock()
        self._read_at = now if read_at is None else min(read_at, now)
        self._read_at_ms = time.time_ns() // 1_000_000 - int((now - self._read_at) * 1000)

    def _receive(self, shard: int, body: Buffer, to: object) -> None:
        codec = sniff(body)
        try:
            if len(body) > self._max_body_bytes:
                raise PayloadTooLargeError(len(body), self._max_body_bytes)
            frame = decode_request(body, codec)
        except ClstrError as error:
            self.garbage(str(error))
            self._refuse_unreadable(shard, body, codec, to, error)
            return
        engine = self._engine
        to = self._link.reply_address(to, frame.reply_to)
        try:
            envelope = self._check(frame, shard)
            subscription = engine.holders.pick(shard)
            if subscription is None:
                if shard == engine.answers.held.shard and engine.answers.held.take(envelope.data, to):
                    return
                raise NotOwnerError(shard)
            if engine.is_closing:
                raise DrainingError(shard)
        except ClstrError as error:
            self._refuse(frame, codec, to, error)
            return
        if frame.confirm and frame.oneway:
            engine.answers.confirm(codec, to)
        expires = self._read_at + envelope.ttl_ms / 1000 if envelope.ttl_ms else math.inf
        dispatcher, chain = engine.dispatcher, tuple(frame.chain)
        dispatcher.admit(
            Delivery(
                envelope=envelope,
                depth=frame.depth,
                chain=chain,
                received=self._read_at,
                since=self._read_at,
                dispatcher=dispatcher,
                subscription=subscription,
                codec=codec,
                to=to,
                oneway=frame.oneway,
                size=len(body),
                expires=expires,
                deadline=expires,
                room=frame.room,
            )
        )

    def _check(self, frame: RequestFrame, shard: int) -> Envelope:
        if frame.v not in (0, PROTOCOL_VERSION):
            raise InvalidEnvelopeError("v", f"is {frame.v}: this peer speaks protocol version {PROTOCOL_VERSION}")
        if frame.cluster != self._engine.cluster:
            raise self._foreign_cluster(frame)
        data = frame.data or b""
        if len(data) > self._max_payload_bytes:
            raise PayloadTooLargeError(len(data), self._max_payload_bytes)
        if frame.shard != shard:
            raise InvalidEnvelopeError("shard", f"is {frame.shard}, but the message came for shard {shard}")
        if not 0 <= frame.depth <= MAX_DEPTH:
            raise InvalidEnvelopeError("depth", f"must be between 0 and {MAX_DEPTH}, not {frame.depth}")
        chain = frame.chain
        if chain and (len(chain) > MAX_CHAIN_KEYS or sum(map(len, chain)) > MAX_CHAIN_BYTES):
            raise InvalidEnvelopeError("chain", f"exceeds {MAX_CHAIN_KEYS} keys or {MAX_CHAIN_BYTES} bytes")
        envelope = Envelope(
            shard=shard,
            type=frame.type,
            data=data,
            headers=frame.headers,
            ttl_ms=frame.ttl_ms if frame.v else _ttl_of_go(frame.ttl_ms),
            created_at_ms=self._read_at_ms,
        )
        envelope.validate()
        return envelope

    def _foreign_cluster(self, frame: RequestFrame) -> InvalidEnvelopeError:
        """Count a request of another cluster, say so in the log, and return what refuses it."""
        self._engine.counters.foreign_requests += 1
        error = InvalidEnvelopeError(
            "cluster",
            f"is {describe_cluster(frame.cluster)}, but this node's is {describe_cluster(self._engine.cluster)}: "
            "give two clusters on one broker a prefix each, and all peers of a cluster one name",
        )
        self._foreign_log.say(logging.WARNING, "a message for shard %d was refused: its %s", frame.shard, error)
        return error

    def _refuse_unreadable(self, shard: int, body: Buffer, codec: Codec, to: object, error: ClstrError) -> None:
        """Answer a message of which at most the sender can be read: a Go client's address is in the message alone."""
        reply_to, oneway = read_sender(body)
        if oneway:
            self._engine.answers.refuse_unread_notify(shard, "", error)
        else:
            self._engine.answers.refuse_unread(codec, self._link.reply_address(to, reply_to), error)

    def _refuse(self, frame: RequestFrame, codec: Codec, to: object, error: ClstrError) -> None:
        if frame.oneway and not frame.confirm:
            self._engine.answers.refuse_unread_notify(frame.shard, frame.type, error)
        else:
            self._engine.answers.refuse_unread(codec, to, error)

    def answer(self, token: int, body: Buffer, route: Route = None) -> None:
        """The reply to ``token`` arrived."""
        pending = self._engine.pending.get(token)
        if pending is None:
            return
        if route is not None and route != pending.route:
            self.garbage("an answer from a peer that was not asked")
            return
        outcome = self._read_reply(pending, body)
        if outcome is not None:
            if isinstance(outcome, bytes) and pending.room and max(pending.room, len(outcome)) > MIN_ROOM:
                self._engine.pending.window.learn(pending.message_type or "", len(outcome))
            pending.resolve(outcome)

    def _read_reply(self, pending: Pending, body: Buffer) -> Outcome | None:
        """Return what ends the request: nothing if no node wrote ``body``."""
        try:
            if len(body) > self._max_body_bytes:
                raise PayloadTooLargeError(len(body), self._max_body_bytes, is_reply=True)
            frame = decode_reply(body, self._codec)
            if frame.__class__ is JsonReply and not frame.v:
                self._engine.has_go_peers = True
            if self._answered_shards is not None:
                self._answered_shards.add(pending.shard)
            if frame.err or frame.code:
                return read_held(frame) or decode_error(frame)
            return frame.data or b""
        except InvalidReplyError as error:
            self._foreign.note(pending, body, error)
            return None
        except ClstrError as error:
            self.garbage(str(error))
            return error
        except Exception as error:  # noqa: BLE001 -- as for a request
            self._log.say(logging.ERROR, "a reply could not be read", kind=type(error), error=error)
            self._engine.counters.garbage += 1
            return InvalidReplyError("the reply could not be read")

    def routed(self, token: int, route: Route) -> None:
        """``token`` went along ``route``."""
        pending = self._engine.pending.get(token)
        if pending is not None:
            self._engine.pending.went(pending, route)

    def accepted(self, token: int) -> None:
        """The notify ``token`` is on its way."""
        pending = self._engine.pending.get(token)
        if pending is not None and not pending.needs_confirmation:
            pending.resolve(b"")

    def refused(self, token: int, error: ClstrError, *, again_after: float | None = None) -> None:
        """``token`` certainly did not run."""
        error.maybe_executed = False
        self._engine.pending.resolve(token, error if again_after is None else AskAgain(error, again_after))

    def failed(self, token: int, error: ClstrError) -> None:
        """``token`` ended with ``error``."""
        self._engine.pending.resolve(token, error)

    def dropped(self, answers: int) -> None:
        """So many answers reached nobody."""
        self._engine.answers.dropped(answers)

    def lost(self, route: Route) -> None:
        """``route`` is gone."""
        message = "the connection to the peer was lost while the request was in flight"
        self._engine.pending.fail_route(route, ConnectionLostError, message)

    def up(self) -> None:
        """The link is usable again."""
        self._engine.state.up()
        self._engine.answers.unsent.retry()

    def writable(self) -> None:
        """The link takes answers again."""
        self._engine.answers.unsent.retry()

    def down(self, error: Exception, *, fatal: bool = False) -> None:
        """The link is gone, and every request in flight with it."""
        self._engine.state.down(error, fatal=fatal)
        if fatal:
            self._engine.answers.unsent.close()
            self._engine.answers.held.close()
        message = f"the link was lost while the request was in flight: {error}"
        self._engine.pending.fail_sent(ConnectionLostError, message)

    def garbage(self, why: str) -> None:
        """Something arrived that is not ours."""
        self._engine.counters.garbage += 1
        self._logger.debug("garbage from the wire: %s", why)


def _ttl_of_go(ttl_ms: int) -> int:
    """Read a TTL as clstr-go means it: none at 0 and below, and without an upper bound."""
    return min(max(ttl_ms, 0), MAX_TTL_MS)
