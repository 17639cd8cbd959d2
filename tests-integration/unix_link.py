"""A link over a UNIX socket: bytes, partial reads, and a connection to lose."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from clstr.errors import NoShardSubscriberError, OverloadedError, TransportUnavailableError
from clstr.spi import Batcher, Link, Sink
from unix_frames import MAX_BODY_BYTES, Frame, FrameReader, Kind, encode_shards

MAX_UNSENT_BYTES = 32 * 1024 * 1024
RETRY_EVERY = 0.02


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
        self._writer: asyncio.StreamWriter | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._sink: Sink

    async def open(self, sink: Sink) -> None:
        self._sink = sink
        try:
            reader = await self._connect()
        except OSError as error:
            raise TransportUnavailableError(f"no hub at {self._path}: {error}") from error
        self._keeper = self._loop.create_task(self._keep(reader))
        await self._ask(Kind.SYNC)  # connected means: the hub has taken us, not only the kernel

    async def _connect(self) -> asyncio.StreamReader:
        reader, self._writer = await asyncio.open_unix_connection(self._path)
        return reader

    async def _keep(self, reader: asyncio.StreamReader) -> None:
        """Read until the connection breaks, then make it again, for ever."""
        while True:
            await self._read(reader)
            self._lose(ConnectionResetError("the hub closed the connection"))
            reader = await self._reconnect()

    async def _reconnect(self) -> asyncio.StreamReader:
        while True:
            try:
                reader = await self._connect()
                break
            except OSError:
                await asyncio.sleep(RETRY_EVERY)
        if self._held:
            self._batcher.add(Frame(Kind.HOLD, 0, 0, encode_shards(sorted(self._held))))
        # The hub handles frames in order: what is sent from now on comes after the HOLD.
        self._sink.up()
        return reader

    async def _read(self, reader: asyncio.StreamReader) -> None:
        frames = FrameReader()
        try:
            while data := await reader.read(65536):
                for frame in frames.feed(data):
                    self._handle(frame)
        except ConnectionError:
            return
        except ValueError as error:
            self._sink.garbage(str(error))

    def _lose(self, error: Exception) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None
        for awaited in self._awaited.values():
            if not awaited.done():
                awaited.set_exception(TransportUnavailableError("the connection to the hub broke"))
        self._sink.down(error)

    def _handle(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.REQUEST:
                self._sink.request(frame.shard, frame.body, frame.token)
            case Kind.NOTIFY:
                self._sink.request(frame.shard, frame.body, None)
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

    async def _ask(self, kind: Kind, shards: Sequence[int] = ()) -> None:
        """Send ``kind`` and wait until the hub has handled it."""
        if self._writer is None:
            raise TransportUnavailableError("not connected to the hub")
        sequence = next(self._sequence)
        self._awaited[sequence] = self._loop.create_future()
        self._batcher.add(Frame(kind, 0, sequence, encode_shards(list(shards))))
        try:
            await self._awaited[sequence]
        finally:
            del self._awaited[sequence]

    async def hold(self, shards: Sequence[int]) -> None:
        await self._ask(Kind.HOLD, shards)
        self._held.update(shards)

    async def drop(self, shards: Sequence[int]) -> None:
        self._held.difference_update(shards)
        with suppress(TransportUnavailableError):  # a hub that is gone holds nothing for us
            await self._ask(Kind.DROP, shards)

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> None:
        if self._writer is None:
            raise TransportUnavailableError("not connected to the hub")
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            raise OverloadedError("unsent bytes", MAX_UNSENT_BYTES)
        self._batcher.add(Frame(Kind.NOTIFY if oneway else Kind.REQUEST, shard, token, body))

    def reply(self, to: object, body: bytes) -> bool:
        if self._writer is None or not isinstance(to, int):
            return False
        self._batcher.add(Frame(Kind.REPLY, 0, to, body))
        return True

    def _write(self, frames: list[Frame]) -> None:
        if self._writer is not None:
            self._writer.write(b"".join(frame.encode() for frame in frames))

    async def flush(self) -> None:
        with suppress(TransportUnavailableError):  # nothing is under way on a broken connection
            await self._ask(Kind.SYNC)

    async def aclose(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
            self._writer = None
