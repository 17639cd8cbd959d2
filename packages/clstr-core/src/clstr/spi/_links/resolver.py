"""Looks up host names, so that neither the program's threads nor a slow name server keep others waiting."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import deque
from functools import partial
from typing import NamedTuple

MAX_LOOKUPS = 32  # threads at a time; the system gives none of them up before its own timeout


class Address(NamedTuple):
    """
    One address of a host, in the terms of `socket.getaddrinfo`.

    Attributes:
        family: ``AF_INET`` or ``AF_INET6``.
        sockaddr: What `socket.socket.connect` takes.
    """

    family: int
    sockaddr: tuple[str | int | bytes, ...]


class Resolver:
    """
    Looks up names in daemon threads of its own, one per name.

    The loop's ``getaddrinfo`` waits in the default executor, behind whatever else the program runs there, and a program
    that ends waits for its lookups. Callers that ask for a name while it is being looked up share the one lookup. At
    most ``max_lookups`` run at a time; others wait. A thread ends with its lookup.

    Bound to the loop on which it is used. Create one per transport.

    Args:
        max_lookups: Threads at a time: 32 by default.
    """

    def __init__(self, *, max_lookups: int = MAX_LOOKUPS) -> None:
        self._free = max_lookups
        self._waiting: deque[tuple[str, int]] = deque()
        self._lookups: dict[tuple[str, int], asyncio.Future[list[Address]]] = {}

    async def resolve(self, host: str, port: int) -> list[Address]:
        """
        Return the addresses of ``host``, at least one, in the system's order of preference.

        It waits as long as the system does: bound it with `asyncio.timeout`.

        Args:
            host: A name, or an IPv4 or IPv6 address, which is returned without a lookup.
            port: Stands in each address.

        Raises:
            OSError: The name cannot be looked up (`socket.gaierror`), or there is no thread to do it.
        """
        with contextlib.suppress(socket.gaierror):
            return _look_up(host, port, socket.AI_NUMERICHOST)
        lookup = self._lookups.get((host, port))
        if lookup is None:
            lookup = self._lookups[host, port] = asyncio.get_running_loop().create_future()
            self._waiting.append((host, port))
            self._start()
        return await asyncio.shield(lookup)

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and self._free:
            name = self._waiting.popleft()
            self._free -= 1
            thread = threading.Thread(target=self._run, args=(loop, *name), name=f"clstr looks up {name[0]}")
            thread.daemon = True
            try:
                thread.start()
            except RuntimeError as error:  # the system has no more threads
                self._ended(name, OSError(f"{name[0]} cannot be looked up: {error}"))

    def _run(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> None:
        """Runs in the thread."""
        result: list[Address] | Exception
        try:
            result = _look_up(host, port)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is the caller's
            result = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(partial(self._ended, (host, port), result))

    def _ended(self, name: tuple[str, int], result: list[Address] | Exception) -> None:
        self._free += 1
        lookup = self._lookups.pop(name)
        if isinstance(result, Exception):
            lookup.set_exception(result)
            lookup.exception()  # retrieved, even if every caller has gone
        else:
            lookup.set_result(result)
        self._start()


def _look_up(host: str, port: int, flags: int = 0) -> list[Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as error:  # an empty or overlong label
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is no host name") from error
    return [Address(family, tuple(sockaddr)) for family, _, _, _, sockaddr in found]
