"""`clstr._node.handler_metrics`: what a node measures, and under how many names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from clstr._context import Current, refuse
from clstr._node.handler_metrics import HandlerMetrics, is_refusal
from clstr._node.metrics import MAX_LABELS, OTHER, Metrics
from clstr.errors import UnknownMessageError

Handling = Callable[..., AbstractContextManager[Current]]


class Recorder(Metrics):
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def handler_duration(self, message_type: str, seconds: float) -> None:
        self.calls.append(("duration", message_type, seconds))

    def handler_completed(self, message_type: str, *, success: bool) -> None:
        self.calls.append(("completed", message_type, success))

    def queue_wait(self, message_type: str, seconds: float) -> None:
        self.calls.append(("wait", message_type, seconds))

    def handlers_active(self, node_id: str, count: int) -> None:
        self.calls.append(("active", node_id, count))


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    return now


async def test_a_handler_is_measured_from_start_to_end(clock: list[float]) -> None:
    recorder = Recorder()
    with HandlerMetrics(recorder, "n").measure("Get"):
        clock[0] += 3.0
        assert recorder.calls == [("active", "n", 1)]
    assert recorder.calls[1:] == [
        ("active", "n", 0),
        ("wait", "Get", 0.0),
        ("duration", "Get", 3.0),
        ("completed", "Get", True),
    ]


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError()], ids=["raised", "cancelled"])
async def test_a_handler_that_fails_is_measured_too(error: BaseException, clock: list[float]) -> None:
    recorder = Recorder()
    with pytest.raises(type(error)), HandlerMetrics(recorder, "n").measure("Get"):
        raise error
    assert recorder.calls[1:] == [
        ("active", "n", 0),
        ("wait", "Get", 0.0),
        ("duration", "Get", 0.0),
        ("completed", "Get", False),
    ]


async def test_waiting_for_a_slot_or_a_turn_is_not_running(clock: list[float], handling: Handling) -> None:
    recorder = Recorder()
    with handling() as inside:
        inside.received = clock[0] - 2.0
        with HandlerMetrics(recorder, "n").measure("Get"):
            meter = inside.meter
            assert meter is not None
            for seconds, change in ((1, meter.pause), (8, meter.pause), (16, meter.resume), (32, meter.resume)):
                clock[0] += seconds
                change()
            clock[0] += 64.0
    assert inside.meter is None
    assert recorder.calls == [
        *[("active", "n", count) for count in (1, 0, 1, 0)],
        ("wait", "Get", 2.0 + 8.0 + 16.0 + 32.0),
        ("duration", "Get", 1.0 + 64.0),
        ("completed", "Get", True),
    ]


async def test_a_handler_that_ends_while_it_waits_was_not_active(clock: list[float], handling: Handling) -> None:
    recorder = Recorder()
    with handling() as inside, HandlerMetrics(recorder, "n").measure("Get"):
        assert inside.meter is not None
        inside.meter.pause()
        clock[0] += 4.0
    assert recorder.calls == [
        ("active", "n", 1),
        ("active", "n", 0),
        ("wait", "Get", 4.0),
        ("duration", "Get", 0.0),
        ("completed", "Get", True),
    ]


async def test_handlers_that_run_at_once_are_counted() -> None:
    recorder = Recorder()
    metrics = HandlerMetrics(recorder, "n")
    with metrics.measure("A"), metrics.measure("B"):
        pass
    assert [call[2] for call in recorder.calls if call[0] == "active"] == [1, 2, 1, 0]


async def test_only_the_first_hundred_types_keep_their_names() -> None:
    recorder = Recorder()
    metrics = HandlerMetrics(recorder, "n")
    for number in [*range(MAX_LABELS + 5), 0, MAX_LABELS]:
        with metrics.measure(f"type-{number}"):
            pass
    labels = [call[1] for call in recorder.calls if call[0] == "completed"]
    assert labels == [*(f"type-{number}" for number in range(MAX_LABELS)), *[OTHER] * 5, "type-0", OTHER]


async def test_types_that_the_handler_refuses_take_no_name_from_others(handling: Handling) -> None:
    recorder = Recorder()
    metrics = HandlerMetrics(recorder, "n")
    with handling():
        for number in range(MAX_LABELS):
            with pytest.raises(UnknownMessageError), metrics.measure(f"junk-{number}"):
                raise refuse(UnknownMessageError("", ""))
        with metrics.measure("Get"):
            pass
        with pytest.raises(UnknownMessageError), metrics.measure("Get"):
            raise refuse(UnknownMessageError("", ""))
    labels = [call[1] for call in recorder.calls if call[0] == "completed"]
    assert labels == [*[OTHER] * MAX_LABELS, "Get", "Get"]


def test_a_refusal_is_one_of_the_message_that_is_being_handled(handling: Handling) -> None:
    with handling():
        error = refuse(UnknownMessageError("", ""))
        assert is_refusal(error)
        assert not is_refusal(UnknownMessageError("", ""))
        assert not is_refusal(None)
    assert not is_refusal(error)
    with handling():
        assert not is_refusal(error)
