"""A storm is one line of log a second, which counts the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

import clstr_testing
from clstr._rate_limited_log import MAX_KINDS, RateLimitedLog


class Clock:
    """Tells the time that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> RateLimitedLog:
    return RateLimitedLog(logging.getLogger("clstr.test"), clock=clock)


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, "clstr.test"):
        yield


def test_one_line_a_second_counts_them_all(caplog: pytest.LogCaptureFixture, log: RateLimitedLog, clock: Clock) -> None:
    for number in range(1000):
        log.say(logging.WARNING, "shard %d failed", number)
    clock.now += 1
    log.say(logging.WARNING, "shard %d failed", 7)
    clock.now += 1
    log.say(logging.WARNING, "shard %d failed", 8)
    more = " (999 more since the last such line)"
    assert caplog.messages == ["shard 0 failed", f"shard 7 failed{more}", "shard 8 failed"]


def test_each_text_and_each_kind_has_lines_of_its_own(caplog: pytest.LogCaptureFixture, log: RateLimitedLog) -> None:
    for kind in (ValueError, KeyError, ValueError):
        log.say(logging.ERROR, "it failed", kind=kind)
        log.say(logging.ERROR, "it was late", kind=kind)
    assert caplog.messages == ["it failed", "it was late", "it failed", "it was late"]


def test_kinds_without_number_do_not_cost_lines_without_number(
    caplog: pytest.LogCaptureFixture, log: RateLimitedLog
) -> None:
    for number in range(10 * MAX_KINDS):
        log.say(logging.ERROR, "it failed", kind=number)
    assert len(caplog.messages) == MAX_KINDS + 1


def test_a_line_has_its_traceback_and_its_attributes(caplog: pytest.LogCaptureFixture, log: RateLimitedLog) -> None:
    error = ValueError("no")
    log.say(logging.ERROR, "it failed", error=error, extra={"clstr_shard": 3})
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert record.__dict__["clstr_shard"] == 3
    assert record.filename == "test_rate_limited_log.py"


def test_what_is_counted_is_written_at_the_level_debug(caplog: pytest.LogCaptureFixture, log: RateLimitedLog) -> None:
    with caplog.at_level(logging.DEBUG, "clstr.test"):
        for number in range(3):
            log.say(logging.ERROR, "shard %d failed", number)
    found = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert found == [("ERROR", "shard 0 failed"), ("DEBUG", "shard 1 failed"), ("DEBUG", "shard 2 failed")]


def test_arguments_are_kept_as_text_and_only_for_lines(caplog: pytest.LogCaptureFixture, log: RateLimitedLog) -> None:
    asked = 0

    class Message:
        def __str__(self) -> str:
            nonlocal asked
            asked += 1
            return f"message {asked}"

    for _ in range(3):
        log.say(logging.WARNING, "refused %s after %.1f s", Message(), 0.25)
    assert caplog.messages == ["refused message 1 after 0.2 s"]
    assert asked == 1


def test_by_default_the_running_loop_tells_the_time(caplog: pytest.LogCaptureFixture) -> None:
    """Another loop, whose clock is behind that of the first, is not silent until it has caught up."""
    log = RateLimitedLog(logging.getLogger("clstr.test"), seconds=10)

    async def run() -> None:
        log.say(logging.WARNING, "at first")
        await asyncio.sleep(9)
        log.say(logging.WARNING, "at first")
        await asyncio.sleep(2)
        log.say(logging.WARNING, "at first")

    for _ in range(2):
        with asyncio.Runner(loop_factory=clstr_testing.VirtualTimeLoop) as runner:
            runner.run(run())
    assert caplog.messages == ["at first", "at first (1 more since the last such line)"] * 2
