"""Bare ``zmq.asyncio``: a DEALER that asks and a ROUTER that answers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress

import zmq
import zmq.asyncio

from bench.contender import Ask, Contender, Load, Prepare

NO_TOKEN = b""  # of a message that wants no answer


class ZmqAsyncio(Contender):
    """Echoes bytes."""

    @asynccontextmanager
    async def serve(self, node: int) -> AsyncIterator[None]:
        """Bind a ROUTER."""
        with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as socket:
            socket.linger = 0
            socket.bind(f"tcp://127.0.0.1:{self.place.ports[node]}")
            async with _running(self._echo(socket)):
                yield

    async def _echo(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            message = await socket.recv_multipart()
            self.handled += 1
            if message[1] != NO_TOKEN:
                await socket.send_multipart(message)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Prepare]:
        """Connect a DEALER to each node, and reach it."""
        with zmq.asyncio.Context() as context:
            sockets = [context.socket(zmq.DEALER) for _ in self.place.ports]
            dealers = [_Dealer(socket, port) for socket, port in zip(sockets, self.place.ports, strict=True)]
            try:
                async with asyncio.TaskGroup() as group:
                    readers = [group.create_task(dealer.read()) for dealer in dealers]
                    yield lambda load: _ask(dealers, load)
                    for reader in readers:
                        reader.cancel()
            finally:
                for socket in sockets:
                    socket.close()


class _Dealer:
    def __init__(self, socket: zmq.asyncio.Socket, port: int) -> None:
        socket.linger = 0
        socket.connect(f"tcp://127.0.0.1:{port}")
        self._socket = socket
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self._tokens = itertools.count()

    async def read(self) -> None:
        while True:
            token, answer = await self._socket.recv_multipart()
            self._waiting.pop(token).set_result(answer)

    async def request(self, payload: bytes) -> bytes:
        token = b"%d" % next(self._tokens)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[token] = answer
        await self._socket.send_multipart([token, payload])
        return await answer

    async def notify(self, payload: bytes) -> None:
        await self._socket.send_multipart([NO_TOKEN, payload])


def _ask(dealers: list[_Dealer], load: Load) -> Ask:
    payload, nodes = load.payload, len(dealers)

    async def request(number: int) -> bytes:
        return await dealers[number % nodes].request(payload)

    async def notify(number: int) -> None:
        await dealers[number % nodes].notify(payload)

    return notify if load.oneway else request


@asynccontextmanager
async def _running(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
