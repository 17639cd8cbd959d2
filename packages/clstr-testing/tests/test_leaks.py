"""Whatever a block leaves behind is named; what is not the block's is not."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
from pathlib import Path

import pytest

from clstr_testing import _leaks
from clstr_testing._leaks import LeakError, no_leaks


async def test_a_block_that_cleans_up_passes(tmp_path: Path) -> None:
    async with no_leaks():
        await asyncio.create_task(asyncio.sleep(0))
        asyncio.get_running_loop().call_later(60.0, print).cancel()
        with (tmp_path / "file").open("w"):
            pass
        thread = threading.Thread(target=print)
        thread.start()
        thread.join()


async def test_what_was_there_before_does_not_count(tmp_path: Path) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, daemon=True)
    thread.start()
    timer = asyncio.get_running_loop().call_later(60.0, print)
    task = asyncio.create_task(asyncio.sleep(60.0))
    await asyncio.sleep(0)
    with (tmp_path / "file").open("w"):
        async with no_leaks(grace=0.0):
            timer.cancel()
            timer = asyncio.get_running_loop().call_later(60.0, print)  # set again: not one more
    stop.set()
    thread.join()
    timer.cancel()
    task.cancel()


async def test_a_task_is_named() -> None:
    task = None
    with pytest.raises(LeakError, match="left behind: task forgotten: <coroutine object sleep") as caught:
        async with no_leaks(grace=0.02):
            task = asyncio.create_task(asyncio.sleep(60.0), name="forgotten")
    assert task is not None
    task.cancel()
    assert [left.startswith("task forgotten") for left in caught.value.left][:1] == [True]


async def test_a_timer_is_named(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("uvloop", default=False):
        pytest.skip("uvloop shows nobody its timers")

    def forgotten() -> None:
        """Never called."""

    timer = None
    with pytest.raises(LeakError, match=r"timer .*forgotten"):
        async with no_leaks(grace=0.0):
            timer = asyncio.get_running_loop().call_later(60.0, forgotten)
    assert timer is not None
    timer.cancel()


async def test_a_thread_is_named() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="forgotten", daemon=True)
    with pytest.raises(LeakError, match=r"left behind: thread forgotten$"):
        async with no_leaks(grace=0.0):
            thread.start()
    stop.set()
    thread.join()


async def test_a_file_is_named(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        number = os.dup(file.fileno())
        os.close(number)
        with pytest.raises(LeakError, match=rf"left behind: descriptor {number} \({re.escape(file.name)}\)$"):
            async with no_leaks(grace=0.0):
                os.dup(file.fileno())
        os.close(number)


async def test_a_socket_is_named_with_its_addresses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        with pytest.raises(LeakError) as caught:
            async with no_leaks(grace=0.0):
                client = socket.create_connection((host, port))
        own = client.getsockname()
        client.close()
        [left] = caught.value.left
        assert re.fullmatch(rf"descriptor \d+ \(socket:\[\d+\] {re.escape(f'{own} {(host, port)}')}\)", left)


async def test_a_socket_without_a_peer_is_named() -> None:
    with pytest.raises(LeakError, match=r"\('127.0.0.1', \d+\)\)$"):
        async with no_leaks(grace=0.0):
            listener = socket.create_server(("127.0.0.1", 0))
    listener.close()


async def test_a_descriptor_number_that_changed_its_meaning_counts(tmp_path: Path) -> None:
    first = os.open(tmp_path / "first", os.O_CREAT | os.O_RDWR)
    with pytest.raises(LeakError, match=rf"descriptor {first} \(.*second\)"):
        async with no_leaks(grace=0.0):
            replace_descriptor(first, tmp_path / "second")
    os.close(first)


def replace_descriptor(number: int, path: Path) -> None:
    other = os.open(path, os.O_CREAT | os.O_RDWR)
    os.dup2(other, number)
    os.close(other)


async def test_everything_left_is_named(tmp_path: Path) -> None:
    with pytest.raises(LeakError) as caught:
        async with no_leaks(grace=0.0):
            one, two = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    os.close(one)
    os.close(two)
    assert len(caught.value.left) == 2


async def test_a_connection_that_was_made_anew_is_not_one_more() -> None:
    one, two = socket.socketpair()
    async with no_leaks(grace=0.0):
        three, four = socket.socketpair()
        one.close()
        two.close()
    three.close()
    four.close()


async def test_what_ends_within_the_grace_passes() -> None:
    async with no_leaks():
        task = asyncio.create_task(asyncio.sleep(0.02))
    assert task.done()


async def test_threads_of_the_loops_own_executor_do_not_count() -> None:
    async with no_leaks(grace=0.0):
        await asyncio.to_thread(print)


async def test_an_error_of_the_block_is_not_hidden() -> None:
    async def fail_and_leak() -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(60.0)))
        raise ZeroDivisionError

    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(ZeroDivisionError):
        async with no_leaks(grace=0.0):
            await fail_and_leak()
    tasks[0].cancel()


async def test_without_proc_the_rest_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_leaks, "DESCRIPTORS", tmp_path / "none")
    async with no_leaks(grace=0.0):
        number = os.open(tmp_path, os.O_RDONLY)
    os.close(number)
