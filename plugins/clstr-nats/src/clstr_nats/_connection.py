"""
One connection to one NATS server, and everything that needs private names of nats-py.

nats-py dials, shakes hands and parses, but for whole messages, which `_parser` reads. What it does on top of that is
not used, since it loses, repeats or delays messages: queues and tasks for each subscription, the buffer that outlives a
connection, reconnecting, callbacks. A connection here ends once, and another one takes its place. Each private name has
its test in ``tests/test_connection.py``.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import ParseResult

import nats.errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from clstr.errors import TransportUnavailableError
from clstr.spi import MeteredReader, Resolver, connect_tcp, end_socket, open_stream
from clstr_nats._parser import LARGE, MessageParser, OnMessage

NEVER = 10**9  # seconds between nats-py's own pings: the link sends some itself, and counts what they say


class _Tcp(TcpTransport):
    """
    nats-py's, over a socket that tries every address of a name and that forked children do not keep.

    Attributes:
        reader: What arrives, once there is a connection.
    """

    reader: MeteredReader

    def __init__(self, resolver: Resolver) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nats-py's
        self._resolver = resolver

    def __bool__(self) -> bool:
        return True  # else nats-py puts its own in its place

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """Connect to the server that ``uri`` names."""
        async with asyncio.timeout(connect_timeout):
            connected = await connect_tcp(str(uri.hostname), int(uri.port or 0), self._resolver)
        self.reader, writer = await open_stream(connected, limit=buffer_size)
        self._bare_io_reader = self._io_reader = self.reader
        self._bare_io_writer = self._io_writer = writer

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        """Speak TLS over the connection that there is."""
        plain, loop = cast("asyncio.StreamWriter", self._io_writer), asyncio.get_running_loop()
        self.reader = MeteredReader(limit=buffer_size)
        protocol = asyncio.StreamReaderProtocol(self.reader, loop=loop)
        name = uri if isinstance(uri, str) else uri.hostname
        async with asyncio.timeout(connect_timeout):
            encrypted = await loop.start_tls(plain.transport, protocol, ssl_context, server_hostname=name)
        assert encrypted is not None  # noqa: S101 -- it is only for a transport that is closed
        self._io_reader, self._io_writer = self.reader, asyncio.StreamWriter(encrypted, protocol, self.reader, loop)


class Connection(Client):
    """
    A connection that reads at once and never again once it is lost.

    Args:
        on_message: Gets the subscription's id, the subject, the reply's address, the headers and the payload of each
            message, in order. Called by the reader; must not raise.
        on_denied: Gets the server's sentence when it refuses a right.
        on_lost: Called once, when the connection is of no use any more.

    Attributes:
        lost: Done with the reason when the connection is of no use any more.
        written: Bytes that were handed to the socket.
        reader: Knows how much has arrived, and when, once it is dialled.
        on_limit: Gets the bytes that the server carries when it says so again: its configuration may change.
    """

    _socket: asyncio.WriteTransport
    reader: MeteredReader

    def __init__(
        self, on_message: OnMessage, on_denied: Callable[[str], None], on_lost: Callable[[Connection], None]
    ) -> None:
        super().__init__()
        self._on_message = on_message
        self._on_denied = on_denied
        self._on_lost = on_lost
        self._needs_tls = False
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.written: int = 0
        self._ps = self._parser = MessageParser(self, on_message)
        self.on_limit: Callable[[int], None] = lambda _: None

    async def dial(
        self, server: str, *, resolver: Resolver, needs_tls: bool, tls: ssl.SSLContext | None, **options: Any
    ) -> None:
        """
        Connect to one server, and fail if it cannot be used.

        Raises:
            nats.errors.Error: The server refuses.
            OSError: It cannot be reached.
            TransportUnavailableError: TLS is needed, and the server does not speak it.
        """
        self._needs_tls = needs_tls
        self._transport = tcp = _Tcp(resolver)
        failures: list[Exception] = []

        async def note(error: Exception) -> None:
            failures.append(error)

        try:
            await self.connect(
                servers=[server],
                allow_reconnect=False,
                max_reconnect_attempts=1,  # with 0 it would try for ever
                reconnect_time_wait=0,
                ping_interval=NEVER,
                error_cb=note,
                tls=tls,
                **options,
            )
        except nats.errors.NoServersError:
            raise failures[-1] if failures else ConnectionRefusedError(server) from None
        self._socket, self.reader = cast("asyncio.WriteTransport", self._find_socket()), tcp.reader
        cast("asyncio.Task[None]", self._reading_task).add_done_callback(self._reader_ended)

    # What is overridden.

    def _connect_command(self) -> bytes:
        """Return what carries the credentials; a server without TLS does not get to see them if TLS was asked for."""
        if self._needs_tls and not (self.options["tls_handshake_first"] or self._server_info.get("tls_required")):
            raise TransportUnavailableError(
                "the server offers no TLS, which was asked for: nothing was sent to it; use nats:// if that is meant"
            )
        return super()._connect_command()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self._on_message(sid, subject, reply, headers or b"", data)

    async def _process_info(
        self,
        info: dict[str, Any],
        initial_connection: bool = False,  # noqa: FBT001, FBT002 -- nats-py's
    ) -> None:
        await super()._process_info(info, initial_connection)
        maximum = info.get("max_payload")
        if not initial_connection and isinstance(maximum, int):  # nats-py reads it once
            self._max_payload = maximum
            self.on_limit(maximum)

    async def _process_err(self, err_msg: str) -> None:
        if "permissions violation" in err_msg:
            self._on_denied(err_msg.strip("'"))
        else:
            self._lose(nats.errors.Error(f"the server says {err_msg}"))

    async def _process_op_err(self, e: Exception) -> None:
        self._lose(e)

    def _reader_ended(self, reader: asyncio.Task[None]) -> None:
        error = None if reader.cancelled() else reader.exception()
        self._lose(ConnectionError(f"the connection's reader ended: {error or 'it met something unreadable'}"))

    def _lose(self, error: Exception) -> None:
        if not self.lost.done():
            self.lost.set_result(error)
            self.abort()
            self._on_lost(self)

    # What is used.

    @property
    def is_clustered(self) -> bool:
        """Whether the server is one of several, which may not know yet what this one knows."""
        return bool(self._server_info.get("cluster"))

    @property
    def unsent_bytes(self) -> int:
        """What the socket has not taken yet; nothing once the connection is lost."""
        return 0 if self.lost.done() else self._socket.get_write_buffer_size()

    def progress(self, mark: int) -> int:
        """
        Return a number that grows with each byte that is read, and with each up to ``mark`` that the socket takes.

        Args:
            mark: What ``written`` was when something was asked. What was written since proves nothing: the system
                takes it for a server that reads nothing, too.
        """
        return self.reader.bytes_read + min(mark, self.written - self.unsent_bytes)

    def write(self, *parts: bytes) -> None:
        """
        Hand bytes to the socket, in order, now; small ones together, large ones without copying them first.

        Never raises: a socket that takes none is the loss of the connection.
        """
        if self.lost.done():
            return
        try:
            self._write(parts)
        except Exception as error:  # noqa: BLE001 -- uvloop raises RuntimeError where asyncio ignores what is written
            self._lose(ConnectionResetError(f"the socket takes nothing any more: {error}"))

    def _write(self, parts: tuple[bytes, ...]) -> None:
        self.written += sum(map(len, parts))
        # Joined here: since Python 3.12 `writelines` hands piece after piece to the system.
        if max(map(len, parts)) < LARGE:
            self._socket.write(b"".join(parts))
            return
        for is_large, run in itertools.groupby(parts, lambda part: len(part) >= LARGE):
            for part in run if is_large else (b"".join(run),):
                self._socket.write(part)

    def ping(self) -> asyncio.Future[bool]:
        """Send a PING behind all that was written; the future is done when everything that it caused was read."""
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        self.write(b"PING\r\n")
        return pong

    async def end(self) -> None:
        """
        Close the socket and end nats-py's tasks; what the socket has not taken is given up. Never raises.

        nats-py's own ``close`` waits for a socket that nobody reads, and swallows cancellation.
        """
        if not self.lost.done():
            self.lost.set_result(ConnectionError("the connection was closed"))
        self.abort()
        tasks = [self._reading_task, self._ping_interval_task, self._flusher_task]
        left = [task for task in tasks if task is not None and not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    def abort(self) -> None:
        """Close the socket at once, for forked children too."""
        end_socket(self._find_socket())

    def _find_socket(self) -> asyncio.WriteTransport | None:
        writer = getattr(self._transport, "_io_writer", None)  # the one behind TLS, once that is spoken
        return None if writer is None else writer.transport
