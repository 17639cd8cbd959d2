"""The life of actors: started by a message, one message at a time, stopped when idle, in the way, or released."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

from clstr._actor import Actor
from clstr._context import current, is_refusal_of, refuse, set_current
from clstr._envelope import Envelope
from clstr._idle_keys import IdleKeys
from clstr._keys import required_key
from clstr._limits import check_seconds
from clstr._message import type_name
from clstr._turns import Turns
from clstr.errors import (
    CallCycleError,
    DrainingError,
    OverloadedError,
    UnknownMessageError,
)

_logger = logging.getLogger("clstr.actor")
IDLE_AFTER = 300.0
MAILBOX = 256
STOP_TIMEOUT = 10.0


class _Cell:
    """
    The place of one key's actor.

    Attributes:
        actor: The actor, while there is one.
        shard: The shard of its key, once a message has told it.
        stops: Stops under way.
        turns: Whose turn it is: a message's, periodic work's, or the stop's.
        users: Messages that use it or wait for it.
    """

    __slots__ = ("actor", "shard", "stops", "turns", "users")

    def __init__(self) -> None:
        self.actor: Actor | None = None
        self.shard: int | None = None
        self.stops = 0
        self.turns = Turns()
        self.users = 0


class Paused:
    """An actor that is kept from its messages, see `ActorHandler.paused`."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._has_turn = True

    @property
    def waiting(self) -> int:
        """How many messages wait, periodic work included."""
        return self._turns.waiting

    async def step(self) -> None:
        """Let the next message be handled, and wait for its end; if none waits, wait for one."""
        self._has_turn = False  # if this is cancelled the turn is somebody else's
        await self._turns.let_one()
        self._has_turn = True

    def end(self) -> None:
        """Let messages be handled again."""
        if self._has_turn:
            self._has_turn = False
            self._turns.end()


class ActorHandler:
    """
    A handler that gives each key an actor of its own. The reference's ``NewActorHandler``.

    An actor owns no task: its messages run in their own, and take the key's turn in order of arrival. Who waits for a
    turn lends its slot. An exception is its message's affair and leaves the actor alive, see `Actor.on_error`.

    An actor is stopped when it has been idle for ``idle_after`` seconds, when another needs its place, when its shard
    is released, or its node stops. A message that arrives meanwhile waits for the stop, then starts a new one.

    Args:
        create: A class of actors, or a function of the key that returns one, sync or async.
        idle_after: Seconds without a message after which an actor is stopped; ``None`` is never.
        max_actors: How many there may be; the one that has been idle for longest makes room. ``None`` is no limit.
        mailbox: How many messages of one key may wait for their turn.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of its bounds.
    """

    def __init__(
        self,
        create: type[Actor] | Callable[[str], Actor | Awaitable[Actor]],
        *,
        idle_after: float | None = IDLE_AFTER,
        max_actors: int | None = None,
        mailbox: int = MAILBOX,
    ) -> None:
        if not callable(create):
            raise TypeError(f"create must be a class of actors, or a function of a key, not {create!r}")
        self._create = create
        self._kind: str = getattr(create, "__name__", type(create).__name__)
        self._max_actors = None if max_actors is None else _at_least_one("max_actors", max_actors)
        self._mailbox = _at_least_one("mailbox", mailbox)
        self._cells: dict[str, _Cell] = {}
        idle_after = None if idle_after is None else check_seconds("idle_after", idle_after)
        self._idle = IdleKeys(idle_after, self._stop_soon)
        self._busy = 0  # keys with messages
        self._live = 0  # actors between start and stop
        self._stopping: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def __len__(self) -> int:
        """Return the number of keys that have an actor, or wait for one."""
        return len(self._cells)

    async def __call__(self, envelope: Envelope) -> bytes | None:
        """
        Answer ``envelope`` with the actor of its key.

        Raises:
            MissingKeyHeaderError: It was sent by shard, not by key.
            KeyRequiredError: Its key is empty.
            OverloadedError: ``mailbox`` messages wait for this key, or all of ``max_actors`` are busy.
            UnknownMessageError: The actor has no method for its type.
            InvalidEnvelopeError: Its payload does not fit.
            CallCycleError: It was sent, over others, by this actor, which waits for its answer.
            DrainingError: `aclose` was called, or its shard was released while it waited.
        """
        key = required_key(envelope, is_closed=self._is_closed)
        name = self._name(key)
        cell = self._enter(key, envelope.shard)
        try:
            if name in _chain() and cell.turns.is_taken:
                return await self._reenter(name, cell.actor, envelope)
            if not await cell.turns.take():  # its place is taken before anything is awaited
                raise refuse(DrainingError(envelope.shard))
            try:
                actor = cell.actor or await self._start(key, cell)
                return await self._handle(cell, actor, envelope)
            finally:
                cell.turns.end()
        finally:
            self._leave(key, cell)

    async def release_shards(self, shards: Iterable[int]) -> None:
        """
        Stop the actors of ``shards``, each after the message that it handles, and wait for it.

        Nodes call this when they have drained: what still waits for its turn then is refused.
        """
        released = frozenset(shards)
        keys = [key for key, cell in self._cells.items() if cell.shard in released]
        for key in keys:
            self._cells[key].turns.send_away()
        await self._stop_all(keys)

    async def aclose(self) -> None:
        """Stop every actor; later messages are refused with `DrainingError`. May be called twice."""
        self._is_closed = True
        await self._stop_all(list(self._cells))

    @asynccontextmanager
    async def paused(self, key: str) -> AsyncIterator[Paused]:
        """
        Let neither messages of ``key`` nor its periodic work have their turn inside the block: for tests.

        Messages that come meanwhile wait, as they do for one that is being handled, ``mailbox`` of them at most.

            async with handler.paused("ada") as paused:
                ...  # send some
                await paused.step()  # one of them is handled
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

    def _name(self, key: str) -> str:
        """Return what stands for the actor on call chains, and say so to the message that is being handled."""
        name = f"{self._kind}:{key}"
        inside = current()
        if inside is not None:
            inside.name = name
        return name

    async def _reenter(self, name: str, actor: Actor | None, envelope: Envelope) -> bytes | None:
        if actor is None or not actor.reentrant:  # none: it starts or stops
            raise refuse(CallCycleError(" -> ".join([*_chain(), name])))
        return await _answer(actor, envelope)

    async def _handle(self, cell: _Cell, actor: Actor, envelope: Envelope) -> bytes | None:
        try:
            return await _answer(actor, envelope)
        except Exception as error:
            if not _is_refusal(error) and actor.on_error(error):
                await self._stop(cell)
            raise

    # Cells.

    def _enter(self, key: str, shard: int | None) -> _Cell:
        cell = self._cells.get(key)
        if cell is not None and cell.turns.waiting >= self._mailbox:
            raise refuse(OverloadedError("mailbox", self._mailbox))
        if key not in self._idle and (cell is None or not cell.users):
            self._make_room()
        if cell is None:
            cell = self._cells[key] = _Cell()
        if shard is not None:
            cell.shard = shard
        self._idle.remove(key)
        self._busy += not cell.users
        cell.users += 1
        return cell

    def _leave(self, key: str, cell: _Cell) -> None:
        cell.users -= 1
        self._busy -= not cell.users
        self._settle(key, cell)

    def _settle(self, key: str, cell: _Cell) -> None:
        """Forget a key that nobody needs any more, or note that its actor is idle."""
        if cell.users or cell.stops:
            return
        if cell.actor is None:
            del self._cells[key]
            return
        self._idle.add(key)

    def _make_room(self) -> None:
        """Let the actor that has been idle for longest be stopped, if one more key would be too many."""
        if self._max_actors is None or self._busy + len(self._idle) < self._max_actors:
            return
        oldest = self._idle.oldest()
        if oldest is None:
            raise refuse(OverloadedError("max_actors", self._max_actors))
        self._stop_soon(oldest)

    async def _wait_for_room(self) -> None:
        """Wait until so many actors have stopped that one more may start: `_make_room` saw to it that they will."""
        while self._max_actors is not None and self._live >= self._max_actors and self._stopping:
            await asyncio.wait(self._stopping, return_when=asyncio.FIRST_COMPLETED)

    # Starts and stops, each in the key's turn.

    async def _start(self, key: str, cell: _Cell) -> Actor:
        await self._wait_for_room()
        self._live += 1
        try:
            actor = await self._make(key)
        except BaseException:
            self._live -= 1
            raise
        cell.actor = actor
        for name, seconds in actor.timers.items():
            actor.repeat(_repeat(actor, name, seconds, cell.turns))
        return actor

    async def _make(self, key: str) -> Actor:
        made = self._create() if isinstance(self._create, type) else self._create(key)
        actor = await made if inspect.isawaitable(made) else made
        if not isinstance(actor, Actor):
            raise TypeError(f"create must return a clstr.Actor, not {actor!r}")
        actor.key = key
        try:
            await actor.on_start()
        except BaseException:
            await actor.cancel_tasks()
            raise
        return actor

    async def _stop(self, cell: _Cell) -> None:
        actor, cell.actor = cell.actor, None
        if actor is None:
            return
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await actor.cancel_tasks()
                await actor.on_stop()
        except Exception:  # on_stop is cancelled when it takes longer than STOP_TIMEOUT
            _logger.exception("stopping a %s failed, or took too long", type_name(type(actor)))
        finally:
            self._live -= 1

    def _stop_soon(self, key: str) -> None:
        cell = self._cells[key]
        self._idle.remove(key)
        cell.stops += 1
        context = contextvars.copy_context()
        context.run(set_current, None)  # not done for the message that happened to cause it
        # The turn of an idle actor is taken now: no message comes between.
        turn = None if cell.turns.try_take() else cell.turns.take()
        task = asyncio.get_running_loop().create_task(self._stop_in_turn(key, cell, turn), context=context)
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def _stop_in_turn(self, key: str, cell: _Cell, turn: Coroutine[Any, Any, bool] | None) -> None:
        try:
            if turn is not None and not await turn:
                return  # another stop comes
            try:
                await self._stop(cell)
            finally:
                cell.turns.end()
        finally:
            cell.stops -= 1
            self._settle(key, cell)

    async def _stop_all(self, keys: list[str]) -> None:
        inside = current()
        own = None if inside is None else inside.envelope.key
        before = set(self._stopping)
        for key in keys:
            if key != own:
                self._stop_soon(key)
        stops = self._stopping - before
        if own in keys:  # called from its own message: it would wait for itself
            self._stop_soon(own)
        if stops:
            await asyncio.wait(stops)


async def _answer(actor: Actor, envelope: Envelope) -> bytes | None:
    route = actor.routes.get(envelope.type)
    if route is None:
        raise refuse(UnknownMessageError(envelope.type, ", ".join(sorted(actor.routes))))
    return await route.answer(envelope, actor)


async def _repeat(actor: Actor, name: str, seconds: float, turns: Turns) -> None:
    while True:
        await asyncio.sleep(seconds)
        if not await turns.take():
            continue
        try:
            await getattr(actor, name)()
        except Exception:
            _logger.exception("periodic work of a %s failed", type_name(type(actor)))
        finally:
            turns.end()


def _chain() -> tuple[str, ...]:
    inside = current()
    return () if inside is None else inside.chain


def _is_refusal(error: Exception) -> bool:
    inside = current()
    return inside is not None and is_refusal_of(error, inside)


def _at_least_one(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return value
