"""`clstr.spi._links.sockets`: connected to an address that answers, and ended in every process."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from clstr.spi import Address, Resolver, connect_tcp, connect_unix, end_socket

pytestmark = pytest.mark.usefixtures("real_loop")


class Names(Resolver):
    """A resolver that knows what the test tells it."""

    def __init__(self, *addresses: Address) -> None:
        super().__init__()
        self.addresses = list(addresses)

    async def resolve(self, host: str, port: int) -> list[Address]:
        return self.addresses


@pytest.fixture
async def alive() -> AsyncIterator[Address]:
    """An address where somebody listens."""
    listener = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    yield Address(socket.AF_INET, listener.sockets[0].getsockname())
    listener.close()


@pytest.fixture
def mute() -> Iterator[Address]:
    """An address that does not even refuse: its queue of connections is full, and the system drops what else comes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield Address(socket.AF_INET, listener.getsockname())
        for filler in fillers:
            filler.close()


@pytest.fixture
def refusing() -> Iterator[Address]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield Address(socket.AF_INET, bound.getsockname())


async def test_a_dead_address_in_front_costs_a_moment(alive: Address, mute: Address, refusing: Address) -> None:
    async with asyncio.timeout(5):
        with await connect_tcp("two-addresses", 0, Names(mute, refusing, alive)) as connected:
            assert connected.getpeername() == alive.sockaddr
            assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_the_families_alternate(alive: Address) -> None:
    """Three addresses of a family that does not work are not all tried before the one of another."""
    broken = [Address(socket.AF_INET6, ("::1", 1, 0, 2**31 - 1 - n)) for n in range(3)]
    with await connect_tcp("name", 0, Names(*broken, alive)) as connected:
        assert connected.getpeername() == alive.sockaddr


async def test_if_no_address_answers_each_error_is_named(refusing: Address) -> None:
    with pytest.raises(ConnectionRefusedError):
        await connect_tcp("name", 0, Names(refusing))
    with pytest.raises(ConnectionError, match="; "):
        await connect_tcp("name", 0, Names(refusing, refusing))


async def test_a_connection_that_is_given_up_leaves_nothing(mute: Address) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- a count
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await connect_tcp("name", 0, Names(mute))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 -- a count


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with pytest.raises(OSError, match=r"."):
        await connect_unix(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with await connect_unix(path) as connected:
            assert connected.getpeername() == path


async def accepted(listener: socket.socket) -> socket.socket:
    listener.setblocking(False)
    connected, _ = await asyncio.get_running_loop().sock_accept(listener)
    return connected


async def test_a_connection_ends_although_somebody_else_has_its_descriptor(real_loop: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connected = await connect_tcp("127.0.0.1", listener.getsockname()[1], Resolver())
        with await accepted(listener) as peer, socket.socket(fileno=os.dup(connected.fileno())):
            _, writer = await asyncio.open_connection(sock=connected)
            end_socket(writer.transport)
            async with asyncio.timeout(10):
                assert await asyncio.get_running_loop().sock_recv(peer, 1) == b""
            end_socket(writer.transport)
            end_socket(connected)
            end_socket(None)


async def test_whatever_a_closed_transport_raises_it_ends(real_loop: None) -> None:
    """As asyncio's transport for TLS does when it has been closed twice."""

    class Closed(asyncio.Transport):
        has_aborted = False

        def get_extra_info(self, name: str, default: object = None) -> object:
            raise AttributeError(name, default)

        def abort(self) -> None:
            self.has_aborted = True
            raise RuntimeError("the handler is closed")

    closed = Closed()
    end_socket(closed)
    assert closed.has_aborted


CHILD = """
import asyncio, os, socket, sys
from clstr.spi import Resolver, connect_tcp

async def main():
    connected = await connect_tcp("127.0.0.1", int(sys.argv[1]), Resolver())
    closed = await connect_tcp("127.0.0.1", int(sys.argv[1]), Resolver())
    closed.close()
    if os.fork() == 0:
        connected.fileno()
        sys.stdin.read()  # outlives its parent
        os._exit(0)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_a_forked_child_does_not_keep_the_connection_of_a_parent_that_was_killed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        program = subprocess.Popen([sys.executable, "-c", CHILD, str(port)], stdin=subprocess.PIPE)  # noqa: ASYNC220 -- ours
        try:
            async with asyncio.timeout(30):
                with await accepted(listener) as peer:
                    assert await asyncio.get_running_loop().sock_recv(peer, 1) == b""
        finally:
            assert program.stdin is not None
            program.stdin.close()
            program.wait(30)
