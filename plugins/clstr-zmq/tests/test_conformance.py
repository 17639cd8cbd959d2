"""The ZeroMQ transport against the contract: over TCP and UNIX sockets, with and without CURVE."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import zmq

import clstr
from clstr.spi import pack
from clstr_testing import FaultProxy, TransportSuite
from clstr_zmq.__main__ import make_key
from clstr_zmq._key_files import read_key_file
from clstr_zmq._peers_file import Role
from clstr_zmq._protocol import Hello, encode, encode_request


class TestZmqOverTcp(TransportSuite):
    """Every peer has an inbox, and reaches the others' through proxies that can cut; all know one seed."""

    most_peers = 5  # of one check, beside the seed
    security: Mapping[str, Any] = MappingProxyType({})
    seed: str
    proxies: list[FaultProxy]
    inboxes: list[tuple[int, FaultProxy]]

    @pytest.fixture(autouse=True)
    async def _start_seed(self, new_port: Callable[[], int]) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            ports = [new_port() for _ in range(1 + self.most_peers)]
            self.proxies = [await stack.enter_async_context(FaultProxy("127.0.0.1", port)) for port in ports]
            self.inboxes = list(zip(ports, self.proxies, strict=True))
            self.seed = ""
            self._ports: list[int] = []
            seed = await self.connect()
            stack.push_async_callback(seed.aclose)
            self.seed = f"127.0.0.1:{self.proxies[0].port}"
            yield

    async def connect(self, **options: Any) -> clstr.Transport:
        port, proxy = self.inboxes.pop(0)
        self._ports.append(port)
        url = f"zmq://{self.seed}?bind=tcp://127.0.0.1:{port}&advertise=127.0.0.1:{proxy.port}"
        return await clstr.connect(url, **self.security, **options)

    async def cut(self) -> None:
        for proxy in self.proxies:
            proxy.refuse()
            await proxy.reset()

    async def cut_peer(self, peer: clstr.Transport) -> None:
        """Break all connections: each joins two peers."""
        await self.cut()

    async def restore(self) -> None:
        for proxy in self.proxies:
            proxy.accept()

    async def inject(self, shard: int, body: bytes) -> None:
        for port in self._ports[1:]:
            await asyncio.to_thread(say, f"tcp://127.0.0.1:{port}", shard, body)


class TestZmqOverTcpWithCurve(TestZmqOverTcp):
    """Encrypted, and closed to those whose key is not on the list."""

    @pytest.fixture(autouse=True)
    def _make_keys(self, tmp_path: Path) -> None:
        key, peers = tmp_path / "node.key", tmp_path / "peers"
        peers.write_text(make_key(Role.NODE, "node", key))
        self.security = {"curve_key": key, "curve_peers": peers}

    async def inject(self, shard: int, body: bytes) -> None:
        public, secret = read_key_file(self.security["curve_key"])
        for port in self._ports[1:]:
            await asyncio.to_thread(say, f"tcp://127.0.0.1:{port}", shard, body, (public.encode(), secret.encode()))


class TestZmqOverIpc(TransportSuite):
    """Over UNIX sockets."""

    paths: list[Path]
    security: Mapping[str, Any] = MappingProxyType({})
    keys: tuple[bytes, bytes] | None = None

    @pytest.fixture(autouse=True)
    async def _start_seed(self, tmp_path: Path) -> AsyncIterator[None]:
        self.folder, self.paths = tmp_path, []
        seed = await self.connect()
        yield
        await seed.aclose()

    async def connect(self, **options: Any) -> clstr.Transport:
        path = self.folder / f"{len(self.paths)}.sock"
        seed = self.paths[0] if self.paths else ""
        self.paths.append(path)
        return await clstr.connect(f"zmq+ipc://{seed}?bind={path}", **self.security, **options)

    async def inject(self, shard: int, body: bytes) -> None:
        for path in self.paths[1:]:
            await asyncio.to_thread(say, f"ipc://{path}", shard, body, self.keys)


class TestZmqOverIpcWithCurve(TestZmqOverIpc):
    """Over UNIX sockets, encrypted, and closed to those whose key is not on the list."""

    @pytest.fixture(autouse=True)
    def _make_keys(self, tmp_path: Path) -> None:
        key, peers = tmp_path / "node.key", tmp_path / "peers"
        peers.write_text(make_key(Role.NODE, "node", key))
        public, secret = read_key_file(key)
        self.security, self.keys = {"curve_key": key, "curve_peers": peers}, (public.encode(), secret.encode())


def say(endpoint: str, shard: int, body: bytes, keys: tuple[bytes, bytes] | None = None) -> None:
    """Say hello to an inbox, and send it a message; return when both are out."""
    hello = Hello(cluster="clstr", peer_id="node:injector", epoch=1, inbox=None, max_bytes=2**20)
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        if keys is not None:
            dealer.curve_serverkey = dealer.curve_publickey = keys[0]
            dealer.curve_secretkey = keys[1]
        dealer.connect(endpoint)
        dealer.send(pack([encode(hello)]))
        dealer.send(pack([encode_request(1, shard, body)]))
