"""The loop whose time passes only when nothing else can happen."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from clstr_testing import NothingCanHappenError, VirtualTimeLoop


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        yield runner


def test_a_sleep_takes_virtual_time_only(runner: asyncio.Runner) -> None:
    async def sleep() -> float:
        before = asyncio.get_running_loop().time()
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time() - before

    before = time.monotonic()
    assert runner.run(sleep()) == pytest.approx(3600, abs=0.01)
    assert time.monotonic() - before < 60


def test_timers_run_in_the_order_of_their_time(runner: asyncio.Runner) -> None:
    order: list[float] = []

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)
        order.append(seconds)

    async def run() -> None:
        await asyncio.gather(*(sleep(seconds) for seconds in (3, 1, 20, 2, 0.5)))

    runner.run(run())
    assert order == [0.5, 1, 2, 3, 20]


def test_a_timeout_ends_a_wait(runner: asyncio.Runner) -> None:
    async def wait() -> None:
        async with asyncio.timeout(30):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        runner.run(wait())


def test_a_program_that_spins_reaches_its_deadline(runner: asyncio.Runner) -> None:
    """Each turn of the loop takes a little, so a timeout comes although something is always ready."""

    async def spin() -> None:
        async with asyncio.timeout(0.001):
            while True:  # noqa: ASYNC110 -- that is what this is about
                await asyncio.sleep(0)

    with pytest.raises(TimeoutError):
        runner.run(spin())


def test_time_may_be_made_to_pass(runner: asyncio.Runner) -> None:
    """As if a callback had blocked the loop: a shorter timer is late."""

    async def block() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        sleeper = asyncio.create_task(asyncio.sleep(1, "slept"))
        await asyncio.sleep(0)
        loop.pass_time(10)
        assert await sleeper == "slept"
        return loop.time()

    assert runner.run(block()) >= 10


def test_a_deadlock_is_an_error(runner: asyncio.Runner) -> None:
    """It would wait for ever."""
    with pytest.raises(NothingCanHappenError, match="nobody will do"):
        runner.run(asyncio.Event().wait())


def test_sockets_work_while_time_stands_still(runner: asyncio.Runner) -> None:
    async def talk() -> tuple[bytes, float]:
        here, there = socket.socketpair()
        reader, other_writer = await asyncio.open_connection(sock=here)
        other_reader, writer = await asyncio.open_connection(sock=there)
        before = asyncio.get_running_loop().time()
        writer.write(b"ping")
        received = await reader.readexactly(4)
        writer.close()
        assert await reader.read() == b""
        other_writer.close()
        assert await other_reader.read() == b""
        return received, asyncio.get_running_loop().time() - before

    received, seconds = runner.run(talk())
    assert received == b"ping"
    assert seconds < 0.001


def test_a_socket_may_be_watched_for_reading_and_writing(runner: asyncio.Runner) -> None:
    async def watch() -> list[str]:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with here, there:
            seen: asyncio.Queue[str] = asyncio.Queue()
            loop.add_reader(here, seen.put_nowait, "readable")
            loop.add_writer(here, seen.put_nowait, "writable")
            first = await seen.get()
            loop.remove_writer(here)
            there.send(b"x")
            while (last := await seen.get()) == "writable":
                """It was so several times."""
            loop.remove_reader(here)
            return [first, last]

    assert runner.run(watch()) == ["writable", "readable"]


def test_a_program_may_wait_for_the_outside(runner: asyncio.Runner) -> None:
    """A watched socket is an outside event; it ends a wait without any timer."""

    async def wait() -> bytes:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            receiving = asyncio.create_task(loop.sock_recv(here, 10))
            await asyncio.sleep(0)
            thread = threading.Thread(target=there.send, args=(b"hello",))
            thread.start()
            received = await receiving
            thread.join()
            return received

    assert runner.run(wait()) == b"hello"


def test_two_runs_of_one_program_take_the_same_time() -> None:
    async def program() -> float:
        await asyncio.gather(*(asyncio.sleep(number / 7) for number in range(50)))
        return asyncio.get_running_loop().time()

    def run() -> float:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            return runner.run(program())

    assert run() == run()
