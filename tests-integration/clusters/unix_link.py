"""A link over a UNIX socket: bytes, partial reads, and a connection to lose."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from clstr.errors import NoShardSubscriberError, OverloadedError, TransportUnavailableError
from clstr.spi import (
    Backoff,
    Batcher,
    Link,
    MeteredReader,
    Reconnector,
    Sink,
    WriteBudget,
    connect_unix,
    end_socket,
    open_stream,
)
from clusters.unix_frames import MAX_BODY_BYTES, Frame, FrameReader, Kind, encode_shards

MAX_UNSENT_BYTES = 32 * 1024 * 1024
HEARTBEAT = 1.0  # seconds


class Connection:
    """One connection to a hub; it ends once, and another takes its place."""

    def __init__(
        self,
        reader: MeteredReader,
        writer: asyncio.StreamWriter,
        *,
        on_frame: Callable[[Frame, float], None],
        on_garbage: Callable[[str], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        self._writer = writer
        self._on_frame = on_frame
        self._on_garbage = on_garbage
        self._on_lost = on_lost
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read(reader))

    @property
    def unsent_bytes(self) -> int:
        return 0 if self.lost.done() else self._writer.transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
        except Exception as error:  # noqa: BLE001 -- uvloop raises RuntimeError where asyncio ignores what is written
            self._lose(error)

    async def end(self) -> None:
        if not self.lost.done():
            self.lost.set_result(ConnectionAbortedError("closed by us"))
        end_socket(self._writer.transport)
        self._reading.cancel()
        await asyncio.wait((self._reading,))

    async def _read(self, reader: MeteredReader) -> None:
        frames = FrameReader()
        try:
            while data := await reader.read(65536):
                for frame in frames.feed(data):
                    self._on_frame(frame, reader.read_at)
        except ValueError as error:
            self._on_garbage(str(error))
            self._lose(error)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the connection is of no use
            self._lose(error)
        else:
            self._lose(ConnectionResetError("the hub closed the connection"))

    def _lose(self, error: Exception) -> None:
        if not self.lost.done():
            self.lost.set_result(error)
            end_socket(self._writer.transport)
            self._on_lost(self)


class UnixLink(Link):
    """One connection to a `unix_hub.Hub`, made again whenever it breaks."""

    max_message_bytes = MAX_BODY_BYTES

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._batcher = Batcher[Frame](self._loop, self._write)
        self._held: set[int] = set()
        self._sequence = itertools.count(1)
        self._awaited: dict[int, asyncio.Future[None]] = {}
        self._session = Reconnector[Connection](
            "the hub",
            dial=self._dial,
            set_up=self._set_up,
            beat=self._beat,
            heartbeat=HEARTBEAT,
            logger=logging.getLogger("clstr.transport.unix"),
            backoff=Backoff(longest=0.05),
        )
        self._budget = WriteBudget(self._writable, MAX_UNSENT_BYTES)
        self._budget.connected(self._unsent_bytes)
        self._sink: Sink

    async def open(self, sink: Sink) -> None:
        self._sink = sink
        await self._session.open(sink)

    async def _dial(self) -> Connection:
        try:
            reader, writer = await open_stream(await connect_unix(str(self._path)))
        except OSError as error:
            raise TransportUnavailableError(f"no hub at {self._path}: {error}") from error
        return self._connected(reader, writer)

    def _connected(self, reader: MeteredReader, writer: asyncio.StreamWriter) -> Connection:
        return Connection(
            reader, writer, on_frame=self._handle, on_garbage=self._sink.garbage, on_lost=self._session.down
        )

    async def _set_up(self, connection: Connection) -> None:
        """Hold again what was held. Connected means: the hub has taken us, not only the kernel."""
        await self._ask(connection, Kind.HOLD if self._held else Kind.SYNC, sorted(self._held))

    async def _beat(self, connection: Connection) -> None:
        """Do nothing: a UNIX socket says when it breaks, and a hub that is paused comes back."""

    def _handle(self, frame: Frame, read_at: float) -> None:
        match frame.kind:
            case Kind.REQUEST:
                self._sink.request(frame.shard, frame.body, frame.token, read_at)
            case Kind.NOTIFY:
                self._sink.request(frame.shard, frame.body, None, read_at)
            case Kind.REPLY:
                self._sink.answer(frame.token, frame.body)
            case Kind.ACCEPTED:
                self._sink.accepted(frame.token)
            case Kind.REFUSED:
                self._sink.refused(frame.token, NoShardSubscriberError(frame.shard))
            case Kind.DONE:
                self._done(frame.token)
            case unknown:
                self._sink.garbage(f"a frame of unknown kind {unknown}")

    def _done(self, sequence: int) -> None:
        awaited = self._awaited.get(sequence)
        if awaited is not None and not awaited.done():
            awaited.set_result(None)

    async def _ask(self, connection: Connection, kind: Kind, shards: Sequence[int] = ()) -> None:
        """Send ``kind`` and wait until the hub has handled it."""
        sequence = next(self._sequence)
        done = self._awaited[sequence] = self._loop.create_future()
        self._batcher.add(Frame(kind, 0, sequence, encode_shards(list(shards))))
        try:
            await asyncio.wait((done, connection.lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._awaited[sequence]
        if not done.done():
            raise TransportUnavailableError("the connection to the hub broke")

    async def hold(self, shards: Sequence[int]) -> None:
        await self._ask(self._session.usable(), Kind.HOLD, shards)
        self._held.update(shards)

    async def drop(self, shards: Sequence[int]) -> None:
        self._held.difference_update(shards)
        with suppress(TransportUnavailableError):  # a hub that is gone holds nothing for us
            await self._ask(self._session.usable(), Kind.DROP, shards)

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> None:
        self._session.usable()
        if not self._budget.has_room_for_request(len(body)):
            raise OverloadedError("unsent bytes", MAX_UNSENT_BYTES)
        self._add(Frame(Kind.NOTIFY if oneway else Kind.REQUEST, shard, token, body))

    def reply(self, to: object, body: bytes) -> bool:
        if self._session.connection is None or not self._budget.has_room_for_answer():
            return False  # not now: the engine keeps it
        assert isinstance(to, int)
        self._add(Frame(Kind.REPLY, 0, to, body))
        return True

    def _unsent_bytes(self) -> int:
        connection = self._session.connection
        return 0 if connection is None else connection.unsent_bytes

    def _writable(self) -> None:
        self._sink.writable()

    def _add(self, frame: Frame) -> None:
        self._budget.queued_bytes += len(frame.body)
        self._batcher.add(frame)

    def _write(self, frames: list[Frame]) -> None:
        connection = self._session.connection
        if connection is not None:
            connection.write(b"".join(frame.encode() for frame in frames))
        self._budget.written()
        if connection is None:  # lost in this tick: those who sent requests are told
            self._sink.dropped(sum(frame.kind == Kind.REPLY for frame in frames))

    async def flush(self) -> None:
        with suppress(TransportUnavailableError):  # nothing is under way on a broken connection
            await self._ask(self._session.usable(), Kind.SYNC)

    async def aclose(self) -> None:
        self._budget.disconnected()
        await self._session.aclose()
