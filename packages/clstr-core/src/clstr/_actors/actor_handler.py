"""The life of actors: started by a message, one message at a time, stopped when idle, in the way, or released."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from clstr._actors.actor import Actor
from clstr._actors.actor_starts import ActorStarts, declared_class
from clstr._actors.cell import Cell, is_to_restart, wait_for_stops
from clstr._actors.idle_keys import IdleKeys
from clstr._actors.keys import required_key
from clstr._actors.keys_by_shard import KeysByShard
from clstr._actors.pause import Paused
from clstr._actors.room import Room
from clstr._actors.starts import START_TIMEOUT
from clstr._actors.stop_queue import MAX_STOPS, Stop, StopQueue, log_cut_short, not_stored
from clstr._actors.stops import STOP_TIMEOUT
from clstr._context import Current, base_context, current, is_refusal_of, refuse
from clstr._limits import at_least_one, check_seconds
from clstr._messages.call_chain import describe, latest_call
from clstr._messages.envelope import KEY_HEADER, Envelope
from clstr._messages.message import type_name
from clstr._node.route import Call, find
from clstr._rate_limited_log import RateLimitedLog
from clstr.errors import CallCycleError, OverloadedError, StateNotStoredError

IDLE_AFTER = 300.0
MAILBOX = 256
MAX_ACTORS = 100_000  # of a few fields: some 80 MiB, which a stranger with random keys fills in seconds
_logger = logging.getLogger("clstr.actor")


class ActorHandler:
    """
    A handler that gives each key an actor of its own. Go: ``NewActorHandler``.

    An actor owns no task: its messages run in their own, and take the key's turn in order of arrival. Who waits for a
    turn lends its slot, and has not run: if its time is over, or its shard is released, it is refused. That is true
    only if nothing was done before this handler was called, so let the node call it, or a `Router` that includes it.
    An exception is its message's affair and leaves the actor alive, see `Actor.on_error`.

    An actor is stopped when it has been idle for ``idle_after`` seconds, when another needs its place, when its shard
    is released, or its node stops. A message that arrives meanwhile waits for the stop, then starts a new one.

    Args:
        create: A class of actors, or a function of the key that returns an actor, sync or async.
        actor: The class of the actors that a function makes, for `Router.include`; by default what it is annotated to
            return.
        idle_after: Seconds without a message after which an actor is stopped, 300 by default; ``None`` is never.
        kind: What stands before the key on call chains: by default the name of the actors' class. Two kinds whose
            classes have one name need it, or they would be taken for one.
        max_actors: How many there may be, 100,000 by default; the one that has been idle for longest makes room, and if
            none is idle, the message is refused with `OverloadedError`. ``None`` is no limit.
        mailbox: How many messages of one key may wait for their turn; 256 by default.
        max_stops: How many actors may stop at once; 100 by default. The others wait, idle ones in use meanwhile. Each
            stop is timed from its own start, so give it no more than what `on_stop` stores through can take at once.
        start_timeout: Seconds that `on_start`, and the making of an actor, may take; 30 by default.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of its bounds.
    """

    def __init__(
        self,
        create: type[Actor] | Callable[[str], Actor | Awaitable[Actor]],
        *,
        actor: type[Actor] | None = None,
        idle_after: float | None = IDLE_AFTER,
        kind: str | None = None,
        max_actors: int | None = MAX_ACTORS,
        mailbox: int = MAILBOX,
        max_stops: int = MAX_STOPS,
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        declared = declared_class(create, actor)
        self._new = functools.partial(
            ActorHandler,
            create,
            actor=actor,
            idle_after=idle_after,
            kind=kind,
            max_actors=max_actors,
            mailbox=mailbox,
            max_stops=max_stops,
            start_timeout=start_timeout,
        )
        self._class: type[Actor] | None = create if isinstance(create, type) else None
        self._declared = declared
        self._max_actors = None if max_actors is None else at_least_one("max_actors", max_actors)
        self._mailbox = at_least_one("mailbox", mailbox)
        self._cells: dict[str, Cell] = {}
        self._by_shard = KeysByShard()
        self._log = RateLimitedLog(_logger)
        self._stops = StopQueue(at_least_one("max_stops", max_stops), self._resume_idle, self._log)
        idle_after = None if idle_after is None else check_seconds("idle_after", idle_after)
        self._idle = IdleKeys(idle_after, lambda key: self._stop_soon(key, "it was idle"), self._stops.has_room)
        self._busy = 0  # keys with messages
        self._room = Room(self._max_actors)
        start_timeout = check_seconds("start_timeout", start_timeout)
        self._starts = ActorStarts(
            create,
            declared or Actor,
            kind,
            self._room,
            start_timeout,
            log=self._log,
            leave=self._leave,
            failed=self._failed,
        )
        self._is_closed = False

    def fresh(self) -> ActorHandler:
        """Return a handler with the same arguments, and no actors: each node needs one of its own."""
        return self._new()

    def __len__(self) -> int:
        """Return the number of keys that have an actor, or wait for one."""
        return len(self._cells)

    @property
    def message_types(self) -> frozenset[str]:
        """
        The types of the messages that its actors handle, for `Router.include`.

        Raises:
            TypeError: A function makes the actors, and does not tell of which class.
        """
        if self._declared is None:
            raise TypeError(
                "the messages of actors that a function makes are not known: annotate what it returns, or name their "
                "class with ActorHandler(create, actor=...)"
            )
        return frozenset(self._declared.routes)

    async def __call__(self, envelope: Envelope) -> bytes | None:
        """
        Answer ``envelope`` with the actor of its key.

        Raises:
            MissingKeyHeaderError: It was sent by shard, not by key.
            KeyRequiredError: Its key is empty.
            OverloadedError: ``mailbox`` messages wait for this key, or all of ``max_actors`` are busy.
            UnknownMessageError: The actor has no method for its type. No actor was started for it.
            InvalidEnvelopeError: Its payload does not fit. No actor was started for it.
            CallCycleError: It was sent, over others, by this actor, which waits for its answer.
            DrainingError: `aclose` was called, or its shard was released while it waited.
            HandlerError: The actor did not start; with ``maybe_executed=False``, since the message did not run.
            NotOwnerError: Its shard was released before it came here: what ran before took longer than the drain.
        """
        key = envelope.headers.get(KEY_HEADER)
        if not key or self._is_closed:  # in line: this runs for every message
            key = required_key(envelope, is_closed=self._is_closed)
        call = None if self._class is None else find(self._class.routes, envelope)
        inside = current()
        reentered = None
        if inside is not None:
            if inside.is_revoked:  # in line, as above
                inside.check_held()
            self._starts.announce(key, inside)
            if inside.chain:
                reentered = self._reenter(key, inside)
        cell = reentered or self._enter(key, envelope.shard)
        failures = cell.failures
        try:
            # Its place is taken before anything is awaited; in the midst of another's turn it needs none.
            if reentered is None and not cell.turns.try_take():
                await cell.wait_for_turn(envelope.shard)
            is_new = cell.actor is None
            if is_new:
                await self._starts.start(key, cell, envelope, failures)
            cell.begin(inside)
            try:
                if is_new and inside is not None:
                    inside.check_time()  # the start may have blocked the loop
                actor = cell.actor
                assert actor is not None  # noqa: S101 -- for type checkers: it was started
                if call is None:
                    call = self._find(key, actor, envelope)
                try:
                    route, message = call
                    return route.encode(await route.handler(actor, message, route.context(envelope)))
                except BaseException as error:
                    self._failed(key, actor, error)
                    raise
            finally:
                cell.end(inside)
        finally:
            self._leave(key, cell)

    async def release_shards(self, shards: Iterable[int]) -> None:
        """
        Stop the actors of ``shards``, each after the message that it handles, and wait until their state is stored.

        Nodes call this when they have drained: what still waits for its turn then is refused, and starts are cancelled.
        After ten seconds, periodic work that is under way is cancelled. At most ``max_stops`` actors stop at a time;
        each stop takes 30 seconds at most, counted from its own start. An actor that has not stopped then, since a
        handler or `on_stop` ignores its cancellation, is logged, and stops when that ends. If the wait is cancelled,
        the stops go on, and what they have not stored yet is logged.

        Raises:
            StateNotStoredError: An `on_stop` failed, was cancelled, or has not ended. All others are stored.
        """
        keys = self._by_shard.of(frozenset(shards))
        for key in keys:
            self._cells[key].send_away()
            self._cells[key].cancel_start()
        await self._stop_all(keys)

    async def aclose(self) -> None:
        """
        Stop every actor, and wait for it as `release_shards` does, which see. May be called twice.

        Later messages are refused with `DrainingError`.

        Raises:
            StateNotStoredError: As `release_shards` does.
        """
        self._is_closed = True
        await self._stop_all(list(self._cells))

    def abort(self) -> None:
        """
        End every actor without `on_stop`, as the death of the process would: for tests of crashes.

        Later messages are refused with `DrainingError`. Messages that are handled are the caller's to cancel.
        """
        self._is_closed = True
        self._idle.clear()
        self._stops.abort()
        for key, cell in list(self._cells.items()):
            cell.abort()
            if not (cell.users or cell.stops):
                self._forget(key, cell)

    @asynccontextmanager
    async def paused(self, key: str) -> AsyncIterator[Paused]:
        """
        Let neither messages of ``key`` nor its periodic work have their turn inside the block: for tests.

        Messages that come meanwhile wait, as they do for one that is being handled, ``mailbox`` of them at most.

            async with handler.paused("ada") as paused:
                ...  # send some
                await paused.step()  # one of them is handled

        Raises:
            OverloadedError: ``mailbox`` messages wait for this key, or all of ``max_actors`` are busy.
            RuntimeError: The key's shard was released before the pause could begin.
        """
        cell = self._enter(key, None)
        try:
            if not await cell.turns.take():
                raise RuntimeError(f"the shard of {key!r} was released before it could be paused")
            paused = Paused(cell.turns)
            try:
                yield paused
            finally:
                paused.end()
        finally:
            self._leave(key, cell)

    # Messages.

    def _find(self, key: str, actor: Actor, envelope: Envelope) -> Call:
        """Return what ``envelope`` calls of an actor whose class was not known before."""
        inside = current()
        if inside is not None:
            self._starts.announce(key, inside)  # nor was its kind
        return find(type(actor).routes, envelope)

    def _reenter(self, key: str, inside: Current) -> Cell | None:
        """
        Let a message in while the one that led to it awaits its answer; return ``None`` if it is to wait for its turn.

        Only the actor's latest call on the chain counts. If that has ended, nobody here waits for this message,
        whatever else the actor awaits.
        """
        cell = self._cells.get(key)
        if cell is None or inside.name is None:
            return None
        call = latest_call(inside.chain, inside.name)
        if call is None or not cell.awaits(call):
            return None
        if cell.actor is None or not cell.actor.reentrant:  # none: it starts
            raise refuse(CallCycleError(describe(inside.chain, inside.name)))
        cell.users += 1
        return cell

    def _failed(self, key: str, actor: Actor, error: BaseException) -> None:
        """Let the actor decide whether it lives on."""
        inside = current()
        if isinstance(error, asyncio.CancelledError) and inside is not None:
            error = inside.timeout_error() or error
        if isinstance(error, Exception) and not is_refusal_of(error, inside) and is_to_restart(actor, error):
            _ = self._stop_soon(key, "on_error asked for it", first=True)  # by itself: its message may be given up

    # Cells.

    def _enter(self, key: str, shard: int | None) -> Cell:
        cell = self._cells.get(key)
        if cell is None:
            self._starts.check(key)
        elif cell.turns.waiting - (cell.starting is not None) >= self._mailbox:  # what a start is for waits too
            raise refuse(OverloadedError("mailbox", self._mailbox))
        limit = self._max_actors
        # The first test is the cheap one: keys that are neither busy nor idle count there too.
        if (
            limit is not None
            and len(self._cells) >= limit
            and key not in self._idle
            and (cell is None or not cell.users)
        ):
            self._make_room(limit)
        if cell is None:
            cell = self._cells[key] = Cell(base_context(), self._log)
        if shard is not None and cell.shard != shard:
            self._by_shard.discard(key, cell.shard)
            self._by_shard.add(key, shard)
            cell.shard = shard
        self._idle.use(key)
        self._busy += not cell.users
        cell.users += 1
        return cell

    def _leave(self, key: str, cell: Cell) -> None:
        cell.users -= 1
        if not cell.users:
            self._busy -= 1
            self._settle(key, cell)

    def _settle(self, key: str, cell: Cell) -> None:
        """Forget a key that nobody needs any more, or note that its actor is idle."""
        if cell.users or cell.stops:
            return
        if cell.actor is None:
            self._forget(key, cell)
            return
        self._idle.add(key)

    def _forget(self, key: str, cell: Cell) -> None:
        del self._cells[key]
        self._by_shard.discard(key, cell.shard)

    def _make_room(self, max_actors: int) -> None:
        """Let the actor that has been idle for longest be stopped, if one more key would be too many."""
        if self._busy + len(self._idle) < max_actors:
            return
        oldest = self._idle.oldest()
        if oldest is None:
            raise refuse(OverloadedError("max_actors", max_actors))
        _ = self._stop_soon(oldest, "another actor needed its place")

    # Stops, each in the key's turn.

    def _stop_soon(self, key: str, why: str, *, first: bool = False) -> Stop:
        """Stop the actor of ``key`` in its turn: after those who wait, or ahead of them."""
        cell = self._cells[key]
        self._idle.remove(key)
        cell.stops += 1
        stop = self._stops.new(key, why)
        place = cell.turns.claim(first=first)  # now: no message comes between
        if place.done():
            self._begin_stop(stop, cell)
        else:
            cell.places[stop] = place
            place.add_done_callback(lambda _: self._begin_stop(stop, cell), context=contextvars.Context())
        return stop

    def _begin_stop(self, stop: Stop, cell: Cell) -> None:
        """Its turn has come: run the stop as soon as not too many others do."""
        cell.places.pop(stop, None)
        self._stops.add(stop, functools.partial(self._stop_in_turn, stop, cell), cell.context)

    async def _stop_in_turn(self, stop: Stop, cell: Cell) -> bool:
        actor = cell.actor

        def note_cancelled(count: int) -> None:
            if count:
                text = "%d spawned tasks of a %s were cancelled, because it stopped: %s"
                self._log.say(logging.WARNING, text, count, type_name(type(actor)), stop.why)

        try:
            with cell.own_work(STOP_TIMEOUT, is_stop=True) as work:
                try:
                    return await cell.stop(work, note_cancelled)
                finally:
                    if actor is not None:
                        self._room.leave()
        finally:
            cell.stops -= 1
            self._settle(stop.key, cell)

    def _resume_idle(self) -> None:
        self._idle.resume()

    async def _stop_all(self, keys: list[str]) -> None:
        inside = current()
        # The cells first: eager tasks may have stopped their actors when they are made.
        cells = [(key, self._cells[key]) for key in keys]
        stops: dict[Stop, Cell] = {}
        for key, cell in cells:
            ends_after_this = inside is not None and cell.waits_for(inside)
            stop = self._stop_soon(key, "its shard was released, or its handler closed")
            if not ends_after_this:  # to wait for the message that this is called from would never end
                stops[stop] = cell
        try:
            await wait_for_stops(stops, self._starts.kind)
        except asyncio.CancelledError:
            log_cut_short(stops, f"stopping actors of kind {self._starts.kind}", _logger)
            raise
        left = not_stored(stops)
        if left:
            raise StateNotStoredError(left)
