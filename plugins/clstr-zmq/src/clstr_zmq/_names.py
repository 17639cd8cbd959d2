"""Host names and addresses: libzmq is given numeric addresses only, since it resolves names on its one I/O thread."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

from clstr.spi import Resolver

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""Returns every address of a host, the preferred one first, or raises `OSError`."""


def new_lookup() -> Lookup:
    """Return a look-up that occupies neither the loop nor its default executor."""
    resolver = Resolver()

    async def look_up(host: str, port: int) -> list[str]:
        found = await resolver.resolve(host, port)
        return list(dict.fromkeys(str(address.sockaddr[0]) for address in found))

    return look_up


def is_address(host: str) -> bool:
    """Tell whether ``host`` is an IPv4 or IPv6 address, and no name."""
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True


def tcp_endpoint(host: str, port: int | str) -> str:
    """Return the endpoint of an address and a port, as ZeroMQ writes it."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def host_and_port(endpoint: str) -> tuple[str, int] | None:
    """Return the name and the port of a TCP endpoint that has to be looked up; ``None`` if it has an address."""
    if not endpoint.startswith("tcp://"):
        return None
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    host = host.strip("[]")
    return None if is_address(host) else (host, int(port))
