"""The NATS link: subjects, one inbox, and a connection that is replaced when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from clstr.errors import (
    AccessDeniedError,
    NoShardSubscriberError,
    OverloadedError,
    TransportUnavailableError,
)
from clstr.spi import Batcher, Buffer, Link, Reconnector, Route, Sink, WriteBudget, answered_while_moving
from clstr_nats._bystanders import Bystanders, describe_ack
from clstr_nats._connection import Connection
from clstr_nats._dialer import Dialer
from clstr_nats._parser import LARGE
from clstr_nats._rights import Rights
from clstr_nats._subjects import QUEUE, Subjects, is_inbox

INBOX_SID = 1  # ids of subscriptions: a shard's is FIRST_SID more than its number
FIRST_SID = 2
NO_RESPONDERS = b"NATS/1.0 503"
MISSED_HEARTBEATS = 3
# Seconds between two probes while none has found anybody, and between two after requests without an answer: who listens
# gets these.
PROBE_INTERVAL = 10.0
ASK_AGAIN_AFTER = 0.05  # seconds in which every server of a cluster learns who holds what
NEVER_ANSWERED = (
    "shard {} has answered no request of this transport yet, which sends codec=msgpack: if a Go node holds it, connect "
    "with codec=json, all that Go nodes read"
)
MAX_UNSENT_BYTES = 32 * 1024 * 1024  # more than max_inflight_bytes in base64: what is beyond it waits for a dead socket


class NatsLink(Link):
    """
    One peer on NATS.

    Args:
        dialer: Opens connections.
        subjects: What this peer's messages are called.
        heartbeat: Seconds between PINGs.
        logger: Where it says what happened to the connection.
        is_read_by_go: Whether clstr-go's nodes can read what is sent, which is so with ``codec=json`` alone.
    """

    size_setting = "max_payload in the NATS server's configuration"
    _sink: Sink
    _rights: Rights

    def __init__(
        self,
        dialer: Dialer,
        subjects: Subjects,
        heartbeat: float,
        logger: logging.Logger,
        *,
        is_read_by_go: bool = True,
    ) -> None:
        self._dialer = dialer
        self._subjects = subjects
        self._shard_begins = subjects.shard_begins
        self._probe_reply_to = subjects.probe_reply_to.encode()
        self._patience = heartbeat * MISSED_HEARTBEATS
        self._logger = logger
        self._session = Reconnector[Connection](
            "NATS", dial=self._dial, set_up=self._set_up, beat=self._beat, heartbeat=heartbeat, logger=logger
        )
        self._held: set[int] = set()
        self._out = Batcher[bytes](asyncio.get_running_loop(), self._write)
        self._budget = WriteBudget(self._writable, MAX_UNSENT_BYTES)
        self._budget.connected(self._unsent_bytes)
        self._reply_to = (-1, "")  # what was told last, and of which token
        self._notifies: list[int] = []
        self._unwritten_answers = 0
        self._bystanders = Bystanders(subjects, logger)
        self._probe_again_at = 0.0
        self._look_again_at = 0.0
        self.answered_shards = None if is_read_by_go else set()
        self._told: list[int] = []  # shards that it was logged of that the server refuses them

    # Its life.

    async def open(self, sink: Sink) -> None:
        """Connect, and subscribe to the inbox."""
        self._sink = sink
        self._rights = Rights(self._subjects, sink.failed, self._logger)
        await self._session.open(sink)

    @property
    def _connection(self) -> Connection | None:
        """The connection in use. Messages arrive, and are answered, as soon as the server knows of one shard."""
        return self._session.connection

    async def _dial(self) -> Connection:
        return await self._dialer.dial(self._new_connection)

    def _carry(self, maximum: int) -> None:
        """The server carries messages of ``maximum`` bytes."""
        self.max_message_bytes = maximum
        self._budget.max_bytes = max(MAX_UNSENT_BYTES, 2 * maximum)

    def _new_connection(self) -> Connection:
        connection = Connection(self._receive, self._rights.deny, self._session.down)
        connection.on_limit = self._carry
        return connection

    async def _set_up(self, connection: Connection) -> None:
        """Subscribe to the inbox, and again to the shards."""
        self._rights.forget()
        self._carry(connection.max_payload)
        connection.write(_sub(self._subjects.inbox, "", INBOX_SID))
        connection.write(self._subscribe_to(sorted(self._held)))
        self._probe(connection)
        await self._fenced(connection)
        if not self._rights.may_subscribe(self._subjects.inbox):
            raise AccessDeniedError(
                f"the NATS user may not subscribe to {self._subjects.inbox}: grant it its inbox_prefix, as in "
                '{subscribe: ["_INBOX_name.>"]}'
            )
        self._tell_denied()

    def _probe(self, connection: Connection) -> None:
        """Ask whether the server would refuse a message to a shard that nobody owns."""
        connection.write(self._bystanders.probe())
        connection.ping().add_done_callback(self._probed)

    def _probe_again(self, connection: Connection) -> None:
        if self._rights.may_probe and not self._bystanders.is_asking:
            self._probe(connection)

    def _probed(self, pong: asyncio.Future[bool]) -> None:
        self._bystanders.is_asking = False
        if not pong.cancelled():
            self._bystanders.passed(was_denied=not self._rights.may_probe)
            self.needs_confirmation = bool(self._bystanders.found)

    def why_unanswered(self, shard: int) -> str:
        """
        Say who listens to every shard, or that a Go node may hold this one and cannot read what was sent.

        Who listens is asked again: that may have begun, or ended, since the last probe.
        """
        connection, now = self._connection, asyncio.get_running_loop().time()
        if connection is not None and now >= self._probe_again_at:
            self._probe_again_at = now + PROBE_INTERVAL
            self._probe_again(connection)
        if self._bystanders.found or self.answered_shards is None or shard in self.answered_shards:
            return self._bystanders.found
        return NEVER_ANSWERED.format(shard)

    def _hear_of_bystanders(self, body: Buffer, *, is_refusal: bool) -> None:
        self._bystanders.answered(body, is_refusal=is_refusal)
        self.needs_confirmation = bool(self._bystanders.found)

    async def _beat(self, connection: Connection) -> None:
        """Ask whether the server still answers, and for shards that it has refused."""
        now = asyncio.get_running_loop().time()
        if now >= self._look_again_at and not self._bystanders.found:  # so nobody gets to see the probe
            self._look_again_at = now + PROBE_INTERVAL
            self._probe_again(connection)
        if not await self._answers(connection):
            raise TimeoutError(f"the server has not answered for {self._patience:g} s")
        if denied := self._denied(self._held):
            await self._ask_again_for(connection, denied)

    async def _ask_again_for(self, connection: Connection, denied: list[int]) -> None:
        """Subscribe again to shards that the user may not have: rights change while we are connected."""
        self._rights.forget_subscriptions(denied)
        connection.write(self._subscribe_to(denied))
        if await self._answers(connection):
            self._tell_denied()

    def _tell_denied(self) -> None:
        denied = self._denied(self._held)
        if denied != self._told:
            self._told = denied
            what = ", ".join(map(self._subjects.shard, denied)) or "nothing"
            self._logger.error("shards that the NATS user may no longer subscribe to: %s", what)

    def stats(self) -> dict[str, float]:
        """Count what the engine does not know: ``unsent_bytes`` that the socket has not taken."""
        return {"unsent_bytes": self._unsent_bytes()}

    async def flush(self) -> None:
        """Return when the server has read what was sent."""
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(TransportUnavailableError):
                await self._fenced(connection)

    async def aclose(self) -> None:
        """Close the connection."""
        self._budget.disconnected()
        await self._session.aclose()

    # Shards.

    async def hold(self, shards: Sequence[int]) -> None:
        """Subscribe to ``shards`` in the queue group; one fence for all."""
        connection = self._session.usable()
        self._held.update(shards)
        try:
            connection.write(self._subscribe_to(shards))
            await self._fenced(connection)
            denied = self._denied(shards)
            if denied:
                raise AccessDeniedError(
                    f"the NATS user may not subscribe to {self._subjects.shard(denied[0])} in the queue group {QUEUE}: "
                    f'grant {{subscribe: ["{self._subjects.every_shard} {QUEUE}"]}}'
                )
        except BaseException:
            self._held.difference_update(shards)
            raise

    async def drop(self, shards: Sequence[int]) -> None:
        """Unsubscribe; after the fence no message for them is on its way."""
        self._held.difference_update(shards)
        connection = self._connection
        if connection is not None:
            connection.write(b"".join(b"UNSUB %d\r\n" % (FIRST_SID + shard) for shard in shards))
            with contextlib.suppress(TransportUnavailableError):
                await self._fenced(connection)

    def _subscribe_to(self, shards: Iterable[int]) -> bytes:
        return b"".join(_sub(self._subjects.shard(shard), QUEUE, FIRST_SID + shard) for shard in shards)

    def _denied(self, shards: Iterable[int]) -> list[int]:
        return sorted(shard for shard in shards if not self._rights.may_subscribe(self._subjects.shard(shard)))

    async def _fenced(self, connection: Connection) -> None:
        """Return when the server has acted on all that was written, and all that it had to say before was read."""
        if connection is self._connection:
            self._out.flush()
        if not await self._answers(connection):
            why = connection.lost.result() if connection.lost.done() else "it answers too slowly"
            raise TransportUnavailableError(f"the connection to NATS was lost meanwhile: {why}")

    async def _answers(self, connection: Connection) -> bool:
        """
        Send a PING and tell whether its PONG came while the connection was in use.

        As long as bytes move, a slow link is given more time: the PING waits its turn.
        """
        pong = connection.ping()
        progress = partial(connection.progress, connection.written)
        is_answered = await answered_while_moving(pong, connection.lost, progress=progress, patience=self._patience)
        return is_answered and connection is self._connection

    # Messages out.

    def reply_to(self, shard: int, token: int) -> str:
        """Return the address under this peer's inbox."""
        reply_to = self._subjects.reply_to(shard, token)
        self._reply_to = (token, reply_to)
        return reply_to

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        """Publish to the shard's subject, with the inbox as reply: the server answers 503 if nobody holds it."""
        self._session.usable()
        if not self._budget.has_room_for_request(len(body)):
            raise OverloadedError("max_unsent_bytes", self._budget.max_bytes)
        if shard not in self._rights.proved:
            self._rights.sending(shard, token)
        reply_to = self._reply_to[1] if self._reply_to[0] == token else self._subjects.reply_to(shard, token)
        if oneway:
            self._notifies.append(token)  # before it is published: the fence may be written inside of that
        self._publish(f"PUB {self._shard_begins}{shard} {reply_to} {len(body)}\r\n".encode(), body)
        return None

    def reply_address(self, to: Any, reply_to: str) -> object:  # Any: bytes, or None
        """
        Prefer the native reply subject: between accounts the server maps it, and nothing else reaches the sender.

        A Go client has none: its address is in the envelope. Either is believed if it is an inbox: this peer publishes
        nowhere else for a stranger.
        """
        address = to or reply_to.encode("utf-8", "replace")
        return address if is_inbox(address) else None

    def describe_foreign(self, body: Buffer) -> str:
        """Recognise a JetStream stream: it acknowledges what it stores at the reply address."""
        return describe_ack(body, self._subjects.every_shard)

    def reply(self, to: Any, body: bytes) -> bool:
        """Publish to an inbox."""
        if self._session.connection is None or not self._budget.has_room_for_answer():
            return False
        self._unwritten_answers += 1  # before it is published: it may be written inside of that
        self._publish(b"PUB %s %d\r\n" % (to, len(body)), body)
        return True

    def destination(self, to: Any) -> bytes:
        """Return the inbox, without the name of the one answer."""
        inbox: bytes = to.rpartition(b".")[0]
        return inbox

    def _publish(self, command: bytes, body: bytes) -> None:
        size = len(body)
        self._budget.queued_bytes += size
        if size < LARGE:
            self._out.stream(command + body + b"\r\n")
        else:  # it is not copied
            self._out.add(command)
            self._out.add(body)
            self._out.stream(b"\r\n")

    def _unsent_bytes(self) -> int:
        """Return what the socket of the connection in use has not sent; without one nothing is to be sent."""
        connection = self._session.connection
        return 0 if connection is None else connection.unsent_bytes

    def _writable(self) -> None:
        self._sink.writable()

    def _write(self, commands: list[bytes]) -> None:
        """Write what one tick has published; one fence serves all of it (a refusal or a 503 comes before the PONG)."""
        notifies, self._notifies = self._notifies, []
        answers, self._unwritten_answers = self._unwritten_answers, 0
        unfenced = self._rights.unfenced()
        connection = self._session.connection
        if connection is not None:
            connection.write(*commands)
        self._budget.written()
        if connection is None or connection.lost.done():  # the senders of requests know that the link is down
            self._sink.dropped(answers)
            return
        if notifies or unfenced:
            connection.ping().add_done_callback(partial(self._passed, notifies, unfenced))

    def _passed(self, notifies: list[int], unfenced: list[int], pong: asyncio.Future[bool]) -> None:
        if not pong.cancelled():
            self._rights.passed(unfenced)
            for token in notifies:
                self._sink.accepted(token)

    # Messages in.

    def _receive(self, sid: int, subject: bytes, reply: bytes, headers: bytes, body: Buffer) -> None:
        """A message arrived: an answer, or one for a shard."""
        if sid != INBOX_SID:
            connection = self._session.connection
            read_at = None if connection is None else connection.reader.read_at
            self._sink.request(sid - FIRST_SID, body, reply or None, read_at)
            return
        try:
            shard, token = self._subjects.read_reply_to(subject)
        except ValueError:
            if subject == self._probe_reply_to:
                self._hear_of_bystanders(body, is_refusal=not body and headers.startswith(NO_RESPONDERS))
                return
            self._sink.garbage("an answer to an address that is none of ours")
            return
        if shard not in self._rights.proved:
            self._rights.prove(shard)
        if not body and headers.startswith(NO_RESPONDERS):
            if self.needs_confirmation:  # who receives every message has left
                self._hear_of_bystanders(b"", is_refusal=True)
            connection = self._connection
            again = ASK_AGAIN_AFTER if connection is not None and connection.is_clustered else None
            self._sink.refused(token, NoShardSubscriberError(shard), again_after=again)
        else:
            self._sink.answer(token, body)


def _sub(subject: str, queue: str, sid: int) -> bytes:
    return f"SUB {subject} {queue}{' ' if queue else ''}{sid}\r\n".encode()
