"""The rules of ZeroMQ's edge-triggered descriptor, and that breaking them is noticed."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest
import zmq

from clstr_zmq._counters import Counters
from clstr_zmq._sockets import CHECK_INTERVAL
from clstr_zmq._wire import GoneError, Wire

LOGGER = logging.getLogger("test")
MESSAGES = 200_000


class Pair:
    """Two wires that are connected; ``got`` is what each has received."""

    def __init__(self, kind: type[Wire] = Wire) -> None:
        self.context = zmq.Context()
        self.counters = Counters()
        self.got: tuple[list[bytes], list[bytes]] = ([], [])
        self.changed = asyncio.Event()
        router, dealer = self.context.socket(zmq.PAIR), self.context.socket(zmq.PAIR)
        for each in (router, dealer):
            each.set_hwm(0)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        dealer.connect(f"tcp://127.0.0.1:{port}")
        assert router.poll(10_000, zmq.POLLOUT)  # they are connected
        self.sockets = router, dealer
        self.wires = (
            kind(router, lambda frames: self.receive(0, frames), self.counters, LOGGER),
            kind(dealer, lambda frames: self.receive(1, frames), self.counters, LOGGER),
        )

    def receive(self, side: int, frames: list[zmq.Frame]) -> None:
        self.got[side].append(frames[0].bytes)
        self.changed.set()

    async def until(self, predicate: Callable[[], bool], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not predicate():
                self.changed.clear()
                await self.changed.wait()

    def close(self) -> None:
        for wire in self.wires:
            wire.close()
        self.context.term()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    yield made
    made.close()


async def test_messages_of_one_read_have_one_time_and_what_comes_meanwhile_has_another(pair: Pair) -> None:
    """The first handler may block: what has arrived by then is read before it runs, what arrives then after it."""
    wire, read_at = pair.wires[0], list[tuple[bytes, float]]()
    arrived = [b"0", b"1", b"2"]

    class Socket:
        """Has what the test says, whatever the network does."""

        closed = False

        def recv_multipart(self, _flags: int, *, copy: bool) -> list[zmq.Frame]:
            assert not copy
            if not arrived:
                raise zmq.Again
            return [zmq.Frame(arrived.pop(0))]

    def receive(frames: list[zmq.Frame]) -> None:
        read_at.append((frames[0].bytes, wire.read_at))
        if frames[0].bytes == b"0":
            arrived.append(b"late")

    real, wire.receive = wire._socket, receive
    wire._socket = cast("zmq.Socket[bytes]", Socket())
    wire._read()
    wire._read()
    wire._socket = real
    assert [body for body, _ in read_at] == [b"0", b"1", b"2", b"late"]
    assert read_at[0][1] == read_at[1][1] == read_at[2][1] < read_at[3][1]


async def test_many_messages_in_one_wake_up_are_all_read(pair: Pair) -> None:
    for number in range(1000):
        assert pair.wires[0].send(b"%d" % number)
    await pair.until(lambda: len(pair.got[1]) == 1000)
    assert pair.got[1] == [b"%d" % number for number in range(1000)]


async def test_a_send_that_takes_the_wake_up_away_is_followed_by_a_look(pair: Pair) -> None:
    """The message has arrived in ZeroMQ, and the loop was not told yet, when this side sends."""
    left, right = pair.wires
    for number in range(200):
        left.send(b"to the right")
        while not pair.sockets[1].poll(1000):  # looks at the socket behind the loop's back: the wake-up is gone
            pass
        right.send(b"to the left")
        await pair.until(lambda number=number: len(pair.got[1]) == number + 1)  # type: ignore[misc]
    await pair.until(lambda: len(pair.got[0]) == 200)
    assert pair.counters.missed_wakeups == 0


async def test_a_socket_that_sends_nothing_any_more_is_an_end_and_said(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """Sends run in callbacks of the loop: what they raise beside `GoneError` would reach nobody."""
    wire = pair.wires[0]
    wire.close()
    with pytest.raises(GoneError):
        wire.send(b"late")
    assert "a socket of ZeroMQ sends nothing any more" in caplog.text


class Forgetful(Wire):
    """Does not look after it has sent."""

    def _is_readable(self) -> bool:
        super()._is_readable()
        return False


class Careful(Forgetful):
    """Does not look after it has sent, but checks as every wire does."""

    def check(self) -> None:
        self._is_readable = lambda: bool(self._events() & zmq.POLLIN)  # type: ignore[method-assign]
        super().check()
        del self._is_readable


async def test_without_the_look_messages_wait_and_the_check_counts_and_frees_them() -> None:
    """So the rule matters, and the counter can rise."""
    pair = Pair(Careful)
    left, right = pair.wires
    try:
        for _ in range(50):
            before = len(pair.got[1])
            left.send(b"to the right")
            pair.sockets[1].poll(1000)
            right.send(b"to the left")
            for _ in range(20):
                await asyncio.sleep(0)
            if len(pair.got[1]) == before:
                break
        else:
            pytest.fail("no message waited: this test no longer shows what the rule is for")
        right._has_read = False  # as after a quarter of a second in which nothing came
        right.check()
        assert pair.counters.missed_wakeups == 1
        await pair.until(lambda: len(pair.got[1]) > before)
    finally:
        pair.close()


async def test_no_wake_up_is_missed_in_200_000_messages(pair: Pair) -> None:
    """Both sides send and receive in random bursts; a message that nobody is told of would stop the game."""
    chance = random.Random(3)
    sent = [0, 0]

    async def play(side: int) -> None:
        wire = pair.wires[side]
        while sent[side] < MESSAGES // 2:
            for _ in range(min(chance.randrange(1, 200), MESSAGES // 2 - sent[side])):
                assert wire.send(b"x")
                sent[side] += 1
            await asyncio.sleep(0)

    async def check() -> None:
        while True:
            for wire in pair.wires:
                wire.check()
            await asyncio.sleep(CHECK_INTERVAL)

    checking = asyncio.create_task(check())
    async with asyncio.timeout(50):
        await asyncio.gather(play(0), play(1))
    await pair.until(lambda: len(pair.got[0]) == len(pair.got[1]) == MESSAGES // 2, seconds=50)
    checking.cancel()
    assert pair.counters.missed_wakeups == 0


async def test_ping_pong_never_waits_for_a_check(pair: Pair) -> None:
    for number in range(2000):
        pair.wires[0].send(b"ping")
        await pair.until(lambda number=number: len(pair.got[1]) == number + 1)  # type: ignore[misc]
        pair.wires[1].send(b"pong")
        await pair.until(lambda number=number: len(pair.got[0]) == number + 1)  # type: ignore[misc]


async def test_cancelled_tasks_lose_no_messages(pair: Pair) -> None:
    """No task reads: a reader that is cancelled could take a message with it."""

    async def impatient() -> None:
        pair.wires[0].send(b"x")
        await asyncio.Event().wait()

    for _ in range(500):
        task = asyncio.create_task(impatient())
        await asyncio.sleep(0)
        task.cancel()
    await pair.until(lambda: len(pair.got[1]) == 500)


async def test_a_defect_in_the_receiver_costs_one_message(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    broken = iter([True])

    def receive(frames: list[zmq.Frame]) -> None:
        if next(broken, False):
            raise KeyError("a defect")
        pair.receive(1, frames)

    pair.wires[1].receive = receive
    for _ in range(2):
        pair.wires[0].send(b"x")
    await pair.until(lambda: len(pair.got[1]) == 1)
    assert "could not be handled" in caplog.text


async def test_what_is_closed_while_it_reads_reads_no_more(pair: Pair) -> None:
    def receive(frames: list[zmq.Frame]) -> None:
        pair.receive(1, frames)
        pair.wires[1].close()

    pair.wires[1].receive = receive
    for _ in range(10):
        pair.wires[0].send(b"x")
    await pair.until(lambda: bool(pair.got[1]))
    assert pair.got[1] == [b"x"]


async def test_a_router_says_that_a_connection_is_closed_and_that_there_is_no_room() -> None:
    """It would drop both silently if it were not told otherwise."""
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.SNDHWM, 1)
    socket.setsockopt(zmq.SNDBUF, 4096)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    routes: asyncio.Queue[bytes] = asyncio.Queue()
    wire = Wire(socket, lambda frames: routes.put_nowait(frames[0].bytes), Counters(), LOGGER)
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.RCVHWM, 1)
    dealer.setsockopt(zmq.RCVBUF, 4096)
    dealer.linger = 0
    dealer.connect(f"tcp://127.0.0.1:{port}")
    dealer.send(b"hello")
    async with asyncio.timeout(10):
        route = await routes.get()
    with pytest.raises(GoneError):
        wire.send(b"nobody", b"x")
    outcomes = [wire.send(route, b"x" * 2**20) for _ in range(100)]
    assert not all(outcomes)
    wire.close()
    dealer.close()
    context.term()
