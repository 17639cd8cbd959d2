"""`clstr_redis._leases`: what is held, and what must not come back."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
import redis.exceptions

from clstr_redis._errors import ForeignKeysError
from clstr_redis._leases import KEYS_PER_CALL, Leases
from clstr_redis._names import Names
from clstr_redis._scripts import DROP, HOLD, Script


class FakeConnection:
    """Notes what runs; each call waits until it is let go on."""

    inbox = b"inbox"

    def __init__(self) -> None:
        self.calls: list[tuple[Script, list[bytes]]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.error: Exception | None = None
        self.foreign: set[bytes] = set()

    async def run(self, script: Script, keys: list[bytes], *_: bytes) -> list[int]:
        self.calls.append((script, keys))
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return [number for number, key in enumerate(keys, 1) if key in self.foreign]


@pytest.fixture
def connection() -> Any:
    return FakeConnection()


@pytest.fixture
def clock() -> list[float]:
    """The time, which a test moves."""
    return [100.0]


@pytest.fixture
def leases(clock: list[float]) -> Leases:
    return Leases(Names("clstr", "peer"), 5.0, lambda: clock[0], logging.getLogger("clstr.test"))


async def test_what_is_let_go_of_while_the_rest_is_renewed_does_not_come_back(leases: Leases, connection: Any) -> None:
    await leases.take(connection, range(KEYS_PER_CALL + 2))
    connection.calls.clear()
    connection.go_on.clear()
    renewal = asyncio.ensure_future(leases.renew(connection))
    await asyncio.sleep(0)  # its first part is on its way
    removal = asyncio.ensure_future(leases.drop(connection, [KEYS_PER_CALL]))
    await asyncio.sleep(0)
    connection.go_on.set()
    await asyncio.gather(renewal, removal)
    held = [keys for script, keys in connection.calls if script is HOLD]
    assert held[1] == [b"clstr:shard:%d" % (KEYS_PER_CALL + 1)]


async def test_what_was_refused_is_not_renewed(leases: Leases, connection: Any) -> None:
    connection.error = redis.exceptions.ResponseError("MISCONF")
    with pytest.raises(redis.exceptions.ResponseError):
        await leases.take(connection, [1])
    connection.calls.clear()
    await leases.renew(connection)
    assert connection.calls == []


async def test_without_a_connection_nothing_is_said_and_nothing_renewed_later(leases: Leases, connection: Any) -> None:
    await leases.take(connection, [1])
    await leases.drop(None, [1])
    connection.calls.clear()
    await leases.renew(connection)
    assert connection.calls == []


async def test_letting_go_of_many_takes_several_calls(leases: Leases, connection: Any) -> None:
    await leases.drop(connection, range(2 * KEYS_PER_CALL + 1))
    assert [(script, len(keys)) for script, keys in connection.calls] == [
        (DROP, KEYS_PER_CALL),
        (DROP, KEYS_PER_CALL),
        (DROP, 1),
    ]


async def test_a_key_that_is_no_lease_keeps_no_other_from_being_renewed(leases: Leases, connection: Any) -> None:
    await leases.take(connection, range(3 * KEYS_PER_CALL))
    connection.calls.clear()
    connection.foreign = {b"clstr:shard:1", b"clstr:shard:700"}
    with pytest.raises(ForeignKeysError, match="clstr:shard:1, clstr:shard:700: somebody else"):
        await leases.renew(connection)
    assert len(connection.calls) == 3


async def test_a_refused_part_keeps_no_other_from_being_renewed(leases: Leases, connection: Any) -> None:
    await leases.take(connection, range(3 * KEYS_PER_CALL))
    connection.calls.clear()
    connection.error = redis.exceptions.ResponseError("BUSY")
    with pytest.raises(redis.exceptions.ResponseError, match="BUSY"):
        await leases.renew(connection)
    assert len(connection.calls) == 3


async def test_many_such_keys_are_counted(leases: Leases, connection: Any) -> None:
    connection.foreign = {b"clstr:shard:%d" % shard for shard in range(10)}
    with pytest.raises(ForeignKeysError, match="clstr:shard:2 and 7 more: somebody else"):
        await leases.take(connection, range(20))


async def test_a_lease_that_was_renewed_too_late_is_told_once(
    leases: Leases, connection: Any, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    await leases.take(connection, range(3))
    clock[0] += 7.5
    await leases.renew(connection)
    await leases.renew(connection)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("leases of 3 shards had lapsed for 2.5 s when they were renewed: the event loop was blocked")


async def test_a_lease_that_was_renewed_in_time_or_taken_late_had_not_lapsed(
    leases: Leases, connection: Any, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    await leases.take(connection, [1])
    clock[0] += 4.0
    await leases.renew(connection)
    clock[0] += 4.0
    await leases.renew(connection)
    await leases.take(connection, [2])
    assert caplog.records == []


async def test_a_lapse_is_told_when_it_is_over(
    leases: Leases, connection: Any, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    await leases.take(connection, [1])
    connection.error = redis.exceptions.ResponseError("BUSY")
    for _ in range(3):
        clock[0] += 4.0
        with pytest.raises(redis.exceptions.ResponseError):
            await leases.renew(connection)
    assert caplog.records == []
    connection.error = None
    await leases.renew(connection)
    assert "lapsed for 7.0 s" in caplog.text
