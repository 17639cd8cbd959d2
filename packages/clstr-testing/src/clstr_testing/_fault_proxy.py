"""A TCP proxy that does to connections what networks do."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from clstr_testing._fault_direction import CutError, Direction
from clstr_testing._ports import LOOPBACK, HeldPort

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of 0 seconds: close() sends RST
RECEIVE_BYTES = 256 * 1024


class _Connection:
    """A client's socket, the server's, and the task that serves them."""

    def __init__(self, client: socket.socket) -> None:
        self.sockets = [client]
        self.task: asyncio.Task[None] | None = None
        self.is_reset = False

    def close(self) -> None:
        """Close both sockets, with FIN or with RST."""
        for each in self.sockets:
            if self.is_reset:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            each.close()


class FaultProxy:
    """
    Forwards TCP connections to a server until it is told to do worse.

    ``async with FaultProxy("127.0.0.1", server.port) as proxy:`` listens on ``proxy.port``. The faults of each way are
    methods and attributes of ``proxy.to_server`` and ``proxy.to_client``; they can be set at any time, and they hold
    for later connections too, half-closing excepted. A reset of one side is passed on to the other.

    Args:
        target_host: Where the server listens.
        target_port: Its port.

    Attributes:
        host: Where the proxy listens: 127.0.0.1.
        port: Its port, the same as long as the proxy lives.
        to_server: The way from the clients to the server.
        to_client: The way back.
        connections_accepted: How many connections there have been.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.host: str = LOOPBACK
        self.port: int = 0
        self.connections_accepted: int = 0
        self.to_server: Direction = Direction(self._pulse)
        self.to_client: Direction = Direction(self._pulse)
        self._target = (target_host, target_port)
        self._change = asyncio.Event()
        self._connections: set[_Connection] = set()
        self._listener: socket.socket | None = None

    async def __aenter__(self) -> Self:
        self._held_port = HeldPort()
        self.port = self._held_port.number
        self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.refuse()
        await self._end_connections()
        self._held_port.release()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def accept(self) -> None:
        """Accept new connections (again)."""
        if self._listener is None:
            self._listener = socket.create_server((self.host, self.port))
            self._listener.setblocking(False)
            asyncio.get_running_loop().add_reader(self._listener, self._accept_one, self._listener)

    def refuse(self) -> None:
        """Refuse new connections, as a host does where nobody listens; those that exist go on."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def reset(self) -> None:
        """Break every connection with RST, on both sides."""
        for connection in self._connections:
            connection.is_reset = True
        await self._end_connections()

    def black_hole(self) -> None:
        """Swallow everything: nothing goes on in either direction, and nobody is told; new connections are accepted."""
        self.to_server.stall()
        self.to_client.stall()

    def heal(self) -> None:
        """Take back every fault that can be taken back, and accept connections."""
        self.to_server.heal()
        self.to_client.heal()
        self.accept()

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait until ``predicate()`` is true of this proxy's counters: ``lambda: proxy.to_client.bytes_held > 0``."""
        while not predicate():
            await self._change.wait()

    def _pulse(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    def _accept_one(self, listener: socket.socket) -> None:
        """Accept a connection; no task does, because one that is cancelled can lose what it has accepted."""
        try:
            client, _ = listener.accept()
        except OSError:  # it is gone already
            return
        self.connections_accepted += 1
        connection = _Connection(client)
        self._connections.add(connection)
        connection.task = asyncio.create_task(self._serve(connection), name=f"proxied by {self.port}")
        connection.task.add_done_callback(partial(self._closed, connection))
        self._pulse()

    async def _serve(self, connection: _Connection) -> None:
        try:
            await self._join(connection)
        except* CutError:
            pass
        except* OSError:
            connection.is_reset = True

    def _closed(self, connection: _Connection, _: asyncio.Task[None]) -> None:
        """Release a connection; a callback, because a task that is cancelled before it starts runs no ``finally``."""
        connection.close()
        self._connections.discard(connection)
        self._pulse()

    async def _join(self, connection: _Connection) -> None:
        """Connect to the server, and carry both ways until both have ended."""
        client, server = connection.sockets[0], socket.socket()
        connection.sockets.append(server)
        for each in connection.sockets:
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # What it does not read must not vanish in the system's buffers, which grow to tens of megabytes.
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        with self.to_server.pipe(client, server) as there, self.to_client.pipe(server, client) as back:
            await self.to_server.passage()
            await asyncio.get_running_loop().sock_connect(server, self._target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self.to_server.carry(there))
                group.create_task(self.to_client.carry(back))

    async def _end_connections(self) -> None:
        tasks = [connection.task for connection in self._connections if connection.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
