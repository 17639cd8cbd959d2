"""The Redis link: messages out, by the script or straight to an owner's inbox, and messages in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import redis.exceptions

from clstr.errors import ClstrError, ConnectionLostError, NoShardSubscriberError, OverloadedError
from clstr.spi import Batcher, Link, RateLimitedLog, Route, Sink, WriteBudget
from clstr_redis import _frames as frames
from clstr_redis._connection import Answer, Command, Connection, Reply
from clstr_redis._dialer import Dialer
from clstr_redis._errors import refusal
from clstr_redis._leases import Leases
from clstr_redis._names import Names
from clstr_redis._options import LEASE_HEARTBEATS
from clstr_redis._outbox import Item, batches
from clstr_redis._owners import Owners
from clstr_redis._scripts import SEND
from clstr_redis._session import Session

MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # half of what a stock server lets wait for one subscriber before it cuts it off
NODES_LOAD_AFTER = 1.5  # heartbeats in which a node notices that the server has lost the scripts
MAX_UNSENT_BYTES = 32 * 1024 * 1024  # more than max_inflight_bytes: what is beyond it waits for a dead socket


class RedisLink(Link):
    """
    One peer on Redis.

    Args:
        dialer: Opens connections.
        names: What this peer's keys and channels are called.
        heartbeat: Seconds between renewals of the leases.
        logger: Where it says what happened to the connection.
    """

    max_message_bytes = MAX_MESSAGE_BYTES
    _sink: Sink

    def __init__(self, dialer: Dialer, names: Names, heartbeat: float, logger: logging.Logger) -> None:
        self._loop = asyncio.get_running_loop()
        self._explain = dialer.explain
        self._names = names
        self._heartbeat = heartbeat
        self._logger = logger
        self._log = RateLimitedLog(logger)
        self._leases = Leases(names, heartbeat * LEASE_HEARTBEATS, self._loop.time, logger)
        self._session = Session(dialer, names, self._leases, heartbeat=heartbeat, receive=self._receive, logger=logger)
        self._owners = Owners(self._loop.time, heartbeat * LEASE_HEARTBEATS)
        self._out = Batcher[Item](self._loop, self._write)
        self._budget = WriteBudget(self._writable, MAX_UNSENT_BYTES)
        self._budget.connected(self._unsent_bytes)
        self._turn = 0

    async def open(self, sink: Sink) -> None:
        """Connect, and subscribe to the inbox."""
        self._sink = sink
        await self._session.open(sink)

    def stats(self) -> dict[str, float]:
        """Count what the engine does not know: ``unsent_bytes`` that the socket has not taken."""
        return {"unsent_bytes": self._unsent_bytes()}

    async def flush(self) -> None:
        """Return when the server has read what was sent."""
        connection = self._session.connection
        if connection is not None:
            self._out.flush()
            with contextlib.suppress(ClstrError, redis.exceptions.ResponseError):
                await connection.ask(b"PING")

    async def aclose(self) -> None:
        """
        Close the connection; the leases were let go of before.

        Who remembers this peer as an owner may still publish to it, until the server has confirmed that it left its
        inbox: what arrives until then is refused, and after that its sender is told that nobody is there.
        """
        try:
            connection = self._session.connection
            if connection is not None:
                with contextlib.suppress(ClstrError, redis.exceptions.ResponseError):
                    await connection.leave()
                    await self.flush()
        finally:
            self._budget.disconnected()
            await self._session.aclose()

    # Shards.

    async def hold(self, shards: Sequence[int]) -> None:
        """Take a lease for each of ``shards``: on return every peer's script sees it."""
        try:
            await self._leases.take(self._session.usable(), shards)
        except redis.exceptions.ResponseError as error:
            raise self._explain(error) from error

    async def drop(self, shards: Sequence[int]) -> None:
        """Let go of the leases. What was sent before arrives before the server's answer: on the same connection."""
        try:
            await self._leases.drop(self._session.connection, shards)
        except (ClstrError, redis.exceptions.ResponseError) as error:
            self._logger.warning("leases end by themselves, because they could not be let go of: %s", error)

    # Messages out.

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        """Publish to the owner that is known, or let the script find one."""
        self._session.usable()
        if not self._budget.has_room_for_request(len(body)):
            raise OverloadedError("max_unsent_bytes", MAX_UNSENT_BYTES)
        # For a notify the script looks each time: one that had let go of the shard would refuse it, and tell nobody.
        inbox = b"" if oneway else self._owners.get(shard)
        self._add(Item(frames.request(shard, token, body), inbox, shard, token, oneway))
        return inbox or None

    def misrouted(self, shard: int, route: Route) -> None:
        """Forget an owner that is none any more."""
        self._owners.forget(shard, route)

    def reply(self, to: Any, body: bytes) -> bool:
        """Publish to the inbox of who asked."""
        if self._session.connection is None or not self._budget.has_room_for_answer():
            return False
        inbox, token = to
        self._add(Item(frames.answer(token, body), inbox))
        return True

    def destination(self, to: Any) -> bytes:
        """Return the inbox."""
        inbox: bytes = to[0]
        return inbox

    def _unsent_bytes(self) -> int:
        """Return what the socket of the connection in use has not sent; without one nothing is to be sent."""
        connection = self._session.connection
        return 0 if connection is None else connection.unsent_bytes

    def _writable(self) -> None:
        self._sink.writable()

    def _add(self, item: Item) -> None:
        self._budget.queued_bytes += len(item.frame)
        if item.inbox:
            self._out.stream(item)
        else:  # a script for each shard: the fewer, the more messages it is for
            self._out.add(item)

    def _write(self, items: list[Item]) -> None:
        """Send what one tick has to say: a message for each known peer, a script for each other shard."""
        connection = self._session.connection
        if connection is None:  # whoever waits for requests was told that the link is down
            self._budget.written()
            self._sink.dropped(sum(item.token is None for item in items))
            return
        connection.send([self._command(connection, batch) for batch in batches(items)])
        self._budget.written()

    def _command(self, connection: Connection, batch: list[Item]) -> tuple[Reply, Command]:
        message = frames.join(connection.inbox, [item.frame for item in batch])
        if inbox := batch[0].inbox:
            return partial(self._published, batch), (b"PUBLISH", inbox, message)
        self._turn += 1
        key = self._names.shard(batch[0].shard)
        resolved = partial(self._resolved, batch, self._loop.time())
        return connection.script_call(resolved, SEND, [key], message, b"%d" % self._turn)

    def _published(self, batch: list[Item], received: Answer) -> None:
        """The server tells how many got a batch that went to one inbox."""
        if isinstance(received, Exception):
            self._refused(batch, refusal(received, self._names.prefix))
        elif received == 0:
            self._owners.forget_inbox(batch[0].inbox)
            self._nobody(batch, again_after=0.0)  # the script may know another owner
        else:
            self._sent(batch, received)

    def _resolved(self, batch: list[Item], asked_at: float, found: Answer) -> None:
        """The script tells which inbox it chose, how long its lease is, and how many got the batch."""
        if isinstance(found, redis.exceptions.NoScriptError):  # nodes load the script, at each heartbeat if need be
            self._nobody(batch, again_after=self._heartbeat * NODES_LOAD_AFTER)
        elif isinstance(found, Exception):
            self._refused(batch, refusal(found, self._names.prefix, self._names.shard(batch[0].shard)))
        elif not found:
            self._nobody(batch)
        else:
            inbox, left_ms, received = found
            self._owners.learn(batch[0].shard, inbox, asked_at, left_ms / 1000)
            for item in batch:
                if item.token is not None:
                    self._sink.routed(item.token, inbox)
            self._sent(batch, received)

    def _nobody(self, batch: list[Item], *, again_after: float | None = None) -> None:
        """Nobody received a batch: what asks is refused, and who waited for an answer is gone."""
        for item in batch:
            if item.token is None:
                self._sink.dropped(1)
            else:
                self._sink.refused(item.token, NoShardSubscriberError(item.shard), again_after=again_after)

    def _sent(self, batch: list[Item], received: int) -> None:
        if received > 1:  # each connection has an inbox of its own
            self._overheard(batch, received)
            return
        for item in batch:
            if item.oneway and item.token is not None:
                self._sink.accepted(item.token)

    def _overheard(self, batch: list[Item], received: int) -> None:
        """Somebody listens who should not, and may answer too."""
        self._log.say(logging.ERROR, "%d receivers got a message for one inbox: who may subscribe to it?", received)
        message = f"{received} receivers got the message, where there should be one"
        for item in batch:
            if item.token is not None:
                self._sink.failed(item.token, ConnectionLostError(message, maybe_executed=True))

    def _refused(self, batch: list[Item], error: ClstrError) -> None:
        """The server did not publish a batch, or nobody knows."""
        for item in batch:
            if item.token is None:
                self._sink.dropped(1)
            else:
                self._sink.failed(item.token, type(error)(str(error), maybe_executed=error.maybe_executed))
        if any(item.token is None for item in batch):
            self._log.say(logging.WARNING, "Redis refused answers: %s", error)

    # Messages in.

    def _receive(self, message: bytes, read_at: float) -> None:
        """A message arrived in the inbox."""
        try:
            inbox, parts = frames.split(message)
            if not self._names.is_inbox(inbox):
                raise ValueError("its sender has no inbox")
            for kind, shard, token, body in parts:
                if kind == frames.REQUEST:
                    self._sink.request(shard, body, (inbox, token), read_at)
                else:
                    self._sink.answer(token, body)  # without a route: its sender may claim any inbox
        except ValueError as error:
            self._sink.garbage(f"a message that is none of ours: {error}")
