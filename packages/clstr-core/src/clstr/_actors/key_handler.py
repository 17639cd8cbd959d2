"""A handler per key: made on the key's first message, kept while it is used, closed when another needs its place."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from clstr._actors.idle_keys import IdleKeys
from clstr._actors.keys import required_key
from clstr._actors.keys_by_shard import KeysByShard
from clstr._actors.starts import START_TIMEOUT, Start, Starts
from clstr._actors.stop_queue import MAX_STOPS, Stop, StopQueue, log_cut_short, not_stored
from clstr._actors.stops import finish
from clstr._context import base_context, current, refuse
from clstr._limits import at_least_one, check_seconds
from clstr._messages.envelope import Envelope
from clstr._messages.message import type_name
from clstr._rate_limited_log import RateLimitedLog
from clstr._tasks import new_task
from clstr.abc import Handler
from clstr.errors import DrainingError, OverloadedError, StateNotStoredError

_logger = logging.getLogger("clstr.key_handler")


class _Entry:
    """
    A key's handler, or the making of it.

    Attributes:
        context: What making and closing run in a copy of.
        handler: The handler, once it is made.
        is_released: Whether it is given up when it is no longer used: its shard was released.
        making: The task that makes it.
        shard: The shard of its key.
        users: Messages that use it or wait for it.
    """

    __slots__ = ("context", "handler", "is_released", "making", "shard", "users")

    making: asyncio.Task[None]

    def __init__(self, context: contextvars.Context, shard: int) -> None:
        self.context = context
        self.handler: Handler | None = None
        self.is_released = False
        self.shard = shard
        self.users = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Ending:
    """
    The end of a handler, whose key may have another entry already.

    Attributes:
        stop: Its place among the others.
        shard: The shard of its key.
        ended: Done when it has really ended: only then may another handler of the key be made.
    """

    stop: Stop
    shard: int
    ended: asyncio.Future[None]


class KeyHandler:
    """
    A handler that gives each key a handler of its own. Go: ``NewKeyHandler``.

        async def create(key: str) -> clstr.Handler:
            return Account(await load(key))  # its ``__call__`` takes an envelope

        async with clstr.KeyHandler(create) as handler, clstr.Node(transport, handler, shards=shards):
            ...

    The messages of a key are not serialised: they run at once, on one handler. However many come first together,
    ``create`` is called once; if it fails, each of them is refused with the error, and the next message tries again. A
    key whose ``create`` fails again and again pauses in between, from 0.1 to 10 seconds, and refuses its messages
    meanwhile. ``create`` and ``aclose`` belong to the key, not to a message: ``create`` goes on when the messages that
    wait for it give up; both run in a copy of the context of `connect`, and clients used in them inherit neither
    deadline nor trace of a message.

    The handler of a key in use is never given up. When ``cache_size`` is reached, the one that has been idle for
    longest makes room: its ``aclose()``, if it has one, sync or async, is called and awaited before the new one is
    made. So it is with one that has been idle for ``idle_after`` seconds, and with those of a shard that the node
    releases. What it raises is logged, and after ten seconds it is cancelled. There are never two handlers of one key,
    not even while one of them closes. At most ``max_stops`` close at a time, the others in turn.

    Args:
        create: Called with a key; returns its handler, or an awaitable of it.
        cache_size: Handlers kept, those in use included; ``None`` is no limit.
        idle_after: Seconds without a message after which a handler is closed; ``None``, the default, is never.
        max_stops: How many ``aclose`` run at once; 100 by default. Give it no more than what they store through can
            take at once.
        create_timeout: Seconds that ``create`` may take; 30 by default.

    Raises:
        TypeError: ``create`` is not callable, ``cache_size`` or ``max_stops`` is not an int, or ``idle_after`` or
            ``create_timeout`` not a number.
        ValueError: ``cache_size`` or ``max_stops`` is below 1, or ``idle_after`` or ``create_timeout`` is not finite
            and above 0.
    """

    def __init__(
        self,
        create: Callable[[str], Handler | Awaitable[Handler]],
        cache_size: int | None = 1024,
        *,
        idle_after: float | None = None,
        max_stops: int = MAX_STOPS,
        create_timeout: float = START_TIMEOUT,
    ) -> None:
        if not callable(create):
            raise TypeError(f"create must be a function that takes a key and returns a handler, not {create!r}")
        if cache_size is not None:
            at_least_one("cache_size", cache_size)
        self._create = create
        self._new = functools.partial(
            KeyHandler,
            create,
            cache_size,
            idle_after=idle_after,
            max_stops=max_stops,
            create_timeout=create_timeout,
        )
        self._cache_size = cache_size
        self._entries: dict[str, _Entry] = {}
        self._by_shard = KeysByShard()
        self._log = RateLimitedLog(_logger)
        self._stops = StopQueue(at_least_one("max_stops", max_stops), self._resume_idle, self._log)
        idle_after = None if idle_after is None else check_seconds("idle_after", idle_after)
        self._idle = IdleKeys(idle_after, self._evict, self._stops.has_room)
        self._starts = Starts(lambda: "a handler", check_seconds("create_timeout", create_timeout), self._log)
        self._ending: dict[str, _Ending] = {}
        self._is_closed = False

    def fresh(self) -> KeyHandler:
        """Return one with the same arguments, and no handlers: each node needs one of its own."""
        return self._new()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def __call__(self, envelope: Envelope) -> bytes | None:
        """
        Answer ``envelope`` with the handler of its key.

        Raises:
            MissingKeyHeaderError: It was sent by shard, not by key.
            KeyRequiredError: Its key is empty.
            OverloadedError: ``cache_size`` keys are in use.
            DrainingError: `aclose` was called.
            NotOwnerError: Its shard was released before its handler could be called.
            HandlerError: ``create`` failed; with ``maybe_executed=False``, since the message did not run.
        """
        key = required_key(envelope, is_closed=self._is_closed)
        _check_held()
        entry = self._enter(key, envelope.shard)
        try:
            handler = entry.handler
            if handler is None:
                handler = await self._made(key, entry)
                _check_held()
            return await handler(envelope)
        finally:
            self._leave(key, entry)

    async def aclose(self) -> None:
        """
        Close the handlers that are idle, and each in use as soon as it no longer is. May be called twice.

        To be called when the node has stopped, so that all are idle: those still in use are not waited for, and
        messages that come later are refused with `DrainingError`. At most ``max_stops`` close at a time, each in 30
        seconds at most, counted from its own start: one whose ``aclose`` ignores its cancellation is logged. If the
        wait is cancelled, the closing goes on, and what is not closed yet is logged.

        Raises:
            StateNotStoredError: An ``aclose`` failed, was cancelled, or has not ended, or its handler is still in use.
        """
        self._is_closed = True
        await self._close_all(list(self._entries), lambda _shard: True)

    def abort(self) -> None:
        """
        Forget every handler without closing it, as the death of the process would: for tests of crashes.

        Later messages are refused with `DrainingError`. Messages that are handled are the caller's to cancel.
        """
        self._is_closed = True
        self._idle.clear()
        self._stops.abort()
        for key, entry in list(self._entries.items()):
            entry.making.cancel()
            entry.handler = None
            if not entry.users:
                self._forget(key, entry)

    async def release_shards(self, shards: Iterable[int]) -> None:
        """
        Close the handlers of ``shards`` that are idle, and each in use as soon as it no longer is.

        Nodes call this when they have drained; those that are still in use then are not waited for. It takes as long
        as `aclose` does.

        Raises:
            StateNotStoredError: As `aclose` does.
        """
        released = frozenset(shards)
        await self._close_all(self._by_shard.of(released), released.__contains__)

    async def _close_all(self, keys: Iterable[str], is_chosen: Callable[[int], bool]) -> None:
        """Close the handlers of ``keys``, and wait for those of shards that are chosen and that close already, too."""
        chosen = {key: self._entries[key] for key in keys}
        for key, entry in chosen.items():
            entry.is_released = True
            if key in self._idle:
                self._evict(key)
            elif not entry.users:
                self._abandon(key, entry)
        in_use = [key for key, entry in chosen.items() if entry.users and hasattr(entry.handler, "aclose")]
        inside = current()
        if inside is not None and inside.envelope.key in in_use:
            in_use.remove(inside.envelope.key)  # called from its own message, which it cannot wait for
        stops = [ending.stop for ending in self._ending.values() if is_chosen(ending.shard)]
        try:
            if stops:
                await asyncio.wait([stop.over for stop in stops])
        except asyncio.CancelledError:
            log_cut_short(stops, "closing handlers", _logger)
            raise
        left = {*in_use, *not_stored(stops)}
        if left:
            raise StateNotStoredError(left)

    def _resume_idle(self) -> None:
        self._idle.resume()

    # The way of an entry: start, enter, make, leave; then idle, until it is entered again or evicted.

    def _enter(self, key: str, shard: int) -> _Entry:
        entry = self._entries.get(key) or self._start(key, shard)
        self._idle.use(key)
        entry.is_released = False
        entry.users += 1
        return entry

    def _start(self, key: str, shard: int) -> _Entry:
        self._starts.check(key)
        before = [self._ending[each].ended for each in (self._make_room(), key) if each in self._ending]
        entry = self._entries[key] = _Entry(base_context(), shard)
        self._by_shard.add(key, shard)
        start = self._starts.new(key, shard)
        try:
            entry.making = new_task(self._make(key, entry, before, start), entry.context.copy())
        except Exception as error:
            self._starts.fail(start, error)
            self._forget(key, entry)
            raise self._starts.failure(key) from error
        entry.making.add_done_callback(lambda making: self._has_made(key, entry, making), context=contextvars.Context())
        return entry

    def _make_room(self) -> str | None:
        """Give up the key that has been idle for longest, if a new one needs its place, and return it."""
        if self._cache_size is None or len(self._entries) < self._cache_size:
            return None
        key = self._idle.oldest()
        if key is None:
            raise refuse(OverloadedError("cache_size", self._cache_size))
        self._evict(key)
        return key

    async def _make(self, key: str, entry: _Entry, before: Iterable[asyncio.Future[None]], start: Start) -> None:
        try:
            for ended in before:
                await asyncio.wait((ended,))
            await self._starts.run(start, functools.partial(self._call_create, key, entry))
        except BaseException:
            self._forget(key, entry)  # whoever comes from here on tries again
            raise

    async def _call_create(self, key: str, entry: _Entry) -> None:
        made = self._create(key)
        entry.handler = _checked(await made if inspect.isawaitable(made) else made)

    def _has_made(self, key: str, entry: _Entry, making: asyncio.Task[None]) -> None:
        if not making.cancelled():
            making.exception()  # so that asyncio does not report what nobody waited for: it is logged
        if entry.handler is not None and not entry.users and self._entries.get(key) is entry and key not in self._idle:
            self._rest(key, entry)

    async def _made(self, key: str, entry: _Entry) -> Handler:
        """Wait for the handler; until then the message has not run (T7). To give up leaves the making alone."""
        inside = current()
        if inside is not None:
            inside.park()
        try:
            await asyncio.wait((entry.making,))
        finally:
            if inside is not None:
                inside.unpark()
        if entry.handler is not None:
            if inside is not None:
                inside.check_time()
            return entry.handler
        raise refuse(DrainingError(entry.shard)) if entry.making.cancelled() else self._starts.failure(key)

    def _leave(self, key: str, entry: _Entry) -> None:
        entry.users -= 1
        if entry.users:
            return
        if entry.handler is not None:
            self._rest(key, entry)
        elif not entry.making.done() and (self._is_closed or entry.is_released):
            self._abandon(key, entry)

    def _rest(self, key: str, entry: _Entry) -> None:
        self._idle.add(key)
        if self._is_closed or entry.is_released:
            self._evict(key)

    def _abandon(self, key: str, entry: _Entry) -> None:
        """Stop a making that is not to go on."""
        self._forget(key, entry)
        entry.making.cancel()
        self._end(key, entry, functools.partial(_close_made, entry, self._log))

    def _forget(self, key: str, entry: _Entry) -> None:
        if self._entries.get(key) is entry:
            del self._entries[key]
            self._by_shard.discard(key, entry.shard)

    def _evict(self, key: str) -> None:
        self._idle.remove(key)
        entry = self._entries[key]
        self._forget(key, entry)
        if hasattr(entry.handler, "aclose"):
            self._end(key, entry, functools.partial(_close, entry.handler, self._log))

    def _end(self, key: str, entry: _Entry, work: Callable[[], Awaitable[bool]]) -> None:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        before = self._ending.get(key)
        ending = self._ending[key] = _Ending(self._stops.new(key, "closed"), entry.shard, ended)
        self._stops.add(ending.stop, functools.partial(self._finish, ending, work, before), entry.context)

    async def _finish(self, ending: _Ending, work: Callable[[], Awaitable[bool]], before: _Ending | None) -> bool:
        try:
            is_stored = await work()
            if before is not None:
                await asyncio.wait((before.ended,))
                is_stored = is_stored and before.stop.is_stored
            return is_stored
        finally:
            ending.ended.set_result(None)
            if self._ending.get(ending.stop.key) is ending:
                del self._ending[ending.stop.key]


def _checked(handler: Any) -> Handler:
    if not callable(handler):
        raise TypeError(f"create must return a handler, an async function of an envelope, not {handler!r}")
    return handler  # type: ignore[no-any-return]  # its type is the caller's promise


def _check_held() -> None:
    """Refuse the message that is being handled if its shard was released."""
    inside = current()
    if inside is not None:
        inside.check_held()


async def _close_made(entry: _Entry, log: RateLimitedLog) -> bool:
    """Wait for the end of a making that was cancelled, and close what it made all the same."""
    await asyncio.wait((entry.making,))
    return await _close(entry.handler, log)


async def _close(handler: Any, log: RateLimitedLog) -> bool:
    """Call the ``aclose`` of ``handler``, if it has one, and tell whether it ended well."""
    if not hasattr(handler, "aclose"):
        return True
    return await finish(handler.aclose, f"closing a {type_name(type(handler))}", log)
