"""One way through a proxy, and what can go wrong on it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

PIECE_BYTES = 65536  # read at once, so what a stalled direction holds of each connection
YIELDS = 2  # turns of the loop after each piece: a receiver in this process reads in between, and sees it by itself


class CutError(Exception):
    """The connection carried the last byte that it was to carry."""


@dataclass(eq=False, slots=True)
class Pipe:
    """One way of one connection."""

    source: socket.socket
    sink: socket.socket
    is_half_closed: bool = False

    def half_close(self) -> None:
        """End the stream towards the sink."""
        self.is_half_closed = True
        with suppress(OSError):  # the sink is gone, or not connected yet
            self.sink.shutdown(socket.SHUT_WR)

    async def send(self, data: memoryview) -> None:
        """Write ``data``; after a half-close, drop it."""
        try:
            if not self.is_half_closed:
                await asyncio.get_running_loop().sock_sendall(self.sink, data)
        except OSError:
            if not self.is_half_closed:  # else it closed while we wrote
                raise


class Direction:
    """
    One way through a `FaultProxy`, over all its connections.

    Attributes:
        delay: Seconds that each piece waits before it goes on.
        piece_bytes: The most bytes that go on at once; 1 is one byte at a time.
        bytes_forwarded: How many bytes have gone on.
        bytes_held: How many bytes were read and have not gone on yet.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.delay: float = 0.0
        self.piece_bytes: int = PIECE_BYTES
        self.bytes_forwarded: int = 0
        self.bytes_held: int = 0
        self._changed = changed
        self._moving = asyncio.Event()
        self._moving.set()
        self._left: int | None = None  # bytes until the cut
        self._pipes: set[Pipe] = set()

    def stall(self) -> None:
        """
        Let nothing go on, not even the end of a stream.

        After one more piece of each connection nothing is read either, so that the sender's buffers fill up.
        """
        self._moving.clear()

    def resume(self) -> None:
        """Let everything go on, what was held first."""
        self._moving.set()

    def cut_after(self, count: int) -> None:
        """Let ``count`` more bytes go on, then close the connection that carried the last of them, both ways."""
        self._left = count

    def half_close(self) -> None:
        """End the streams of the open connections towards the receiver; what the senders still write is dropped."""
        for pipe in self._pipes:
            pipe.half_close()

    def heal(self) -> None:
        """Take back every fault that can be taken back."""
        self.delay = 0.0
        self.piece_bytes = PIECE_BYTES
        self._left = None
        self.resume()

    async def passage(self) -> None:
        """Wait until something may go on."""
        await self._moving.wait()

    @contextmanager
    def pipe(self, source: socket.socket, sink: socket.socket) -> Iterator[Pipe]:
        """Provide a connection's part of this way, for the proxy; faults reach it from the first moment."""
        pipe = Pipe(source, sink)
        self._pipes.add(pipe)
        try:
            yield pipe
        finally:
            self._pipes.discard(pipe)

    async def carry(self, pipe: Pipe) -> None:
        """Carry a connection's bytes until their stream ends, and its end, for the proxy."""
        if pipe.is_half_closed:
            pipe.half_close()  # again: it came before there was a connection
        while data := await self._read(pipe.source):
            await self._forward(pipe, memoryview(data))
        await self.passage()
        pipe.half_close()

    async def _read(self, source: socket.socket) -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(source, PIECE_BYTES)
        except OSError:
            await self.passage()  # a reset is held like bytes, and like the end of a stream
            raise

    async def _forward(self, pipe: Pipe, data: memoryview) -> None:
        self._count(held=len(data))
        try:
            while data:
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self.passage()
                size, is_last = self._take(len(data))
                await pipe.send(data[:size])
                data = data[size:]
                self._count(forwarded=0 if pipe.is_half_closed else size, held=-size)
                if is_last:
                    raise CutError
                for _ in range(YIELDS):
                    await asyncio.sleep(0)
        finally:
            self._count(held=-len(data))

    def _take(self, size: int) -> tuple[int, bool]:
        """Return how many of ``size`` bytes may go on now, and whether the cut follows them."""
        size = min(size, self.piece_bytes)
        if self._left is None or size < self._left:
            self._left = None if self._left is None else self._left - size
            return size, False
        size, self._left = self._left, None
        return size, True

    def _count(self, *, held: int, forwarded: int = 0) -> None:
        self.bytes_held += held
        self.bytes_forwarded += forwarded
        self._changed()
