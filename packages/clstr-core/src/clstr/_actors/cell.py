"""The place of one key's actor: who is there, and whose turn it is."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from clstr._actors.actor import Actor, abandon_tasks_of, cancel_tasks_of
from clstr._actors.own_work import CROSSING_PAUSE, OwnWork
from clstr._actors.periodic import WORK_TIMEOUT, Timer
from clstr._actors.starts import Start
from clstr._actors.stop_queue import Stop
from clstr._actors.stops import STOP_TIMEOUT, finish
from clstr._actors.turns import Place, Turns
from clstr._context import Current, current, refuse, set_current
from clstr._messages.call_chain import describe, sender_of
from clstr._messages.envelope import Envelope
from clstr._messages.message import type_name
from clstr._rate_limited_log import RateLimitedLog
from clstr.errors import CallCycleError, DrainingError

_logger = logging.getLogger("clstr.actor")


class Cell:
    """
    The place of one key's actor.

    Attributes:
        actor: The actor, while there is one.
        name: What stands for the actor on call chains, once one has started.
        context: What its actor's callbacks run in a copy of.
        failures: How many starts have failed.
        is_stored: Whether the state of the last actor that was stopped is stored; true if there was none.
        places: Its stops that wait for the turn, each with its place.
        starting: The start that has the turn.
        shard: The shard of its key, once a message has told it.
        stops: Stops under way, those that wait for the turn included.
        turns: Whose turn it is: a message's, periodic work's, or a stop's.
        users: Messages that use it or wait for it.
    """

    __slots__ = (
        "_holds",
        "_log",
        "_messages",
        "_timers",
        "actor",
        "context",
        "failures",
        "is_stored",
        "name",
        "places",
        "shard",
        "starting",
        "stops",
        "turns",
        "users",
    )

    def __init__(self, context: contextvars.Context, log: RateLimitedLog) -> None:
        self._holds: Callable[[int], bool] | None = None
        self._log = log
        self._messages: tuple[Current | None, ...] = ()
        self._timers: tuple[Timer, ...] = ()
        self.actor: Actor | None = None
        self.context = context
        self.failures = 0
        self.name: str | None = None
        self.starting: Start | None = None
        self.is_stored = True
        self.places: dict[Stop, Place] = {}
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

    @contextmanager
    def own_work(self, seconds: float, *, is_stop: bool = False) -> Iterator[OwnWork]:
        """Have the turn, which was taken for what the actor does by itself in so many seconds, and end it."""
        work = OwnWork(
            envelope=Envelope(shard=self.shard or 0, type=""),
            name=self.name,
            context=self.context,
            deadline=asyncio.get_running_loop().time() + seconds,
            is_stop=is_stop,
        )
        self.begin(work)
        set_current(work)
        try:
            yield work
        finally:
            work.ended = True
            self.end(work)

    async def wait_for_turn(self, shard: int) -> None:
        """
        Wait for the turn of the message that is being handled; its place is taken before anything is awaited.

        Raises:
            CallCycleError: A stop has the turn, and awaits who sent the message: each would wait for the other.
            DrainingError: ``shard`` was released meanwhile.
        """
        inside = current()
        place = self.turns.claim()
        call = None if inside is None else self._call_to_sender(inside)
        timer = call and asyncio.get_running_loop().call_later(CROSSING_PAUSE, self._part, place, call)
        try:
            if await self.turns.wait(place):
                return
        finally:
            if timer:
                timer.cancel()
        if call is not None and inside is not None and self.awaits(call):
            raise refuse(CallCycleError(describe((*inside.chain, f"{inside.name}#"), sender_of(inside.chain) or "")))
        raise refuse(DrainingError(shard))

    def _call_to_sender(self, message: Current) -> str | None:
        """Return the call of the actor's stop that awaits who sent ``message``, or ``None``."""
        sender = sender_of(message.chain)
        stops = (each for each in self._messages if isinstance(each, OwnWork) and each.is_stop)
        return None if sender is None else next((call for each in stops if (call := each.call_to(sender))), None)

    def _part(self, place: Place, call: str) -> None:
        if self.awaits(call):
            self.turns.dismiss(place)

    def start(self, actor: Actor, holds: Callable[[int], bool] | None, failed: Callable[[Exception], object]) -> None:
        """
        Let ``actor`` be the key's, and begin its periodic work, which runs while its shard is held.

        ``failed`` gets what that work raises.
        """
        self.actor = actor
        self.is_stored = True
        self._holds = holds
        timers = type(actor).timers.items()
        in_turn = functools.partial(self.own_work, WORK_TIMEOUT)
        self._timers = tuple(
            Timer(
                actor,
                name,
                seconds,
                self.turns,
                in_turn=in_turn,
                is_held=self.is_held,
                failed=failed,
                context=self.context,
                log=self._log,
            )
            for name, seconds in timers
        )

    def cancel_start(self) -> None:
        """Cancel a start that has the turn: there is no state yet."""
        if self.starting is not None and self.starting.task is not None:
            self.starting.task.cancel()

    def cancel_work(self) -> None:
        """Cancel a start, or periodic work, that has the turn or waits for it."""
        self.cancel_start()
        for timer in self._timers:
            timer.cancel_run()

    def abort(self) -> None:
        """End the actor, or its start, without a stop: its work and tasks are cancelled, nothing is stored."""
        self.cancel_work()
        actor, self.actor = self.actor, None
        timers, self._timers = self._timers, ()
        for timer in timers:
            timer.stop()
        if actor is not None:
            abandon_tasks_of(actor)

    def send_away(self) -> None:
        """End the wait of everything but stops for the turn."""
        self.turns.send_away(self.places.values())

    async def stop(self, work: OwnWork, note_cancelled: Callable[[int], object]) -> bool:
        """
        Stop the actor, if there is one, in the turn of ``work``: cancel its work and tasks, then let it store.

        Returns whether that is stored. ``note_cancelled`` gets the number of spawned tasks that were cancelled.

        Each part is bounded by `STOP_TIMEOUT`. What `Actor.on_stop` spawns is cancelled too.
        """
        actor, self.actor = self.actor, None
        timers, self._timers = self._timers, ()
        if actor is None:
            return self.is_stored
        self.is_stored = False
        for timer in timers:
            timer.stop()
        note_cancelled(await cancel_tasks_of(actor))
        work.deadline = asyncio.get_running_loop().time() + STOP_TIMEOUT
        try:
            self.is_stored = await finish(actor.on_stop, f"stopping a {type_name(type(actor))}", self._log)
        finally:
            note_cancelled(await cancel_tasks_of(actor, for_good=True))
        return self.is_stored


def is_to_restart(actor: Actor, error: Exception) -> bool:
    """Ask ``actor`` whether ``error`` ends it; one that cannot say is ended."""
    try:
        return actor.on_error(error)
    except Exception:
        _logger.exception("on_error of a %s failed", type_name(type(actor)))
        return True  # nobody knows what its state is worth


async def wait_for_stops(stops: Mapping[Stop, Cell], kind: str | None) -> None:
    """
    Wait until each of ``stops`` is over, or cannot begin since something keeps the turn of its cell.

    Where a message, a start or periodic work has the turn, the wait for it is bounded: after `STOP_TIMEOUT`, starts and
    periodic work are cancelled; after three times that, what has the turn ignores its cancellation, is logged, and not
    waited for.
    """
    places = {stop: cell.places[stop] for stop, cell in stops.items() if stop in cell.places}
    late = await _still_waiting(places.values(), STOP_TIMEOUT)
    for stop, place in places.items():
        if place in late:
            stops[stop].cancel_work()
    late = await _still_waiting(late, 2 * STOP_TIMEOUT)
    if late:
        text = "%d actors of kind %s have not stopped within %g s: a message or periodic work ignores its cancellation"
        _logger.error(text, len(late), kind, 3 * STOP_TIMEOUT)
    begun = [stop.over for stop in stops if places.get(stop) not in late]
    if begun:
        await asyncio.wait(begun)


async def _still_waiting(places: Collection[Place], seconds: float) -> set[Place]:
    if not places:
        return set()
    _, late = await asyncio.wait(places, timeout=seconds)
    return late
