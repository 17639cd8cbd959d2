"""`clstr.spi._links.reconnector`: a link that is up, or being renewed, or known to be lost; never anything between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import pytest

from clstr.errors import AuthenticationError, TransportUnavailableError
from clstr.spi import Backoff, Reconnector, Sink
from spi.fakes import ticks
from spi.virtual_time import VirtualLoop

HEARTBEAT = 1.0


class FakeConnection:
    """A connection that is lost when the test says so."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.ends = 0
        self.end_error: Exception | None = None

    async def end(self) -> None:
        self.ends += 1
        if self.end_error is not None:
            raise self.end_error


class FakeSink:
    """What the engine was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def up(self) -> None:
        self.told.append("up")

    def down(self, error: Exception, *, fatal: bool = False) -> None:
        self.told.append(f"{'lost for good' if fatal else 'down'}: {error}")


class Broker:
    """A dial, a setup and a heartbeat that fail as often as they are told to."""

    def __init__(self) -> None:
        self.connections: list[FakeConnection] = []
        self.dialled_at: list[float] = []
        self.failures: dict[str, list[BaseException]] = {"dial": [], "set_up": [], "beat": []}
        self.on_set_up: Callable[[FakeConnection], Awaitable[None]] | None = None
        self.beats = 0

    def _fail(self, what: str) -> None:
        if self.failures[what]:
            raise self.failures[what].pop(0)

    async def dial(self) -> FakeConnection:
        self.dialled_at.append(asyncio.get_running_loop().time())
        self._fail("dial")
        self.connections.append(FakeConnection(len(self.connections)))
        return self.connections[-1]

    async def set_up(self, connection: FakeConnection) -> None:
        self._fail("set_up")
        if self.on_set_up is not None:
            await self.on_set_up(connection)

    async def beat(self, _: FakeConnection) -> None:
        self.beats += 1
        self._fail("beat")


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def sink() -> FakeSink:
    return FakeSink()


@pytest.fixture
async def link(broker: Broker, clock: VirtualLoop) -> AsyncIterator[Reconnector[FakeConnection]]:
    reconnector = Reconnector[FakeConnection](
        "Carrier",
        dial=broker.dial,
        set_up=broker.set_up,
        beat=broker.beat,
        heartbeat=HEARTBEAT,
        logger=logging.getLogger("clstr"),
        backoff=Backoff(first=0.25, longest=2, chance=lambda: 1.0),
    )
    yield reconnector
    await reconnector.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert all(connection.ends for connection in broker.connections)


@pytest.fixture
async def opened(link: Reconnector[FakeConnection], sink: FakeSink) -> Reconnector[FakeConnection]:
    await link.open(cast("Sink", sink))
    return link


def lose(link: Reconnector[FakeConnection], why: Exception) -> None:
    """As a driver that notices."""
    connection = link.usable()
    connection.lost.set_result(why)
    link.down(connection)


async def until_up(link: Reconnector[FakeConnection]) -> FakeConnection:
    async with asyncio.timeout(100):
        while True:
            try:
                return link.usable()
            except TransportUnavailableError:
                await asyncio.sleep(0.01)


async def test_it_is_usable_once_it_is_open_and_no_longer_once_it_is_closed(
    opened: Reconnector[FakeConnection], broker: Broker, sink: FakeSink
) -> None:
    assert opened.usable() is broker.connections[0]
    await opened.aclose()
    await opened.aclose()
    with pytest.raises(TransportUnavailableError, match="connection to Carrier is lost"):
        opened.usable()
    assert sink.told == []


@pytest.mark.parametrize("what", ["dial", "set_up"])
async def test_what_opening_fails_with_is_raised_and_nothing_stays(
    link: Reconnector[FakeConnection], broker: Broker, sink: FakeSink, what: str
) -> None:
    broker.failures[what] = [AuthenticationError("no")]
    with pytest.raises(AuthenticationError):
        await link.open(cast("Sink", sink))
    assert link.connection is None
    assert sink.told == []


async def test_a_lost_connection_is_down_at_once_and_replaced(
    opened: Reconnector[FakeConnection], broker: Broker, sink: FakeSink
) -> None:
    lose(opened, ConnectionResetError("reset"))
    assert sink.told == ["down: reset"]
    with pytest.raises(TransportUnavailableError):
        opened.usable()
    assert (await until_up(opened)).number == 1
    assert sink.told == ["down: reset", "up"]
    assert broker.connections[0].ends == 1


async def test_a_loss_that_only_the_future_tells_of_is_noticed(
    opened: Reconnector[FakeConnection], sink: FakeSink
) -> None:
    opened.usable().lost.set_result(ConnectionResetError("reset"))
    await ticks()
    assert sink.told == ["down: reset"]


async def test_the_loss_of_another_connection_changes_nothing(
    opened: Reconnector[FakeConnection], sink: FakeSink
) -> None:
    opened.down(FakeConnection(7))
    assert sink.told == []
    assert opened.usable().number == 0


@pytest.mark.parametrize("is_lost", [False, True])
async def test_that_the_loop_was_blocked_for_a_heartbeat_is_said_without_any_handler(
    opened: Reconnector[FakeConnection],
    broker: Broker,
    clock: VirtualLoop,
    caplog: pytest.LogCaptureFixture,
    *,
    is_lost: bool,
) -> None:
    await asyncio.sleep(HEARTBEAT / 2)
    clock.jump(1.4 * HEARTBEAT)  # not a whole heartbeat late
    await asyncio.sleep(HEARTBEAT / 2)
    assert caplog.messages == []
    if is_lost:  # the server took this peer for dead: that is read first
        broker.connections[0].lost.set_result(ConnectionResetError("stale"))
    clock.jump(5 * HEARTBEAT)
    await ticks()
    silence = [message for message in caplog.messages if message.startswith("this peer was silent for 4")]
    assert len(silence) == 1
    assert "longer than a heartbeat (1 s), because its event loop was blocked" in silence[0]
    assert opened is not None


async def test_it_beats_once_per_heartbeat(opened: Reconnector[FakeConnection], broker: Broker) -> None:
    await asyncio.sleep(10.5 * HEARTBEAT)
    assert broker.beats == 10


@pytest.mark.parametrize(
    "error",
    [
        TransportUnavailableError("mute"),
        RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed"),
        AssertionError(),
        asyncio.CancelledError(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("what", ["dial", "set_up", "beat"])
async def test_whatever_a_driver_raises_the_link_comes_back(
    opened: Reconnector[FakeConnection], broker: Broker, sink: FakeSink, what: str, error: BaseException
) -> None:
    """uvloop raises `RuntimeError` where asyncio ignores a write to a closed socket; it ended links for ever."""
    broker.failures[what] = [error]
    if what != "beat":
        lose(opened, ConnectionResetError("reset"))
    await asyncio.sleep(5 * HEARTBEAT)
    assert broker.failures[what] == []
    assert opened.usable() is broker.connections[-1]
    assert [told.partition(":")[0] for told in sink.told] == ["down", "up"]


async def test_what_nobody_expected_is_logged_with_its_traceback(
    opened: Reconnector[FakeConnection], broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.failures["beat"] = [RuntimeError("the handler is closed")]
    await asyncio.sleep(2 * HEARTBEAT)
    assert any(record.exc_info and "handler is closed" in record.message for record in caplog.records)


async def test_a_connection_that_cannot_be_ended_is_replaced_all_the_same(
    opened: Reconnector[FakeConnection], broker: Broker
) -> None:
    broker.connections[0].end_error = RuntimeError("closed")
    lose(opened, ConnectionResetError("reset"))
    assert (await until_up(opened)).number == 1


async def test_a_connection_that_is_lost_while_it_is_set_up_is_never_up(
    opened: Reconnector[FakeConnection], broker: Broker, sink: FakeSink
) -> None:
    async def lose_the_second(connection: FakeConnection) -> None:
        if connection.number == 1:
            connection.lost.set_result(ConnectionResetError("thrown out"))
            opened.down(connection)

    broker.on_set_up = lose_the_second
    lose(opened, ConnectionResetError("reset"))
    assert (await until_up(opened)).number == 2
    assert sink.told == ["down: reset", "up"]


async def test_messages_may_be_answered_while_it_is_set_up(opened: Reconnector[FakeConnection], broker: Broker) -> None:
    seen: list[object] = []

    async def look(_: FakeConnection) -> None:
        seen.append(opened.connection)

    broker.on_set_up = look
    lose(opened, ConnectionResetError("reset"))
    assert [await until_up(opened)] == seen


async def test_attempts_become_rarer_and_rare_losses_begin_anew(
    opened: Reconnector[FakeConnection], broker: Broker, clock: VirtualLoop
) -> None:
    await asyncio.sleep(10)
    broker.failures["dial"] = [ConnectionRefusedError() for _ in range(5)]
    lost_at = clock.time()
    lose(opened, ConnectionResetError("reset"))
    await until_up(opened)
    assert [at - lost_at for at in broker.dialled_at[1:]] == pytest.approx([0.25, 0.75, 1.75, 3.75, 5.75, 7.75])
    await asyncio.sleep(10)
    lost_at = clock.time()
    lose(opened, ConnectionResetError("reset"))
    await until_up(opened)
    assert broker.dialled_at[-1] - lost_at == pytest.approx(0.25)


async def test_a_server_that_accepts_and_throws_out_is_asked_less_and_less(
    opened: Reconnector[FakeConnection], broker: Broker
) -> None:
    for _ in range(5):
        lose(opened, ConnectionResetError("thrown out"))
        await until_up(opened)
    pauses = [after - before for before, after in zip(broker.dialled_at, broker.dialled_at[1:], strict=False)]
    assert pauses == pytest.approx([0.25, 0.5, 1, 2, 2], abs=0.1)


async def test_closing_in_an_outage_ends_the_attempts(opened: Reconnector[FakeConnection], broker: Broker) -> None:
    broker.failures["dial"] = [ConnectionRefusedError() for _ in range(1000)]
    lose(opened, ConnectionResetError("reset"))
    await asyncio.sleep(10)
    await opened.aclose()
    attempts = len(broker.dialled_at)
    await asyncio.sleep(100)
    assert len(broker.dialled_at) == attempts


async def test_a_driver_that_swallows_the_cancellation_is_cancelled_again(
    opened: Reconnector[FakeConnection], broker: Broker
) -> None:
    async def swallow(_: FakeConnection) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(1000)

    broker.on_set_up = swallow
    lose(opened, ConnectionResetError("reset"))
    await asyncio.sleep(1)
    async with asyncio.timeout(5):
        await opened.aclose()


async def test_if_its_task_ends_all_the_same_the_link_is_lost_for_good(
    opened: Reconnector[FakeConnection], sink: FakeSink
) -> None:
    """A program that cancels every task it finds, for one."""
    assert opened._keeper is not None
    opened._keeper.cancel()
    await ticks()
    assert len(sink.told) == 1
    assert sink.told[0].startswith("lost for good: nothing keeps the connection to Carrier")
    with pytest.raises(TransportUnavailableError):
        opened.usable()
