"""The place of one key's actor: who is there, and whose turn it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from clstr._actor import Actor
from clstr._context import Current
from clstr._message import type_name
from clstr._periodic import Timer
from clstr._stops import STOP_TIMEOUT, finish
from clstr._turns import Turns

_logger = logging.getLogger("clstr.actor")


class Cell:
    """
    The place of one key's actor.

    Attributes:
        actor: The actor, while there is one.
        shard: The shard of its key, once a message has told it.
        stops: Stops under way.
        turns: Whose turn it is: a message's, periodic work's, or a stop's.
        users: Messages that use it or wait for it.
    """

    __slots__ = ("_holds", "_messages", "_timers", "actor", "shard", "stops", "turns", "users")

    def __init__(self) -> None:
        self._holds: Callable[[int], bool] | None = None
        self._messages: tuple[Current | None, ...] = ()
        self._timers: tuple[Timer, ...] = ()
        self.actor: Actor | None = None
        self.shard: int | None = None
        self.stops = 0
        self.turns = Turns()
        self.users = 0

    def awaits(self, call: str) -> bool:
        """Tell whether a message whose turn it is awaits the answer to ``call``: what that led to must not wait."""
        return any(message is not None and message.awaits(call) for message in self._messages)

    def waits_for(self, message: Current) -> bool:
        """Tell whether the turn ends only after ``message``: that is handled in it, or one in it led to that."""
        return any(each is message or (each is not None and each.has_led_to(message)) for each in self._messages)

    def is_held(self) -> bool:
        """Tell whether messages of the key still arrive here: its shard is not released, and the transport open."""
        return self._holds is None or self.shard is None or self._holds(self.shard)

    def begin(self, message: Current | None) -> None:
        """Handle ``message`` in the turn, which was taken for it or for one in whose midst it is handled."""
        self._messages += (message,)

    def end(self, message: Current | None) -> None:
        """Note that ``message`` has ended: the turn is over when all of them have, whichever ends last."""
        if len(self._messages) > 1:
            left = list(self._messages)
            left.remove(message)
            self._messages = tuple(left)
        else:  # it is the only one, as nearly always
            self._messages = ()
            self.turns.end()

    def start(self, actor: Actor, holds: Callable[[int], bool] | None) -> None:
        """Let ``actor`` be the key's, and begin its periodic work, which runs while its shard is held."""
        self.actor = actor
        self._holds = holds
        self._timers = tuple(
            Timer(actor, name, seconds, self.turns, self.is_held) for name, seconds in actor.timers.items()
        )

    def cancel_work(self) -> None:
        """Cancel periodic work that has the turn or waits for it."""
        for timer in self._timers:
            timer.cancel_run()

    async def stop(self) -> None:
        """
        Stop the actor, if there is one, in one's own turn: cancel its work and tasks, then let it store its state.

        Each part is bounded by `STOP_TIMEOUT`. What `Actor.on_stop` spawns is cancelled too.
        """
        actor, self.actor = self.actor, None
        timers, self._timers = self._timers, ()
        if actor is None:
            return
        for timer in timers:
            timer.stop()
        await actor.cancel_tasks()
        try:
            await finish(actor.on_stop, f"stopping a {type_name(type(actor))}", _logger)
        finally:
            await actor.cancel_tasks()


async def wait_for_stops(stops: Mapping[asyncio.Task[None], Cell], kind: str | None) -> None:
    """
    Wait for ``stops``, each of a cell, for three times `STOP_TIMEOUT` at most.

    After one, periodic work that has the turn is cancelled. What is late then is kept by something that ignores its
    cancellation; it goes on by itself, and is logged.
    """
    if not stops:
        return
    _, late = await asyncio.wait(stops, timeout=STOP_TIMEOUT)
    for stop in late:
        stops[stop].cancel_work()
    if late:
        _, late = await asyncio.wait(late, timeout=2 * STOP_TIMEOUT)
    if late:
        text = "%d actors of kind %s have not stopped within %g s: a message or on_stop ignores its cancellation"
        _logger.error(text, len(late), kind, 3 * STOP_TIMEOUT)
