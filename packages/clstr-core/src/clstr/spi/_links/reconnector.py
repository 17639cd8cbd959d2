"""Keeps one peer connected: dial, set up, watch, and the same again when the connection is lost."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from clstr._backoff import Backoff
from clstr._rate_limited_log import RateLimitedLog
from clstr.errors import ClstrError, TransportUnavailableError
from clstr.spi._link import Sink

CANCEL_AGAIN_AFTER = 0.05  # seconds: a driver may have swallowed a cancellation


class Connection(Protocol):
    """
    What a `Reconnector` needs of a driver's connection.

    Attributes:
        lost: Done, with the reason, as soon as the connection is of no use any more.
    """

    @property
    def lost(self) -> asyncio.Future[Exception]:
        """See above."""

    async def end(self) -> None:
        """Close the socket at once and end the connection's tasks. May be called twice."""


C = TypeVar("C", bound=Connection)
T = TypeVar("T")


class Reconnector(Generic[C]):
    """
    The life of a link: it connects, notices that the connection is lost, and connects again until it is closed.

    Nothing that a driver raises ends it. A connection whose ``set_up`` or ``beat`` fails is ended and replaced, after a
    pause that grows and has jitter. If the task that does all this ends nevertheless, the link is reported as lost for
    good, so that ``Node.run`` raises.

    Args:
        name: What logs and errors call the other side: ``"NATS"``.
        dial: Returns a new connection, authenticated. Releases what it holds when it fails or is cancelled.
        set_up: Makes the connection usable: subscribes again to all that is held. Runs once for each.
        beat: Asks whether the connection still works, once per ``heartbeat``. If it raises, the connection is lost.
        heartbeat: Seconds.
        logger: Told what happens to the connection.
        backoff: The pauses between attempts.

    Attributes:
        connection: The one in use, set before ``set_up`` runs: what arrives may be answered before the link is up.
            ``None`` while there is none.
    """

    def __init__(
        self,
        name: str,
        *,
        dial: Callable[[], Awaitable[C]],
        set_up: Callable[[C], Awaitable[None]],
        beat: Callable[[C], Awaitable[None]],
        heartbeat: float,
        logger: logging.Logger,
        backoff: Backoff | None = None,
    ) -> None:
        self._name = name
        self._dial = dial
        self._set_up = set_up
        self._beat = beat
        self._heartbeat = heartbeat
        self._logger = logger
        self._log = RateLimitedLog(logger)
        self._backoff = backoff or Backoff()
        self._loop = asyncio.get_running_loop()
        self._is_up = False
        self._is_closing = False
        self._keeper: asyncio.Task[None] | None = None
        self._sink: Sink
        self.connection: C | None = None

    async def open(self, sink: Sink) -> None:
        """
        Connect, and stay connected.

        Raises:
            ClstrError: What ``dial`` or ``set_up`` raised.
        """
        self._sink = sink
        connection = await self._connect()
        self._keeper = self._loop.create_task(self._keep(connection), context=contextvars.Context())
        self._keeper.add_done_callback(self._keeper_ended)

    def usable(self) -> C:
        """
        Return the connection if it is set up.

        Raises:
            TransportUnavailableError: It is lost, and being replaced.
        """
        if self.connection is None or not self._is_up:
            raise TransportUnavailableError(f"the connection to {self._name} is lost; it is being renewed")
        return self.connection

    def down(self, connection: C) -> None:
        """
        Use ``connection`` no longer: it is lost. To be called by it, at once; calls for another one change nothing.

        Args:
            connection: Its ``lost`` is done.
        """
        if connection is not self.connection:
            return
        self.connection = None
        if self._is_up:
            self._is_up = False
            self._sink.down(connection.lost.result())

    async def aclose(self) -> None:
        """End the connection. May be called twice."""
        self._is_closing = True
        try:
            while self._keeper is not None and not self._keeper.done():
                self._keeper.cancel()
                await asyncio.wait((self._keeper,), timeout=CANCEL_AGAIN_AFTER)
        finally:
            connection, self.connection = self.connection, None
            self._is_up = False
            if connection is not None:
                await self._end(connection)

    async def _connect(self) -> C:
        connection = await self._dial()
        self.connection = connection
        try:
            if not connection.lost.done():
                await self._set_up(connection)
            if connection.lost.done():
                why = connection.lost.result()
                raise TransportUnavailableError(f"the connection to {self._name} was lost at once: {why}")
        except BaseException:
            self.connection = None
            await self._end(connection)
            raise
        self._is_up = True
        return connection

    async def _keep(self, connection: C) -> None:
        while not self._is_closing:
            since = self._loop.time()
            try:
                await self._watch(connection)
            finally:
                await self._end(connection)
            if self._loop.time() - since >= self._backoff.longest:
                self._backoff.reset()  # else: a server that accepts us and throws us out is not asked at once again
            connection = await self._reconnect()

    async def _watch(self, connection: C) -> None:
        """Return when the connection is lost."""
        while not connection.lost.done():
            due = self._loop.time() + self._heartbeat
            await asyncio.wait((connection.lost,), timeout=self._heartbeat)
            self._note_lag(self._loop.time() - due)
            if connection.lost.done():
                break
            try:
                await self._unless_cancelled(self._beat(connection))
            except Exception as error:  # noqa: BLE001 -- whatever a driver raises, the connection is of no use
                self._lose(connection, error)
        self.down(connection)

    def _note_lag(self, seconds: float) -> None:
        """Say that this peer was silent for too long: handlers or not, the other side may take it for dead."""
        if seconds >= self._heartbeat:
            text = (
                "this peer was silent for %.1f s, longer than a heartbeat (%g s), because its event loop was blocked "
                "or the process did not run: answers were read late, and %s may have closed the connection"
            )
            self._log.say(logging.WARNING, text, seconds, self._heartbeat, self._name)

    def _lose(self, connection: C, error: Exception) -> None:
        self._say_unexpected(error)
        if not connection.lost.done():
            connection.lost.set_result(error)

    async def _reconnect(self) -> C:
        while True:
            await asyncio.sleep(self._backoff.next())
            try:
                connection = await self._unless_cancelled(self._connect())
            except Exception as error:  # noqa: BLE001 -- whatever a driver raises, the next attempt may succeed
                self._say_unexpected(error)
                self._logger.warning("%s is still unreachable: %s", self._name, error)
            else:
                self._logger.info("connected to %s again", self._name)
                self._sink.up()
                return connection

    async def _unless_cancelled(self, work: Awaitable[T]) -> T:
        """Await ``work``. A cancellation that nobody asked this task for comes from within: it is a failure."""
        task = asyncio.current_task()
        try:
            return await work
        except asyncio.CancelledError as error:
            if self._is_closing or (task is not None and task.cancelling()):
                raise
            raise ConnectionAbortedError("the driver cancelled it") from error

    def _say_unexpected(self, error: Exception) -> None:
        if not isinstance(error, ClstrError | OSError):
            self._logger.error("unexpected, and survived: %r", error, exc_info=error)

    async def _end(self, connection: C) -> None:
        try:
            await connection.end()
        except Exception as error:  # noqa: BLE001 -- the next connection must come all the same
            self._say_unexpected(error)

    def _keeper_ended(self, keeper: asyncio.Task[None]) -> None:
        """It ends when the link is closed. Any other end must not leave a peer deaf in silence."""
        error = ConnectionAbortedError("its task was cancelled") if keeper.cancelled() else keeper.exception()
        if self._is_closing:
            return
        self.connection = None
        self._is_up = False
        cause = TransportUnavailableError(f"nothing keeps the connection to {self._name} any more: {error!r}")
        cause.__cause__ = error
        self._sink.down(cause, fatal=True)
