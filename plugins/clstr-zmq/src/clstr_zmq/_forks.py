"""
Forked children close the sockets of their parent's peers.

A child that keeps them keeps the inbox's port in use and its connections open after the parent has ended: nobody can
bind the port, and the other peers learn of the end from missed heartbeats only. libzmq does not tell its descriptors,
so a child finds them by their addresses, and puts /dev/null in their place. It touches nothing else: libzmq's state
belongs to the parent's threads.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterable
from typing import Any, Protocol
from weakref import WeakSet

from clstr.spi import close_in_child

_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104 -- to recognise them


class Owner(Protocol):
    """
    Something with sockets that children must not keep.

    Attributes:
        bound: The endpoints that it listens at: ``tcp://127.0.0.1:5555``, ``ipc:///run/app/a.sock``.
        dialled: The endpoint that each of its other sockets connects to.
    """

    bound: set[str]
    dialled: dict[Any, str]


_owners: WeakSet[Owner] = WeakSet()


def close_in_children(owner: Owner) -> None:
    """Let children that this process forks from now on close the sockets of ``owner``, as long as that exists."""
    _owners.add(owner)


def close_sockets(bound: Iterable[str], dialled: Iterable[str]) -> None:
    """Close the stream sockets of this process, a forked child, that are bound at or connected to these endpoints."""
    local, remote = set(bound), set(dialled)
    if not local and not remote:
        return
    ports = {endpoint.rpartition(":")[2] for endpoint in local if _host(endpoint) in _WILDCARDS}
    close_in_child([number for number in _descriptors() if _is_socket_of(number, local, ports, remote)])


def _is_socket_of(descriptor: int, local: set[str], ports: set[str], remote: set[str]) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
    except OSError:  # closed meanwhile: the descriptor of the listing itself
        return False
    found = socket.socket(fileno=descriptor)
    try:
        here = _endpoint(found, found.getsockname)
        if here in local or (here.startswith("tcp:") and here.rpartition(":")[2] in ports):
            return True
        return bool(remote) and _endpoint(found, found.getpeername) in remote
    finally:
        found.detach()


def _endpoint(found: socket.socket, name: Any) -> str:
    """Return an address as ZeroMQ writes it; empty if it is of another kind, or the socket has none."""
    if found.type != socket.SOCK_STREAM:
        return ""
    try:
        address = name()
    except OSError:  # not connected
        return ""
    if found.family == socket.AF_UNIX:
        return f"ipc://{address}" if address and isinstance(address, str) else ""
    host = address[0].partition("%")[0]
    return f"tcp://[{host}]:{address[1]}" if ":" in host else f"tcp://{host}:{address[1]}"


def _host(endpoint: str) -> str:
    return endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")


def _descriptors() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/dev/fd")]  # noqa: PTH208 -- names alone
    except OSError:  # no /proc: a container without it
        return list(range(3, os.sysconf("SC_OPEN_MAX")))


def _after_fork() -> None:
    owners = list(_owners)
    close_sockets(
        [endpoint for owner in owners for endpoint in owner.bound],
        [endpoint for owner in owners for endpoint in owner.dialled.values()],
    )


os.register_at_fork(after_in_child=_after_fork)
