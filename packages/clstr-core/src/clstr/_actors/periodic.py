"""Periodic work of actors: a timer from one run to the next, and a task only while the work runs."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from clstr._actors.stops import finish
from clstr._actors.turns import Turns
from clstr._messages.message import type_name
from clstr._rate_limited_log import RateLimitedLog
from clstr._tasks import required_task

if TYPE_CHECKING:
    from clstr._actors.actor import Actor

WORK_TIMEOUT = 30.0  # as long as a message's handler has by default: other messages wait for it


class Timer:
    """
    Runs one method of an actor every so many seconds, counted from the end of a run to the next, each in a turn.

    It runs in a copy of ``context``: it is not done for the message that started the actor. ``in_turn`` is entered when
    the turn is taken, and ends it. A run is skipped while ``is_held`` says that another node may own the key.
    ``failed`` gets what it raises, or a `TimeoutError`.
    """

    __slots__ = (
        "_actor",
        "_context",
        "_failed",
        "_handle",
        "_in_turn",
        "_is_held",
        "_is_stopped",
        "_log",
        "_name",
        "_seconds",
        "_task",
        "_turns",
    )

    def __init__(
        self,
        actor: Actor,
        name: str,
        seconds: float,
        turns: Turns,
        *,
        in_turn: Callable[[], AbstractContextManager[object]],
        is_held: Callable[[], bool],
        failed: Callable[[Exception], object],
        context: contextvars.Context,
        log: RateLimitedLog,
    ) -> None:
        self._actor = actor
        self._context = context
        self._name = name
        self._seconds = seconds
        self._turns = turns
        self._in_turn = in_turn
        self._is_held = is_held
        self._failed = failed
        self._log = log
        self._is_stopped = False
        self._task: asyncio.Task[None] | None = None
        self._handle = self._arm()

    def _arm(self) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        return loop.call_later(self._seconds, self._begin, context=contextvars.Context())

    def _begin(self) -> None:
        self._task = required_task(self._run(), self._context.copy(), self._log)

    async def _run(self) -> None:
        try:
            if await self._turns.take():
                with self._in_turn():
                    if self._is_held():
                        await self._work()
        finally:
            self._task = None
            if not self._is_stopped:
                self._handle = self._arm()

    async def _work(self) -> None:
        what = f"periodic work of a {type_name(type(self._actor))}"
        work = getattr(self._actor, self._name)
        await finish(work, what, self._log, seconds=WORK_TIMEOUT, failed=self._failed)

    def cancel_run(self) -> None:
        """Cancel the run that is under way, or waits for its turn."""
        if self._task is not None:
            self._task.cancel()

    def stop(self) -> None:
        """Run no more. With the turn in one's hands a run can only wait for it, and is over in a turn of the loop."""
        self._is_stopped = True
        self._handle.cancel()
        self.cancel_run()
