"""What a node measures of its handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from clstr._context import current, is_refusal_of
from clstr._metrics import MAX_LABELS, OTHER, Metrics


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
        """Measure a handler, from its start to its end."""
        clock = asyncio.get_running_loop().time
        started = clock()
        error: BaseException | None = None
        self._count_active(1)
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            label = self._label(message_type, error)
            self._count_active(-1)
            self._metrics.handler_duration(label, clock() - started)
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


def is_refusal(error: BaseException | None) -> bool:
    """Tell whether ``error`` refuses the message that is being handled here."""
    inside = current()
    return error is not None and inside is not None and is_refusal_of(error, inside)
