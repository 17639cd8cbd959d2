"""Connected sockets: to whichever address of a host answers, kept from forked children, and ended for good."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from functools import partial
from itertools import chain, zip_longest
from typing import Any

from clstr.spi._links import forks as _forks
from clstr.spi._links.race import race
from clstr.spi._links.resolver import Address, Resolver

MAX_NOT_SENT = 128 * 1024  # bytes that the system takes beyond those in flight
NEXT_ADDRESS_AFTER = 0.25  # seconds: RFC 8305 recommends it as the Connection Attempt Delay


async def connect_tcp(host: str, port: int, resolver: Resolver) -> socket.socket:
    """
    Return a socket that is connected to ``host``, without Nagle's delay, whose unsent bytes wait in the program.

    The system takes only what it can send soon, where it can be told so. Else it takes megabytes at once, and
    `ProgressCheck` sees no byte move on a slow connection.

    A host's addresses are tried as RFC 8305 ("Happy Eyeballs") recommends: IPv6 and IPv4 alternate, and the next is
    tried 0.25 s after the last or as soon as that fails. A dead address costs a moment, not the connection. Give the
    socket to ``loop.create_connection(sock=...)``; end it with `end_socket`.

    It waits as long as the system does: bound it with `asyncio.timeout`.

    Args:
        host: A name or an address.
        port: Its port.
        resolver: Looks up the name.

    Raises:
        OSError: The name cannot be looked up, or no address accepts the connection.
    """
    addresses = _alternated(await resolver.resolve(host, port))
    attempts = [partial(_connect, address.family, address.sockaddr) for address in addresses]
    try:
        connected = await race(attempts, delay=NEXT_ADDRESS_AFTER, discard=socket.socket.close)
    except ExceptionGroup as group:
        raise _one_of(group.exceptions) from None
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if (option := getattr(socket, "TCP_NOTSENT_LOWAT", None)) is not None:
        connected.setsockopt(socket.IPPROTO_TCP, option, MAX_NOT_SENT)
    return connected


async def connect_unix(path: str) -> socket.socket:
    """
    Return a socket that is connected to the UNIX socket ``path``; as `connect_tcp` otherwise.

    Raises:
        OSError: Nobody listens there.
    """
    return await _connect(socket.AF_UNIX, path)


def keep_from_children(connected: socket.socket) -> None:
    """
    Make ``connected`` of no use to processes that this one forks from now on.

    A forked child inherits the descriptor. Without this, the connection of a process that was killed lives on in its
    children, and the broker goes on sending to it. `connect_tcp` and `connect_unix` do it for theirs.
    """
    _forks.guarded.add(connected)


def end_socket(transport: asyncio.BaseTransport | socket.socket | None) -> None:
    """
    End a connection at once, in whatever process its descriptor lives on. Never raises.

    Closing a descriptor ends a connection only if no other process has inherited it; shutting the connection down
    always does. What the socket has not sent is given up.

    Args:
        transport: An asyncio transport, which is aborted, or a socket, which is closed; ``None`` is nothing to end.
    """
    if transport is None:
        return
    # Loops raise what they like of a closed transport: asyncio's for TLS, closed twice, AttributeError.
    with contextlib.suppress(Exception):
        _shut_down(transport if isinstance(transport, socket.socket) else transport.get_extra_info("socket"))
    with contextlib.suppress(Exception):
        getattr(transport, "abort", transport.close)()  # uvloop's transports are no `asyncio.WriteTransport`


def _shut_down(ended: Any) -> None:  # Any: a socket, or what a loop shows in its place
    number = -1 if ended is None else ended.fileno()
    if number >= 0:
        # uvloop's stand-in for a socket has no `shutdown`.
        with socket.socket(fileno=socket.dup(number)) as same:
            same.shutdown(socket.SHUT_RDWR)


async def _connect(family: int, address: Any) -> socket.socket:  # Any: what the family takes
    connected = socket.socket(family, socket.SOCK_STREAM)
    try:
        keep_from_children(connected)
        connected.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connected, address)
    except BaseException:
        connected.close()
        raise
    return connected


def _alternated(addresses: Sequence[Address]) -> list[Address]:
    """Alternate the families, and begin with the one that the system prefers."""
    first = addresses[0].family
    preferred = [each for each in addresses if each.family == first]
    others = [each for each in addresses if each.family != first]
    return [each for each in chain.from_iterable(zip_longest(preferred, others)) if each is not None]


def _one_of(failures: Sequence[Exception]) -> Exception:
    """Return one error for all addresses."""
    if len(failures) == 1:
        return failures[0]
    return ConnectionError("; ".join(str(failure) or type(failure).__name__ for failure in failures))
