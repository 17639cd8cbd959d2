"""A handler per key: made on the key's first message, kept while it is used, closed when another needs its place."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from types import TracebackType
from typing import Any, Self

from clstr._context import Current, current, is_refusal_of, refuse, set_current
from clstr._envelope import Envelope
from clstr._idle_keys import IdleKeys
from clstr._keys import required_key
from clstr._limits import check_seconds
from clstr._message import type_name
from clstr._stops import STOP_TIMEOUT, finish
from clstr.abc import Handler
from clstr.errors import ClstrError, OverloadedError

_logger = logging.getLogger("clstr.key_handler")


class _Entry:
    """
    A key's handler, or the making of it.

    Attributes:
        cause: The message that it is made for.
        handler: The handler, once it is made.
        is_released: Whether it is given up when it is no longer used: its shard was released.
        making: The task that makes it.
        shard: The shard of its key.
        users: Messages that use it or wait for it.
    """

    __slots__ = ("cause", "handler", "is_released", "making", "shard", "users")

    making: asyncio.Task[Handler]

    def __init__(self, cause: Current | None, shard: int) -> None:
        self.cause = cause
        self.handler: Handler | None = None
        self.is_released = False
        self.shard = shard
        self.users = 0


class KeyHandler:
    """
    A handler that gives each key a handler of its own. Go: ``NewKeyHandler``.

        async def create(key: str) -> clstr.Handler:
            return Account(await load(key))  # its ``__call__`` takes an envelope

        async with clstr.KeyHandler(create) as handler, clstr.Node(transport, handler, shards=shards):
            ...

    The messages of a key are not serialised: they run at once, on one handler. However many come first together,
    ``create`` is called once; if it raises, each of them gets the error, and the next message tries again. It goes on
    when the message that it was called for is cancelled, as long as another waits for it; a client that it uses
    inherits from that first message, though, deadline included.

    The handler of a key in use is never given up. When ``cache_size`` is reached, the one that has been idle for
    longest makes room: its ``aclose()``, if it has one, sync or async, is called and awaited before the new one is
    made. So it is with one that has been idle for ``idle_after`` seconds, and with those of a shard that the node
    releases. What it raises is logged, and after ten seconds it is cancelled. There are never two handlers of one key,
    not even while one of them closes.

    Args:
        create: Called with a key; returns its handler, or an awaitable of it.
        cache_size: Handlers kept, those in use included; ``None`` is no limit.
        idle_after: Seconds without a message after which a handler is closed; ``None``, the default, is never.

    Raises:
        TypeError: ``create`` is not callable, ``cache_size`` is not an int, or ``idle_after`` not a number.
        ValueError: ``cache_size`` is below 1, or ``idle_after`` is not finite and above 0.
    """

    def __init__(
        self,
        create: Callable[[str], Handler | Awaitable[Handler]],
        cache_size: int | None = 1024,
        *,
        idle_after: float | None = None,
    ) -> None:
        if not callable(create):
            raise TypeError(f"create must be a function that takes a key and returns a handler, not {create!r}")
        _check_cache_size(cache_size)
        self._create = create
        self._cache_size = cache_size
        self._entries: dict[str, _Entry] = {}
        self._idle = IdleKeys(None if idle_after is None else check_seconds("idle_after", idle_after), self._evict)
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._is_closed = False

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
            TypeError: ``create`` returned no handler.
        """
        key = required_key(envelope, is_closed=self._is_closed)
        _check_held()
        entry = self._enter(key, envelope.shard)
        try:
            handler = entry.handler
            if handler is None:
                handler = await _made(entry)
                _check_held()
            return await handler(envelope)
        finally:
            self._leave(key, entry)

    async def aclose(self) -> None:
        """
        Close the handlers that are idle, and each in use as soon as it no longer is. May be called twice.

        To be called when the node has stopped, so that all are idle: those still in use are not waited for, and
        messages that come later are refused with `DrainingError`. It waits 30 seconds at most: a handler whose
        ``aclose`` ignores its cancellation is logged.
        """
        self._is_closed = True
        for key in list(self._idle):
            self._evict(key)
        await _wait_for(list(self._ending.values()))

    async def release_shards(self, shards: Iterable[int]) -> None:
        """
        Close the handlers of ``shards`` that are idle, and each in use as soon as it no longer is.

        Nodes call this when they have drained; those that are still in use then are not waited for. It waits 30 seconds
        at most, as `aclose` does.
        """
        released = frozenset(shards)
        concerned = [key for key, entry in self._entries.items() if entry.shard in released]
        for key in concerned:
            self._entries[key].is_released = True
            if key in self._idle:
                self._evict(key)
        await _wait_for([self._ending[key] for key in concerned if key in self._ending])

    # The way of an entry: start, enter, make, leave; then idle, until it is entered again or evicted.

    def _enter(self, key: str, shard: int) -> _Entry:
        entry = self._entries.get(key) or self._start(key, shard)
        self._idle.use(key)
        entry.is_released = False
        entry.users += 1
        return entry

    def _start(self, key: str, shard: int) -> _Entry:
        before = [self._ending[each] for each in (self._make_room(), key) if each in self._ending]
        entry = self._entries[key] = _Entry(current(), shard)
        entry.making = asyncio.create_task(self._make(key, entry, before))
        entry.making.add_done_callback(_mark_retrieved)
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

    async def _make(self, key: str, entry: _Entry, before: Iterable[asyncio.Task[None]]) -> Handler:
        try:
            for task in before:
                await asyncio.wait((task,))
            made = self._create(key)
            entry.handler = _checked(await made if inspect.isawaitable(made) else made)
        except BaseException:
            self._forget(key, entry)  # whoever comes from here on tries again
            raise
        return entry.handler

    def _leave(self, key: str, entry: _Entry) -> None:
        entry.users -= 1
        if entry.users:
            return
        if not entry.making.done():
            self._forget(key, entry)
            self._end(key, functools.partial(_abandon, entry.making))
        elif entry.handler is not None:
            self._idle.add(key)
            if self._is_closed or entry.is_released:
                self._evict(key)

    def _forget(self, key: str, entry: _Entry) -> None:
        if self._entries.get(key) is entry:
            del self._entries[key]

    def _evict(self, key: str) -> None:
        self._idle.remove(key)
        handler = self._entries.pop(key).handler
        if hasattr(handler, "aclose"):
            self._end(key, functools.partial(_close, handler))

    def _end(self, key: str, work: Callable[[], Awaitable[None]]) -> None:
        context = contextvars.copy_context()
        context.run(set_current, None)  # it is not done for the message that happened to cause it
        ending = asyncio.create_task(self._finish(key, work, self._ending.get(key)), context=context)
        if not ending.done():  # as it is at once where tasks are eager, if nothing had to be waited for
            self._ending[key] = ending

    async def _finish(self, key: str, work: Callable[[], Awaitable[None]], before: asyncio.Task[None] | None) -> None:
        await work()
        if before is not None:
            await asyncio.wait((before,))
        if self._ending.get(key) is asyncio.current_task():
            del self._ending[key]


def _check_cache_size(cache_size: object) -> None:
    if cache_size is None:
        return
    if not isinstance(cache_size, int) or isinstance(cache_size, bool):
        raise TypeError(f"cache_size must be an int, or None for no limit, not {cache_size!r}")
    if cache_size < 1:
        raise ValueError(f"cache_size must be at least 1, or None for no limit, not {cache_size}")


def _checked(handler: Any) -> Handler:
    if not callable(handler):
        raise TypeError(f"create must return a handler, an async function of an envelope, not {handler!r}")
    return handler  # type: ignore[no-any-return]  # its type is the caller's promise


def _check_held() -> None:
    """Refuse the message that is being handled if its shard was released."""
    inside = current()
    if inside is not None:
        inside.check_held()


def _mark_retrieved(making: asyncio.Task[Handler]) -> None:
    """Keep asyncio from reporting an error that nobody waited for: every message that it concerned was cancelled."""
    if not making.cancelled():
        making.exception()


async def _made(entry: _Entry) -> Handler:
    """Wait for the handler, the slot lent meanwhile (T6). Cancelling the wait leaves the making alone."""
    inside = current()
    if inside is not None:
        inside.lend()
    try:
        await asyncio.wait((entry.making,))
    finally:
        if inside is not None:
            inside.reclaim()
    error = entry.making.exception()
    if error is not None:
        raise _for_this_message(error, entry.cause)
    return entry.making.result()


def _for_this_message(error: BaseException, cause: Current | None) -> BaseException:
    """Return what a message is told of a failed making: what refused its cause refuses this message too."""
    if cause is not None and isinstance(error, ClstrError) and is_refusal_of(error, cause):
        return refuse(copy.copy(error))
    return error


async def _abandon(making: asyncio.Task[Handler]) -> None:
    """Stop a making that nobody waits for any more."""
    making.cancel()
    await asyncio.wait((making,))
    if making.cancelled():
        return
    error = making.exception()
    if error is None:
        await _close(making.result())
    else:
        _logger.error("making a handler failed when it was cancelled", exc_info=error)


async def _close(handler: Any) -> None:
    """Call the ``aclose`` of ``handler``, if it has one."""
    if hasattr(handler, "aclose"):
        await finish(handler.aclose, f"closing a {type_name(type(handler))}", _logger)


async def _wait_for(endings: Collection[asyncio.Task[None]]) -> None:
    """Wait until ``endings`` are done, or it is clear that something keeps them that no cancellation ends."""
    if not endings:
        return
    _, late = await asyncio.wait(endings, timeout=3 * STOP_TIMEOUT)
    if late:
        text = "%d handlers have not closed within %g s: their aclose, or create, ignores its cancellation"
        _logger.error(text, len(late), 3 * STOP_TIMEOUT)
