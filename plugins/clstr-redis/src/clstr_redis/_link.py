"""The Redis link: leases, one inbox, and a connection that is replaced when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection

from clstr.errors import (
    AccessDeniedError,
    ClstrError,
    ConnectionLostError,
    NoShardSubscriberError,
    OverloadedError,
    TransportUnavailableError,
)
from clstr.spi import Batcher, Link, Route, Sink
from clstr_redis import _frames as frames
from clstr_redis._connection import Connection
from clstr_redis._dialer import Dialer, explain
from clstr_redis._names import Names
from clstr_redis._options import LEASE_HEARTBEATS
from clstr_redis._outbox import Item, batches
from clstr_redis._owners import Owners
from clstr_redis._scripts import DROP, HOLD, SEND, digest

MISSED_HEARTBEATS = 3
KEYS_PER_CALL = 500  # a script that holds thousands of shards must not keep the server from others
MAX_UNSENT_BYTES = 32 * 1024 * 1024  # more than max_inflight_bytes: what is beyond it waits for a dead socket
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between attempts to connect again
SEND_DIGEST = digest(SEND).encode()


class RedisLink(Link):
    """
    One peer on Redis.

    Args:
        dialer: Opens connections.
        names: What this peer's keys and channels are called.
        heartbeat: Seconds between renewals of the leases.
        logger: Where it says what happened to the connection.
    """

    _sink: Sink

    def __init__(self, dialer: Dialer, names: Names, heartbeat: float, logger: logging.Logger) -> None:
        self._dialer = dialer
        self._names = names
        self._heartbeat = heartbeat
        self._patience = heartbeat * MISSED_HEARTBEATS
        self._lease_ms = b"%d" % max(1, int(heartbeat * LEASE_HEARTBEATS * 1000))
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        self._is_open = True
        self._is_up = False
        self._inbox = b""
        self._connection: Connection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._lost: asyncio.Future[None] = self._loop.create_future()  # done when the newest connection is lost
        self._held: set[int] = set()
        self._owners = Owners(self._loop.time)
        self._out = Batcher[Item](self._loop, self._write)
        self._out_bytes = 0
        self._turn = 0

    # Its life.

    async def open(self, sink: Sink) -> None:
        """Connect, and subscribe to the inbox."""
        self._sink = sink
        await self._connect()
        self._keeper = self._loop.create_task(self._keep_connected(), context=contextvars.Context())

    async def _connect(self) -> None:
        self._lost = self._loop.create_future()
        self._owners.clear()
        # Messages arrive, and are answered, as soon as one lease is known; it is up when all are.
        self._connection = connection = await self._dialer.dial(self._new_connection)
        try:
            # A new name for each connection: what is sent to an old one reaches nobody, and its sender is told.
            self._inbox = self._names.new_inbox()
            await self._until(connection.subscribe(self._inbox))
            for script in (SEND, HOLD, DROP):
                await self._call(connection, b"SCRIPT", b"LOAD", script.encode())
            await self._lease(connection, sorted(self._held))
        except BaseException:
            self._connection = None
            await connection.end()
            raise
        self._is_up = True

    def _new_connection(self, raw: AbstractConnection) -> Connection:
        connection = Connection(raw, self._receive, lambda error: self._down(connection, error))
        return connection

    def _down(self, connection: Connection, error: Exception) -> None:
        """The connection is lost: once for each that was in use."""
        if connection is self._connection:
            self._connection = None
            connection.abort()
            if self._is_up:
                self._is_up = False
                self._sink.down(error)
        if not self._lost.done():
            self._lost.set_result(None)

    async def _keep_connected(self) -> None:
        while self._is_open:
            connection = self._connection
            if connection is not None:
                await self._watch(connection)
                await connection.end()
            await self._reconnect()

    async def _watch(self, connection: Connection) -> None:
        """Renew the leases until the connection is lost: it says so, or it answers nothing for three heartbeats."""
        while not self._lost.done():
            await asyncio.wait((self._lost,), timeout=self._heartbeat)
            if self._lost.done():
                return
            try:
                await self._beat(connection)
            except ClstrError as error:
                self._down(connection, error)

    async def _beat(self, connection: Connection) -> None:
        if self._held:
            await self._lease(connection, sorted(self._held))
        else:
            await self._call(connection, b"PING")

    async def _reconnect(self) -> None:
        pause = FIRST_PAUSE
        while self._is_open:
            try:
                await self._connect()
            except (ClstrError, OSError) as error:
                self._logger.warning("Redis is still unreachable: %s", error)
            else:
                self._logger.info("connected to Redis again")
                self._sink.up()
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def flush(self) -> None:
        """Return when the server has read what was sent."""
        connection = self._connection
        if connection is not None:
            self._out.flush()
            with contextlib.suppress(ClstrError):
                await self._call(connection, b"PING")

    async def aclose(self) -> None:
        """Close the connection; the leases were let go of before."""
        self._is_open = False
        try:
            if self._keeper is not None:
                self._keeper.cancel()
                await asyncio.wait((self._keeper,))
        finally:
            connection, self._connection = self._connection, None
            if connection is not None:
                await connection.end()

    async def _call(self, connection: Connection, *command: bytes) -> Any:
        """
        Send a command and return its answer.

        Raises:
            AccessDeniedError: The user lacks the right.
            TransportUnavailableError: The connection was lost meanwhile, or the server says anything else.
        """
        answer = await self._until(connection.call(*command))
        if isinstance(answer, Exception):
            raise explain(answer, "the Redis server")
        return answer

    async def _until(self, answer: asyncio.Future[Any]) -> Any:
        await asyncio.wait((answer, self._lost), timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise TransportUnavailableError(f"Redis has not answered for {self._patience:g} s, or the connection is lost")
        return answer.result()

    # Shards.

    async def hold(self, shards: Sequence[int]) -> None:
        """Take a lease for each of ``shards``: on return every peer's script sees it."""
        connection = self._usable()
        self._held.update(shards)
        try:
            await self._lease(connection, shards)
        except BaseException:
            self._held.difference_update(shards)
            raise

    async def drop(self, shards: Sequence[int]) -> None:
        """Let go of the leases. What was sent before has arrived before the server's answer to this."""
        self._held.difference_update(shards)
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(ClstrError):
                await self._on_keys(connection, DROP, shards, self._inbox)

    async def _lease(self, connection: Connection, shards: Sequence[int]) -> None:
        await self._on_keys(connection, HOLD, shards, self._inbox, self._lease_ms)

    async def _on_keys(self, connection: Connection, script: str, shards: Sequence[int], *arguments: bytes) -> None:
        for first in range(0, len(shards), KEYS_PER_CALL):
            keys = [self._names.shard(shard) for shard in shards[first : first + KEYS_PER_CALL]]
            await self._call(connection, b"EVALSHA", digest(script).encode(), b"%d" % len(keys), *keys, *arguments)

    # Messages out.

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        """Publish to the owner that is known, or let the script find one."""
        self._check_room(self._usable(), body)
        inbox = self._owners.get(shard)
        self._add(Item(frames.request(shard, token, body), inbox, shard, token, oneway))
        return inbox or None

    def misrouted(self, shard: int, route: Route) -> None:
        """Forget an owner that is none any more."""
        self._owners.forget(shard)

    def reply(self, to: object, body: bytes) -> bool:
        """Publish to the inbox of who asked."""
        connection = self._connection
        if connection is None or connection.unsent_bytes + self._out_bytes > MAX_UNSENT_BYTES:
            return False
        inbox, token = cast("tuple[bytes, int]", to)
        self._add(Item(frames.answer(token, body), inbox))
        return True

    def _usable(self) -> Connection:
        if self._connection is None or not self._is_up:
            raise TransportUnavailableError("the connection to Redis is lost; it is being renewed")
        return self._connection

    def _check_room(self, connection: Connection, body: bytes) -> None:
        if self._out_bytes + connection.unsent_bytes + len(body) > MAX_UNSENT_BYTES:
            raise OverloadedError("max_unsent_bytes", MAX_UNSENT_BYTES)

    def _add(self, item: Item) -> None:
        self._out_bytes += len(item.frame)
        self._out.add(item)

    def _write(self, items: list[Item]) -> None:
        """Send what one tick has to say: one message for each peer, one script for each shard whose owner is unknown."""
        self._out_bytes = 0
        connection = self._connection
        if connection is None:  # whoever waits for these was told that the link is down
            return
        commands: list[tuple[Any, Sequence[bytes]]] = []
        for batch in batches(items):
            message = frames.join(self._inbox, [item.frame for item in batch])
            if inbox := batch[0].inbox:
                commands.append((partial(self._published, batch), (b"PUBLISH", inbox, message)))
            else:
                self._turn += 1
                key = self._names.shard(batch[0].shard)
                arguments = (b"1", key, message, b"%d" % self._turn)
                on_reply = partial(self._resolved, connection, batch, arguments)
                commands.append((on_reply, (b"EVALSHA", SEND_DIGEST, *arguments)))
        connection.send_all(commands)

    def _published(self, batch: list[Item], received: Any) -> None:
        """The server tells how many got a batch that went to one inbox."""
        if isinstance(received, Exception):
            self._refuse(batch, _refusal(received))
        elif received == 0:
            self._owners.forget_inbox(batch[0].inbox)
            for item in batch:  # the script may know another owner
                if item.token is not None:
                    self._sink.refused(item.token, NoShardSubscriberError(item.shard), again_after=0.0)
        else:
            self._sent(batch, received)

    def _resolved(self, connection: Connection, batch: list[Item], arguments: tuple[bytes, ...], found: Any) -> None:
        """The script tells which inbox it chose, how long its lease is, and how many got the batch."""
        if isinstance(found, Exception):
            if str(found).startswith("NOSCRIPT"):  # somebody flushed the scripts; nothing ran
                on_reply = partial(self._resolved, connection, batch, arguments)
                connection.send(on_reply, b"EVAL", SEND.encode(), *arguments)
            else:
                self._refuse(batch, _refusal(found))
        elif not found:
            for item in batch:
                if item.token is not None:
                    self._sink.refused(item.token, NoShardSubscriberError(item.shard))
        else:
            inbox, left_ms, received = found
            self._owners.learn(batch[0].shard, inbox, left_ms / 1000)
            for item in batch:
                if item.token is not None:
                    self._sink.routed(item.token, inbox)
            self._sent(batch, received)

    def _sent(self, batch: list[Item], received: int) -> None:
        if received > 1:  # each connection has an inbox of its own: somebody listens who should not
            self._logger.error("%d receivers got a message for one inbox: who may subscribe to it?", received)
        for item in batch:
            if item.token is None:
                continue
            if received > 1:
                message = f"{received} receivers got the message, where there should be one"
                self._sink.failed(item.token, ConnectionLostError(message, maybe_executed=True))
            elif item.oneway:
                self._sink.accepted(item.token)

    def _refuse(self, batch: list[Item], error: ClstrError) -> None:
        for item in batch:
            if item.token is not None:
                self._sink.refused(item.token, type(error)(str(error)))
            else:
                self._logger.warning("Redis refused an answer: %s", error)

    # Messages in.

    def _receive(self, message: bytes) -> None:
        """A message arrived in the inbox."""
        try:
            inbox, parts = frames.split(message)
            if not self._names.is_inbox(inbox):
                raise ValueError("its sender has no inbox")
            for kind, shard, token, body in parts:
                if kind == frames.REQUEST:
                    self._sink.request(shard, body, (inbox, token))
                else:
                    self._sink.answer(token, body)
        except ValueError as error:
            self._sink.garbage(f"a message that is none of ours: {error}")


def _refusal(error: Exception) -> ClstrError:
    """Say why the server did not publish: it certainly did not."""
    reason = explain(error, "the Redis server")
    return reason if isinstance(reason, AccessDeniedError) else TransportUnavailableError(str(reason))
