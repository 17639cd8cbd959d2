"""The start of actors: it has the turn of its key, and runs in a task of its own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from clstr._actors.actor import Actor, cancel_tasks_of
from clstr._actors.cell import Cell
from clstr._actors.room import Room
from clstr._actors.starts import Start, StartFailedError, Starts
from clstr._context import Current, refuse
from clstr._messages.envelope import Envelope
from clstr._messages.hints import annotation
from clstr._node.route import find
from clstr._rate_limited_log import RateLimitedLog
from clstr._tasks import new_task
from clstr.errors import ClstrError, DrainingError


class ActorStarts:
    """
    Starts the actors of one handler.

    Args:
        create: A class of actors, or a function of the key.
        expected: What each actor must be an instance of.
        kind: What stands before the key on call chains; ``None`` is the name of the first actor's class.
        room: How many actors may live.
        timeout: Seconds that a start may take.
        leave: Called with a key and its cell when a start is over.
        failed: Called with a key, its actor and what escaped from the actor's own work.
    """

    def __init__(
        self,
        create: Callable[..., Any],
        expected: type[Actor],
        kind: str | None,
        room: Room,
        timeout: float,
        *,
        log: RateLimitedLog,
        leave: Callable[[str, Cell], object],
        failed: Callable[[str, Actor, Exception], object],
    ) -> None:
        self._create = create
        self._expected = expected
        self._is_class = isinstance(create, type)
        self.kind = create.__name__ if kind is None and isinstance(create, type) else kind
        self._room = room
        self._leave = leave
        self._failed = failed
        self._starts = Starts(self._describe, timeout, log)

    def _describe(self) -> str:
        return f"an actor of kind {self.kind}"

    def announce(self, key: str, message: Current) -> None:
        """Say to ``message`` what stands for the actor of ``key`` on call chains."""
        if self.kind is not None:  # it is not known before the first has been made
            message.name = f"{self.kind}:{key}"

    def check(self, key: str) -> None:
        """Refuse the message being handled while starts of ``key`` pause, since they keep failing."""
        self._starts.check(key)

    async def start(self, key: str, cell: Cell, envelope: Envelope, failures: int) -> None:
        """
        Have the actor of ``key`` started, in the turn that ``envelope`` has, and has again on return.

        Args:
            key: The key.
            cell: Its cell, which has no actor.
            envelope: What needs the actor.
            failures: How many starts had failed when it arrived: one that failed since answers it, too.

        Raises:
            ClstrError: There is no actor, and the turn is the next one's: a refusal.
        """
        refusal: ClstrError | None = None
        if cell.failures == failures:
            try:
                self.check(key)
            except ClstrError:
                cell.turns.end()
                raise
            place = cell.turns.claim(first=True)
            start = self._begin(key, cell, envelope)
            if not await cell.turns.wait(place):
                raise refuse(DrainingError(envelope.shard))
            refusal = start.refusal
        if cell.actor is None:
            cell.turns.end()
            if refusal is None and cell.failures == failures:  # it was cancelled
                refusal = DrainingError(envelope.shard)
            raise self._starts.failure(key) if refusal is None else refuse(refusal)

    def _begin(self, key: str, cell: Cell, envelope: Envelope) -> Start:
        """Begin a start, to which the turn belongs from now on."""
        start = self._starts.new(key, envelope.shard)
        self.announce(key, start)
        cell.users += 1  # it goes on if every message gives up
        cell.begin(start)
        cell.starting = start
        over = functools.partial(self._over, key, cell, start)
        try:
            work = self._run(key, cell, start, envelope, over)
            task = start.task = new_task(work, cell.context.copy(), eager=True)  # most that load nothing never wait
        except Exception as error:  # noqa: BLE001 -- a task factory is user code; whatever it raises, the turn goes on
            self._starts.fail(start, error)
            cell.failures += 1
            over()
            return start
        if not task.done():
            task.add_done_callback(lambda _: over())  # cancelled before its first step it would end without a word
        return start

    async def _run(self, key: str, cell: Cell, start: Start, envelope: Envelope, over: Callable[[], None]) -> None:
        try:
            await self._room.enter()
            try:
                await self._starts.run(start, functools.partial(self._work, key, cell, start, envelope))
            except StartFailedError:
                cell.failures += 1
            finally:
                if cell.actor is None:
                    self._room.leave()
        finally:
            over()

    async def _work(self, key: str, cell: Cell, start: Start, envelope: Envelope) -> None:
        actor = await self._make(key, start)
        if not self._is_wanted(actor, cell, start, envelope):
            return
        try:
            await actor.on_start()
        except BaseException:
            await cancel_tasks_of(actor, for_good=True)
            raise
        cell.name = start.name
        cell.start(actor, start.holds(), functools.partial(self._failed, key, actor))

    def _over(self, key: str, cell: Cell, start: Start) -> None:
        if cell.starting is start:
            cell.starting = None
            cell.end(start)
            self._leave(key, cell)

    def _is_wanted(self, actor: Actor, cell: Cell, start: Start, envelope: Envelope) -> bool:
        """Tell whether a message waits that the actor has a method for; that of a class is known before."""
        if self._is_class or cell.turns.waiting > 1:
            return True
        try:
            find(type(actor).routes, envelope)
        except ClstrError as error:
            start.refusal = error.with_traceback(None)
            return False
        return True

    async def _make(self, key: str, start: Start) -> Actor:
        made = self._create() if self._is_class else self._create(key)
        actor = await made if inspect.isawaitable(made) else made
        if not isinstance(actor, self._expected):
            name = "clstr.Actor" if self._expected is Actor else self._expected.__qualname__
            raise TypeError(f"create must return a {name}, not {actor!r}")
        actor.key = key
        if self.kind is None:
            self.kind = type(actor).__name__
            self.announce(key, start)
        return actor


def declared_class(create: Any, actor: object) -> type[Actor] | None:
    """Return the class of the actors that ``create`` makes, or ``None`` if nothing tells."""
    if not callable(create) or (isinstance(create, type) and not issubclass(create, Actor)):
        raise TypeError(f"create must be a class of actors, or a function of a key, not {create!r}")
    if isinstance(create, type):
        if actor not in (None, create):
            raise TypeError(f"actor is for functions that make actors: {create.__qualname__} is a class itself")
        return create
    hint = annotation(create, "return") if actor is None else actor
    if isinstance(hint, type) and issubclass(hint, Actor):
        return None if hint is Actor else hint
    if actor is not None:
        raise TypeError(f"actor must be a class of actors, not {actor!r}")
    return None
