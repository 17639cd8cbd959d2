"""What a node measures of its handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager

from clstr._context import current, is_refusal_of
from clstr._node.metrics import MAX_LABELS, OTHER, Metrics


class HandlerMetrics:
    """
    Measures the handlers of one node.

    Message types come from the wire: the first ``MAX_LABELS`` that a handler did not refuse keep their names.
    """

    def __init__(self, metrics: Metrics, node_id: str) -> None:
        self._metrics = metrics
        self._node_id = node_id
        self._active = 0
        self._known: set[str] = set()

    @contextmanager
    def measure(self, message_type: str) -> Generator[None]:
        """Measure a handler from its start to its end: how long it runs, and how long its message waits."""
        run = _Run(self._count_active)
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            label = self._label(message_type, error)
            ran, waited = run.end()
            self._metrics.queue_wait(label, waited)
            self._metrics.handler_duration(label, ran)
            self._metrics.handler_completed(label, success=error is None)

    def _count_active(self, change: int) -> None:
        self._active += change
        self._metrics.handlers_active(self._node_id, self._active)

    def _label(self, message_type: str, error: BaseException | None) -> str:
        if message_type in self._known:
            return message_type
        if len(self._known) == MAX_LABELS or is_refusal(error):
            return OTHER
        self._known.add(message_type)
        return message_type


class _Run:
    """
    A `Meter` of one handler: how long it runs, and how long its message waits for a slot and for its turn.

    Args:
        count_active: Adds to the number of handlers that run.
    """

    def __init__(self, count_active: Callable[[int], None]) -> None:
        self._count_active = count_active
        self._clock = asyncio.get_running_loop().time
        self._since = self._clock()  # the last change between running and waiting
        self._ran = 0.0
        self._waited = 0.0
        self._pauses = 0
        inside = current()
        if inside is not None:
            inside.meter = self
            if inside.received is not None:
                self._waited = self._since - inside.received
        count_active(1)

    def pause(self) -> None:
        self._pauses += 1
        if self._pauses == 1:
            self._ran += self._passed()
            self._count_active(-1)

    def resume(self) -> None:
        self._pauses -= 1
        if self._pauses == 0:
            self._waited += self._passed()
            self._count_active(1)

    def end(self) -> tuple[float, float]:
        """Return the seconds of running and of waiting; a task that the handler left behind changes them no more."""
        inside = current()
        if inside is not None:
            inside.meter = None
        if self._pauses:
            return self._ran, self._waited + self._passed()
        self._count_active(-1)
        return self._ran + self._passed(), self._waited

    def _passed(self) -> float:
        since, self._since = self._since, self._clock()
        return self._since - since


def is_refusal(error: BaseException | None) -> bool:
    """Tell whether ``error`` refuses the message that is being handled here."""
    inside = current()
    return error is not None and inside is not None and is_refusal_of(error, inside)
