"""The sockets of one peer, with the options that the transport's promises stand on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import zmq

from clstr.errors import TransportUnavailableError
from clstr_zmq._counters import Counters
from clstr_zmq._dealer import WATCHED, Dealer
from clstr_zmq._forks import close_in_children
from clstr_zmq._pieces import MAX_PIECE
from clstr_zmq._wire import Receive, Wire

CHECK_INTERVAL = 0.25  # seconds between two looks for wake-ups that did not come
LINGER = 100  # milliseconds for the last words, after which closing goes on without them
HIGH_WATER_MARK = 10_000  # messages; as many as a peer may have in flight, so that it is reached by no peer that reads
UNREAD_MARK = 256  # messages of a peer that are kept for a loop that does not read: 16 MiB; the rest waits at the peer
MAX_SOCKETS = 16_384
CURVE_BYTES = 64  # more than the 33 that encryption adds to a message, before its size is checked
HANDSHAKE_MS = 2_000
CONNECT_MS = 2_000
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 5, 2, 3  # the kernel's own look at connections that are silent
UNSENT_MS = 10_000  # for bytes that the other machine does not acknowledge


class Sockets:
    """
    Makes sockets, and looks after all of them.

    Args:
        counters: Where missed wake-ups are counted.
        logger: Told of defects.

    Attributes:
        bound: The endpoints that are bound.
        dialled: The endpoint of each dealer.
    """

    def __init__(self, counters: Counters, logger: logging.Logger) -> None:
        self._loop = asyncio.get_running_loop()
        self._counters = counters
        self._logger = logger
        self._wires: set[Wire] = set()
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
        self._checks = self._loop.call_later(CHECK_INTERVAL, self._check)
        self._ended: asyncio.Future[None] | None = None
        self.bound: set[str] = set()
        self.dialled: dict[Wire, str] = {}
        close_in_children(self)

    def router(self, endpoint: str, receive: Receive, secure: Callable[[zmq.Socket[bytes]], None]) -> tuple[Wire, str]:
        """
        Bind an inbox; return it and the endpoint that it has, with its port.

        Raises:
            TransportUnavailableError: The address is in use, or is none of this machine's.
        """
        with self._new_socket(zmq.ROUTER, endpoint, f"cannot bind {endpoint}") as socket:
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # without it what cannot be sent vanishes silently
            socket.setsockopt(zmq.BACKLOG, 1024)
            secure(socket)
            socket.bind(endpoint)
        bound = cast("bytes", socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()
        self.bound.add(bound)
        return self._wire(socket, receive), bound

    def dealer(self, endpoint: str, secure: Callable[[zmq.Socket[bytes]], None]) -> Dealer:
        """
        Begin to connect to an inbox.

        Args:
            endpoint: Where it is, with a numeric address.
            secure: Sets the options of CURVE.

        Returns:
            What tells whether there is a connection, unless a shortage in ZeroMQ's own thread keeps it from trying.

        Raises:
            TransportUnavailableError: There is no such address, or no socket: descriptors have run out.
        """
        with self._new_socket(zmq.DEALER, endpoint, f"cannot connect to {endpoint}") as socket:
            socket.setsockopt(zmq.IMMEDIATE, 1)  # without it messages wait for whoever binds there one day
            socket.setsockopt(zmq.RECONNECT_IVL, -1)  # a connection that breaks is a new life, and ours to begin
            socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
            secure(socket)
            watched = socket.get_monitor_socket(WATCHED)
            try:
                socket.connect(endpoint)
            except zmq.ZMQError:
                watched.close(0)
                raise
        wire = self._wire(socket, _drop)
        dealer = Dealer(socket, wire, self._forget)
        dealer.watch(self._wire(watched, dealer.observe))
        self.dialled[wire] = endpoint
        return dealer

    def zap(self, receive: Receive) -> Wire:
        """
        Bind what ZeroMQ asks whether a key may connect.

        Raises:
            TransportUnavailableError: There is no socket: descriptors have run out.
        """
        endpoint = "inproc://zeromq.zap.01"
        with self._new_socket(zmq.ROUTER, endpoint, "cannot check keys") as socket:
            socket.bind(endpoint)
        return self._wire(socket, receive)

    def close(self) -> None:
        """Close every socket; what was not sent has a moment more. ZeroMQ's threads end by themselves then."""
        self._checks.cancel()
        for wire in self._wires:
            wire.close(LINGER)
        self._wires.clear()
        self.bound.clear()
        self.dialled.clear()
        self._ended = self._loop.run_in_executor(None, self._context.term)

    async def wait_closed(self) -> None:
        """Return when ZeroMQ's threads have ended."""
        if self._ended is not None:
            await asyncio.shield(self._ended)

    @contextmanager
    def _new_socket(self, kind: int, endpoint: str, failure: str) -> Iterator[zmq.Socket[bytes]]:
        """Make a socket; if that or the block fails, close it and raise ``TransportUnavailableError``."""
        socket: zmq.Socket[bytes] | None = None
        try:
            socket = self._context.socket(kind)
            self._set_options(socket, endpoint)
            yield socket
        except zmq.ZMQError as error:
            if socket is not None:
                socket.close(0)
            raise TransportUnavailableError(f"{failure}: {error.strerror}") from error

    def _set_options(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        socket.linger = 0
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_PIECE + CURVE_BYTES)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 0)  # ZeroMQ's own can abort the process under back-pressure
        socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
        socket.setsockopt(zmq.RCVHWM, UNREAD_MARK)
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE)
        socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_INTERVAL)
        socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_COUNT)
        socket.setsockopt(zmq.TCP_MAXRT, UNSENT_MS)

    def _wire(self, socket: zmq.Socket[bytes], receive: Receive) -> Wire:
        wire = Wire(socket, receive, self._counters, self._logger)
        self._wires.add(wire)
        return wire

    def _forget(self, wire: Wire) -> None:
        self.dialled.pop(wire, None)

    def _check(self) -> None:
        self._wires = {wire for wire in self._wires if not wire.is_closed}
        for wire in self._wires:
            wire.check()
        self._checks = self._loop.call_later(CHECK_INTERVAL, self._check)


def set_nothing(_socket: zmq.Socket[bytes]) -> None:
    """Leave a socket without CURVE."""


def _drop(_frames: list[zmq.Frame]) -> None:
    """Read what comes before somebody uses a connection: nothing that speaks as we do says anything then."""
