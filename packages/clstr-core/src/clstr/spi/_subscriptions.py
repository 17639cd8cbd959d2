"""Who holds which shard of this transport, and the gate that opens and shuts with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from clstr.abc import Handler, ReleaseReport, Subscription
from clstr.errors import TransportClosedError
from clstr.spi._bounded import bounded
from clstr.spi._counters import Counters
from clstr.spi._link import Link

if TYPE_CHECKING:
    from clstr.spi._engine import Engine

UNDO_TIMEOUT = 1.0


class EngineSubscription(Subscription):
    """A handler and its shards; the engine does the work."""

    def __init__(self, engine: Engine, handler: Handler) -> None:
        self._engine = engine
        self._shards: set[int] = set()
        self.handler: Handler = handler
        self.is_closed: bool = False

    @property
    def shards(self) -> frozenset[int]:
        """The shards held now."""
        return frozenset(self._shards)

    def holds(self, shard: int) -> bool:
        """Tell whether ``shard`` is held, and the transport is not closing."""
        return shard in self._shards and not self._engine.is_closing

    def open_gate(self, shards: Iterable[int]) -> None:
        """Let messages for ``shards`` in."""
        self._shards.update(shards)

    def shut_gate(self, shards: Iterable[int]) -> None:
        """Let no more messages for ``shards`` in."""
        self._shards.difference_update(shards)

    async def add(self, shards: Iterable[int]) -> None:
        """
        Hold ``shards`` too: T4 is true of them on return.

        Raises:
            TransportClosedError: The subscription, or its transport, is closed.
        """
        await self._engine.hold(self, check_shards(shards))

    async def remove(self, shards: Iterable[int]) -> ReleaseReport:
        """Let go of ``shards``: T5 is true of them on return."""
        return await self._engine.release(self, check_shards(shards))

    async def aclose(self) -> ReleaseReport:
        """Let go of every shard (T5). May be called twice."""
        self.is_closed = True
        return await self._engine.release(self, None)


class Holders:
    """The subscriptions by shard. The link sees the first that holds a shard, and the last that lets go."""

    def __init__(self, link: Link, counters: Counters, logger: logging.Logger) -> None:
        self._link = link
        self._counters = counters
        self._logger = logger
        self._calls: set[asyncio.Future[None]] = set()
        self._removals: set[asyncio.Future[None]] = set()
        self._by_shard: dict[int, list[EngineSubscription]] = {}
        self._is_closed = False
        self._lock = asyncio.Lock()  # hold and drop of one shard must reach the link one after the other

    @property
    def shards(self) -> list[int]:
        """Every shard that is held."""
        return list(self._by_shard)

    def pick(self, shard: int) -> EngineSubscription | None:
        """Choose who gets the next message for ``shard``: of several, each in turn (T2)."""
        holders = self._by_shard.get(shard)
        if holders is None:
            return None
        if len(holders) > 1:
            self._counters.shared_shards += 1
            holders.append(holders.pop(0))
        return holders[-1]

    async def add(self, subscription: EngineSubscription, shards: frozenset[int]) -> None:
        """Let ``subscription`` hold ``shards``; on failure it holds none of them that it did not hold before."""
        async with self._lock:
            added = shards - subscription.shards
            new = sorted(added - self._by_shard.keys())
            self._check_open(subscription)
            # The gate opens first: messages may arrive before the link's confirmation does.
            self._enter(subscription, added)
            if not new:
                return
            try:
                await self._interruptible(self._link.hold(new))
                self._check_open(subscription)
                if not added <= subscription.shards:
                    raise TransportClosedError("the shards were let go of while they were being acquired")
            except BaseException:
                self._leave(subscription, added)
                await bounded(self._link.drop(new), UNDO_TIMEOUT, "undoing a subscription", self._logger)
                raise

    async def remove(self, subscription: EngineSubscription, shards: frozenset[int] | None, *, deadline: float) -> None:
        """
        Let ``subscription`` go of ``shards``, or all.

        On return its gate is shut, whatever the link did: at ``deadline``, in loop time, it is not waited for any more.
        If the caller is cancelled this goes on by itself: the link must not hold what nobody holds.
        """
        removal = asyncio.ensure_future(self._remove(subscription, shards, deadline))
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)
        await asyncio.shield(removal)

    def close(self) -> None:
        """Let nobody hold anything any more; who waits for the link to hold something gets `TransportClosedError`."""
        self._is_closed = True
        for call in self._calls:
            call.cancel()

    async def drop_all(self) -> None:
        """Stop receiving, after `close`. The gates stay open: what still arrives is refused as draining."""
        async with self._lock:
            if self._by_shard:
                await self._link.drop(sorted(self._by_shard))

    def _check_open(self, subscription: EngineSubscription) -> None:
        if self._is_closed:
            raise TransportClosedError
        if subscription.is_closed:
            raise TransportClosedError("the subscription is closed: subscribe again")

    async def _interruptible(self, call: Coroutine[Any, Any, None]) -> None:
        """Await a call to the link that `close` may end."""
        task = asyncio.ensure_future(call)
        self._calls.add(task)
        try:
            await task
        except asyncio.CancelledError:
            if self._is_closed and not _is_cancelled():
                raise TransportClosedError from None
            task.cancel()
            raise
        finally:
            self._calls.discard(task)

    async def _remove(self, subscription: EngineSubscription, shards: frozenset[int] | None, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await self._lock.acquire()
            try:
                await self._drop(self._last_of(subscription, shards), deadline)
            finally:
                self._lock.release()
        except TimeoutError:
            self._logger.warning("the link is too busy to let go of shards now: their messages are refused meanwhile")
            self._drop_later(self._last_of(subscription, shards))
        finally:
            self._leave(subscription, self._removed(subscription, shards))

    def _drop_later(self, shards: list[int]) -> None:
        later = asyncio.ensure_future(self._drop_unheld(shards))
        self._calls.add(later)
        later.add_done_callback(self._calls.discard)

    async def _drop_unheld(self, shards: list[int]) -> None:
        async with self._lock:
            unheld = [shard for shard in shards if shard not in self._by_shard]
            await self._drop(unheld, asyncio.get_running_loop().time() + UNDO_TIMEOUT)

    def _removed(self, subscription: EngineSubscription, shards: frozenset[int] | None) -> frozenset[int]:
        return subscription.shards if shards is None else shards & subscription.shards

    def _last_of(self, subscription: EngineSubscription, shards: frozenset[int] | None) -> list[int]:
        """Return the shards that nobody holds when ``subscription`` has left."""
        return sorted(shard for shard in self._removed(subscription, shards) if len(self._by_shard[shard]) == 1)

    async def _drop(self, shards: list[int], deadline: float) -> None:
        if shards and not self._is_closed:
            seconds = deadline - asyncio.get_running_loop().time()
            await bounded(self._link.drop(shards), seconds, "letting go of shards", self._logger)

    def _enter(self, subscription: EngineSubscription, shards: frozenset[int]) -> None:
        subscription.open_gate(shards)
        for shard in shards:
            self._by_shard.setdefault(shard, []).append(subscription)

    def _leave(self, subscription: EngineSubscription, shards: frozenset[int]) -> None:
        left = shards & subscription.shards
        subscription.shut_gate(left)
        for shard in left:
            holders = self._by_shard[shard]
            holders.remove(subscription)
            if not holders:
                del self._by_shard[shard]


def _is_cancelled() -> bool:
    """Tell whether the current task itself was cancelled, and not only what it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def check_shards(shards: Iterable[int]) -> frozenset[int]:
    """
    Return ``shards`` as a set.

    Raises:
        TypeError: One is not an int.
        ValueError: One is not between 0 and 2**32 - 1.
    """
    chosen = frozenset(shards)
    for shard in chosen:
        if type(shard) is not int:
            raise TypeError(f"a shard must be an int, not {shard!r}")
        if not 0 <= shard < 2**32:
            raise ValueError(f"a shard must be between 0 and {2**32 - 1}, not {shard}")
    return chosen
