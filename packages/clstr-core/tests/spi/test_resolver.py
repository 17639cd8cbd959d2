"""`clstr.spi._links.resolver`: one thread per name, and nobody waits for another's."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from clstr.spi import Address, Resolver

pytestmark = pytest.mark.usefixtures("real_loop")


class NameServer:
    """Takes the place of `socket.getaddrinfo` for names; ``slow`` ones are answered when the test says so."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.asked: list[str] = []
        self.answer = threading.Event()
        self.is_asked = threading.Event()

    def getaddrinfo(self, host: str, port: int, **options: Any) -> Any:
        if options.get("flags"):
            return self.real(host, port, **options)
        self.asked.append(host)
        self.is_asked.set()
        if host.startswith("slow"):
            assert self.answer.wait(60)
        if host.endswith("unknown"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.real("127.0.0.1", port, **options)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Any:
    server = NameServer(socket.getaddrinfo)
    monkeypatch.setattr(socket, "getaddrinfo", server.getaddrinfo)
    yield server
    server.answer.set()
    for thread in threading.enumerate():
        if thread.name.startswith("clstr looks up"):
            thread.join(60)


LOOPBACK = [Address(socket.AF_INET, ("127.0.0.1", 80))]


async def test_an_address_needs_no_lookup(names: NameServer) -> None:
    resolver = Resolver()
    assert await resolver.resolve("127.0.0.1", 80) == LOOPBACK
    assert await resolver.resolve("::1", 80) == [(socket.AF_INET6, ("::1", 80, 0, 0))]
    assert names.asked == []


async def test_a_name_is_looked_up(names: NameServer) -> None:
    assert await Resolver().resolve("quick", 80) == LOOPBACK


@pytest.mark.parametrize("name", ["unknown", "slow.unknown", "a..b", "a" * 70, ""])
async def test_a_name_that_does_not_exist_is_an_error(name: str) -> None:
    with pytest.raises(OSError, match=r"."):
        async with asyncio.timeout(60):
            await Resolver().resolve(f"{name}.invalid" if name else "\ud800", 80)


async def test_a_name_server_that_does_not_answer_holds_up_no_other_name(names: NameServer) -> None:
    """Nor does a full default executor, which the loop's own lookups wait for."""
    resolver = Resolver()
    release = threading.Event()
    busy = [asyncio.get_running_loop().run_in_executor(None, release.wait, 60) for _ in range(64)]
    slow = [asyncio.ensure_future(resolver.resolve(f"slow{n}", 80)) for n in range(8)]
    async with asyncio.timeout(30):
        assert await resolver.resolve("quick", 80) == LOOPBACK
        names.answer.set()
        assert await asyncio.gather(*slow) == [LOOPBACK] * 8
    release.set()
    await asyncio.gather(*busy)


async def test_callers_share_a_lookup_and_one_that_leaves_takes_it_from_nobody(names: NameServer) -> None:
    resolver = Resolver()
    first, second = (asyncio.ensure_future(resolver.resolve("slow", 80)) for _ in range(2))
    await asyncio.to_thread(names.is_asked.wait, 60)
    first.cancel()
    await asyncio.wait((first,))
    third = asyncio.ensure_future(resolver.resolve("slow", 80))
    await asyncio.sleep(0)
    names.answer.set()
    assert await second == await third == LOOPBACK
    assert names.asked == ["slow"]


async def test_no_more_threads_than_allowed_look_up(names: NameServer) -> None:
    resolver = Resolver(max_lookups=1)
    slow, waiting = (asyncio.ensure_future(resolver.resolve(name, 80)) for name in ("slow", "waiting"))
    await asyncio.to_thread(names.is_asked.wait, 60)
    await asyncio.sleep(0)
    assert names.asked == ["slow"]
    names.answer.set()
    assert await slow == await waiting == LOOPBACK


async def test_without_a_thread_it_is_an_error(names: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        resolver = Resolver(max_lookups=1)
        with pytest.raises(OSError, match="can't start new thread"):
            await resolver.resolve("quick", 80)
    assert await resolver.resolve("quick", 80) == LOOPBACK


def test_a_lookup_that_outlives_its_loop_harms_nobody(names: NameServer) -> None:
    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await Resolver().resolve("slow", 80)

    asyncio.run(give_up())
