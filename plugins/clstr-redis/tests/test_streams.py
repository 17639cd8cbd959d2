"""`clstr_redis._streams`: redis-py's connections use the sockets that they are given, and what arrives is counted."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions
from redis.asyncio.connection import AbstractConnection

from clstr.spi import Resolver, connect_tcp, connect_unix
from clstr_redis._streams import Local, Plain, metered
from clstr_testing import Server, free_port, valkey_server

OPTIONS: dict[str, Any] = {"protocol": 3, "driver_info": None}


async def ask(raw: AbstractConnection) -> Any:
    await raw.send_command("ECHO", "x" * 1000)
    return await raw.read_response()


async def test_what_arrives_is_counted(server: Server) -> None:
    """`_connect`, `_reader`, `_writer`."""
    raw = Plain(partial(connect_tcp, server.host, server.port, Resolver()), host="elsewhere", port=1, **OPTIONS)
    await raw.connect()  # type: ignore[no-untyped-call]  # redis-py's
    before = metered(raw).bytes_read
    assert before > 0
    assert await ask(raw) == b"x" * 1000
    assert metered(raw).bytes_read == before + len("$1000\r\n") + 1000 + 2
    await raw.disconnect(nowait=True)


async def test_a_unix_socket_is_counted_too(tmp_path: Path) -> None:
    path = str(tmp_path / "redis.sock")
    async with valkey_server("--unixsocket", path):
        raw = Local(partial(connect_unix, path), path="elsewhere", **OPTIONS)
        await raw.connect()  # type: ignore[no-untyped-call]  # redis-py's
        assert await ask(raw) == b"x" * 1000
        assert metered(raw).bytes_read > 1000
        await raw.disconnect(nowait=True)


async def test_a_socket_that_cannot_be_had_is_the_driver_s_error() -> None:
    raw = Plain(partial(connect_tcp, "127.0.0.1", free_port(), Resolver()), host="elsewhere", port=1, **OPTIONS)
    with pytest.raises(redis.exceptions.ConnectionError, match="connecting to elsewhere"):
        await raw.connect()  # type: ignore[no-untyped-call]  # redis-py's
