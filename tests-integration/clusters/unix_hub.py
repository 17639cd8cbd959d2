"""A tiny broker on a UNIX socket: who holds which shard, and one receiver for each message."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Self

from clusters.unix_frames import Frame, FrameReader, Kind, decode_shards


class Hub:
    """The broker. `cut` and `restore` make it fail as a broker does; `inject` sends what no link would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._server: asyncio.Server | None = None
        self.peers: set[Peer] = set()
        self._holders: dict[int, list[Peer]] = {}
        self._numbers = itertools.count(1)
        self._askers: dict[int, tuple[Peer, int]] = {}

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.cut()

    async def restore(self) -> None:
        """Accept connections (again)."""
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def cut(self) -> None:
        """Break every connection, and accept none."""
        if self._server is not None:
            self._server.close()
            self._server = None
        peers = list(self.peers)
        for peer in peers:
            peer.writer.transport.abort()
        for peer in peers:
            await peer.gone.wait()

    async def cut_peer(self, peer: Peer) -> None:
        """Break one connection, and accept none."""
        if self._server is not None:
            self._server.close()
            self._server = None
        peer.writer.transport.abort()
        await peer.gone.wait()

    def inject(self, shard: int, body: bytes) -> None:
        """Deliver ``body`` to a holder of ``shard`` as if a link had sent it."""
        self._holders[shard][0].write(Frame(Kind.REQUEST, shard, next(self._numbers), body))

    def inject_raw(self, data: bytes) -> None:
        """Write ``data`` into every connection, framed or not."""
        for peer in self.peers:
            peer.writer.write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(writer)
        self.peers.add(peer)
        frames = FrameReader()
        try:
            while data := await reader.read(65536):
                for frame in frames.feed(data):
                    self._handle(peer, frame)
        except (ConnectionError, ValueError):
            writer.transport.abort()
        finally:
            self._forget(peer)
            writer.close()

    def _forget(self, peer: Peer) -> None:
        self.peers.discard(peer)
        self._drop(peer, tuple(self._holders))
        self._askers = {number: asker for number, asker in self._askers.items() if asker[0] is not peer}
        peer.gone.set()

    def _handle(self, peer: Peer, frame: Frame) -> None:
        match frame.kind:
            case Kind.HOLD:
                for shard in decode_shards(frame.body):
                    self._holders.setdefault(shard, []).append(peer)
            case Kind.DROP:
                self._drop(peer, decode_shards(frame.body))
            case Kind.REQUEST | Kind.NOTIFY:
                self._route(peer, frame)
            case Kind.REPLY:
                self._return(frame)
        if frame.kind in (Kind.HOLD, Kind.DROP, Kind.SYNC):
            peer.write(Frame(Kind.DONE, 0, frame.token, b""))

    def _drop(self, peer: Peer, shards: tuple[int, ...]) -> None:
        for shard in shards:
            if peer in self._holders.get(shard, ()):
                self._holders[shard].remove(peer)

    def _route(self, asker: Peer, frame: Frame) -> None:
        holders = self._holders.get(frame.shard)
        if not holders:
            asker.write(Frame(Kind.REFUSED, frame.shard, frame.token, b""))
            return
        holders.append(holders.pop(0))
        number = next(self._numbers)
        if frame.kind == Kind.REQUEST:
            self._askers[number] = asker, frame.token
        else:
            asker.write(Frame(Kind.ACCEPTED, frame.shard, frame.token, b""))
        holders[-1].write(Frame(frame.kind, frame.shard, number, frame.body))

    def _return(self, frame: Frame) -> None:
        asker = self._askers.pop(frame.token, None)
        if asker is not None:
            asker[0].write(Frame(Kind.REPLY, frame.shard, asker[1], frame.body))


class Peer:
    """One connection to the hub."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.gone = asyncio.Event()

    def write(self, frame: Frame) -> None:
        self.writer.write(frame.encode())
