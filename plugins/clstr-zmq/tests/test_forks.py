"""Processes that fork: their children keep no socket of a peer."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

import clstr
from clstr.spi import Engine
from clstr_zmq._forks import close_sockets
from clstr_zmq._link import ZmqLink

PROGRAM = Path(__file__).with_name("fork_program.py")
Connect = Callable[..., Awaitable[clstr.Transport]]
NewPort = Callable[[], int]
ENVELOPE = clstr.Envelope(shard=0, type="t", data=b"x")


@asynccontextmanager
async def forking_node(url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a node with a forked worker, that outlives it until the block ends."""
    node = await asyncio.create_subprocess_exec(sys.executable, PROGRAM, url, "0", stdout=asyncio.subprocess.PIPE)
    assert node.stdout is not None
    async with asyncio.timeout(30):
        worker = int(await node.stdout.readline())
    try:
        yield node
    finally:
        for end in (node.kill, lambda: os.kill(worker, signal.SIGKILL)):
            with suppress(ProcessLookupError):
                end()
        await node.communicate()  # reads the end of its output: the pipe is closed when the loop ends


async def kill(node: asyncio.subprocess.Process) -> None:
    node.kill()
    await node.wait()


@pytest.fixture(params=["tcp", "tcp on all interfaces", "ipc"])
def inbox(request: pytest.FixtureRequest, new_port: NewPort, tmp_path: Path) -> tuple[str, str]:
    """A URL that binds an inbox, and one that reaches it."""
    if request.param == "ipc":
        return f"zmq+ipc://?bind={tmp_path}/a.sock", f"zmq+ipc://{tmp_path}/a.sock"
    port = new_port()
    if request.param == "tcp":
        return f"zmq://?bind=tcp://127.0.0.1:{port}", f"zmq://127.0.0.1:{port}"
    everywhere = f"bind=tcp://0.0.0.0:{port}&advertise=127.0.0.1:{port}&insecure=true"
    return f"zmq://?{everywhere}", f"zmq://127.0.0.1:{port}"


async def test_an_inbox_is_bound_again_while_a_forked_worker_of_the_dead_node_lives(
    connect: Connect, inbox: tuple[str, str]
) -> None:
    bind, url = inbox
    async with forking_node(bind) as node:
        client = await connect(url)
        assert await client.request(ENVELOPE, timeout=60) == b"x"
        await kill(node)
        heir = await connect(bind)
        await heir.subscribe([0], echo)
        other = await connect(url)
        assert await other.request(ENVELOPE, timeout=60) == b"x"


async def test_the_end_of_a_node_is_noticed_at_once_while_its_forked_worker_lives(
    connect: Connect, inbox: tuple[str, str]
) -> None:
    """On the connection to it: heartbeats would tell in three minutes."""
    bind, url = inbox
    async with forking_node(bind) as node:
        client = await connect(f"{url}?heartbeat=60", reconnect_wait=0.01)
        assert await client.request(ENVELOPE, timeout=60) == b"x"
        await kill(node)
        async with asyncio.timeout(10):
            while True:
                try:
                    await client.request(ENVELOPE, timeout=60)
                except clstr.TransportUnavailableError:
                    break
                except clstr.ConnectionLostError:
                    continue


async def test_the_connection_from_a_dead_node_ends_while_its_forked_worker_lives(connect: Connect) -> None:
    """On the connection from it: a subscription waits for nobody who has gone."""
    seed = await connect("zmq://?bind=tcp://127.0.0.1:*&heartbeat=60")
    async with forking_node(f"zmq://{address_of(seed)}?bind=tcp://127.0.0.1:*&heartbeat=60") as node:
        assert await seed.request(ENVELOPE, timeout=60) == b"x"
        await kill(node)
        async with asyncio.timeout(10):
            await seed.subscribe([1], echo)


async def echo(message: clstr.Envelope) -> bytes:
    return message.data


def address_of(transport: clstr.Transport) -> str:
    assert isinstance(transport, Engine)
    assert isinstance(transport.link, ZmqLink)
    assert transport.link.me.inbox is not None
    return transport.link.me.inbox.address.removeprefix("tcp://")


def is_socket(descriptor: int) -> bool:
    return stat.S_ISSOCK(os.fstat(descriptor).st_mode)


def test_only_stream_sockets_of_these_endpoints_are_closed(tmp_path: Path) -> None:
    """
    Other sockets, files and pipes are somebody else's.

    The numbers stay in use: libzmq's objects, which the child has inherited, may close them later.
    """
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as ours,
        closing(socket.create_server(("127.0.0.1", 0))) as foreign,
        closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as datagrams,
        closing(socket.socket(socket.AF_UNIX)) as path,
        closing(socket.socket()) as fresh,
        (tmp_path / "file").open("w") as file,
    ):
        port = ours.getsockname()[1]
        datagrams.bind(("127.0.0.1", port))
        path.bind(str(tmp_path / "a.sock"))
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = ours.accept()
        others = [each.fileno() for each in (foreign, datagrams, path, fresh)]
        close_sockets([f"tcp://127.0.0.1:{port}"], [])
        assert [is_socket(each.fileno()) for each in (ours, accepted, client)] == [False, False, True]
        close_sockets([], [f"tcp://127.0.0.1:{port}"])
        assert not is_socket(client.fileno())
        assert all(map(is_socket, others))
        assert file.write("x") == 1
        close_sockets([f"ipc://{tmp_path}/a.sock"], [])
        assert not is_socket(path.fileno())
        for closed in (ours, accepted, client, path):
            assert os.read(closed.fileno(), 1) == b""  # /dev/null
            assert not os.get_inheritable(closed.fileno())
            closed.close()
