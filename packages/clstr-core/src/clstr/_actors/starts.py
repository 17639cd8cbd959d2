"""Starts of what is kept for a key: each belongs to its key, not to the message that happened to come first."""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from clstr._context import Current, current, is_refusal_of, refuse, set_current
from clstr._messages.envelope import KEY_HEADER, Envelope
from clstr._rate_limited_log import RateLimitedLog
from clstr.errors import ClstrError, HandlerError

START_TIMEOUT = 30.0  # seconds: as long as a message's handler has by default
MAX_STARTS = 100  # at once, as many as messages by default: what loads state shares a pool of connections
FIRST_PAUSE = 0.1  # seconds after the second failure in a row; each further pause is twice as long
LONGEST_PAUSE = 10.0
MAX_FAILURES = 10_000  # keys whose failures are remembered, the latest: keys come from strangers
REMEMBERED = 60.0  # seconds after the pause: a key that is asked for again later begins anew


class Start(Current, eq=False, kw_only=True):
    """
    A start, for the clients that are used in it.

    Their requests carry the depth and the chain of the message that caused it: whatever awaits that message awaits the
    start too. Neither its deadline nor its headers count.

    Attributes:
        cause: The message that came first; ``None`` outside of transports.
        deadline: When the start is cancelled: loop time.
        slots: What it lends its slot of while it awaits a request.
        task: What runs it.
        refusal: Why the message that caused it needs no start, if that turned out.
    """

    slots: StartSlots
    cause: Current | None = None
    deadline: float = 0.0
    task: asyncio.Task[None] | None = None
    refusal: ClstrError | None = None

    def time_left(self) -> float:
        """Return the seconds until the start is cancelled."""
        return max(0.0, self.deadline - asyncio.get_running_loop().time())

    def holds(self) -> Callable[[int], bool]:
        """Return what the message that caused it does."""
        return super().holds() if self.cause is None else self.cause.holds()

    def belongs_to(self, owner: object) -> bool:
        """Tell whether the message that caused it came from the transport of ``owner``."""
        return self.cause is not None and self.cause.belongs_to(owner)

    def lend(self) -> None:
        """Let another start go on meanwhile."""
        self.slots.lend()

    def reclaim(self) -> None:
        """Go on, even if that exceeds the limit for a while."""
        self.slots.reclaim()


class StartSlots:
    """
    Bounds how many starts run at once, first come, first served.

    A start that awaits a request lends its slot: the answer may need another start.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._active = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for a slot."""
        if self._active < self._limit:
            self._active += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.lend()  # it was given the slot in the tick in which it was cancelled
            raise

    def lend(self) -> None:
        """Give a slot to the next one."""
        self._active -= 1
        while self._waiting and self._active < self._limit:
            place = self._waiting.popleft()
            if not place.done():
                self._active += 1
                place.set_result(None)

    def reclaim(self) -> None:
        """Take a slot back, without waiting for it."""
        self._active += 1


@dataclass(frozen=True, slots=True)
class Failure:
    """
    The last of the failures of a key's start.

    Attributes:
        error: What a message is refused with; never raised itself, so that it keeps no frames alive.
        count: How many starts have failed in a row.
        until: When the next start may begin: loop time.
    """

    error: ClstrError
    count: int
    until: float

    def refusal(self, now: float) -> ClstrError:
        """Return what refuses the message that is being handled."""
        error = copy.copy(self.error)
        pause = self.until - now
        if pause > 0 and isinstance(error, HandlerError):
            text = f"{error.error_message} ({self.count} starts failed in a row; the next begins in {pause:.2g} s)"
            error = HandlerError(error.error_type, text)
        return refuse(error)


class StartFailedError(Exception):
    """A start failed; `Starts.failure` says why. It never leaves a handler."""


class Starts:
    """
    Runs starts within their bounds, and remembers which failed.

    Args:
        what: What is started, for logs.
        timeout: Seconds that each may take, counted from when it has a slot.
        log: Is told of each failure.
    """

    def __init__(self, what: Callable[[], str], timeout: float, log: RateLimitedLog) -> None:
        self._what = what
        self._timeout = timeout
        self._log = log
        self._slots = StartSlots(MAX_STARTS)
        self._failures: OrderedDict[str, Failure] = OrderedDict()  # in the order of the last failure

    def new(self, key: str, shard: int) -> Start:
        """Return a start that the message being handled causes."""
        cause = current()
        envelope = Envelope(shard=shard, type="", headers={KEY_HEADER: key})
        if cause is None:
            return Start(envelope=envelope, slots=self._slots)
        return Start(envelope=envelope, slots=self._slots, cause=cause, depth=cause.depth, chain=cause.chain)

    def check(self, key: str) -> None:
        """
        Refuse the message being handled while starts of ``key`` pause.

        Raises:
            ClstrError: What the last start failed with.
        """
        failure = self._failures.get(key) if self._failures else None
        if failure is not None:
            now = asyncio.get_running_loop().time()
            if now < failure.until:
                raise failure.refusal(now)

    def failure(self, key: str) -> ClstrError:
        """Return what refuses the message being handled, whose start failed just now."""
        failure = self._failures.get(key)
        if failure is None:  # so many others failed since
            return refuse(HandlerError("", f"starting {self._what()} failed"))
        return failure.refusal(asyncio.get_running_loop().time())

    def fail(self, start: Start, error: Exception) -> None:
        """Note that ``start`` could not even begin: nothing runs it."""
        start.ended = True
        self._note(start.envelope.headers[KEY_HEADER], start, error, _text_of(error))

    async def run(self, start: Start, work: Callable[[], object]) -> None:
        """
        Do ``work``, sync or async, as ``start``, in the context of the current task, which it changes.

        Raises:
            StartFailedError: It failed.
            asyncio.CancelledError: The current task was cancelled.
        """
        key = start.envelope.headers[KEY_HEADER]
        await self._slots.take()
        try:
            start.deadline = asyncio.get_running_loop().time() + self._timeout
            set_current(start)
            await self._bounded(work)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._note(key, start, error, "it cancelled itself")
            raise StartFailedError from None
        except Exception as error:  # noqa: BLE001 -- user code: whatever it raises is answered and logged
            self._note(key, start, error, _text_of(error))
            raise StartFailedError from None
        finally:
            start.ended = True
            self._slots.lend()
        self._failures.pop(key, None)

    async def _bounded(self, work: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(self._timeout) as bound:
                result = work()
                if inspect.isawaitable(result):
                    await result
        except TimeoutError as error:
            if bound.expired():
                raise TimeoutError(f"it took longer than {self._timeout:g} s") from error
            raise

    def _note(self, key: str, start: Start, error: BaseException, text: str) -> None:
        now = asyncio.get_running_loop().time()
        last = self._failures.pop(key, None)
        count = 1 if last is None or now > last.until + REMEMBERED else last.count + 1
        pause = min(FIRST_PAUSE * 2 ** (count - 2), LONGEST_PAUSE) if count > 1 else 0.0
        if isinstance(error, ClstrError) and is_refusal_of(error, start):
            kept: ClstrError = copy.copy(error).with_traceback(None)
        else:
            kept = HandlerError(type(error).__name__, text)
            text = "starting %s failed, %d in a row"
            self._log.say(logging.ERROR, text, self._what(), count, kind=type(error), error=error)
        self._failures[key] = Failure(kept, count, now + pause)
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._failures:
            key, oldest = next(iter(self._failures.items()))
            if len(self._failures) <= MAX_FAILURES and now <= oldest.until + REMEMBERED:
                return
            del self._failures[key]


def _text_of(error: Exception) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 -- user code: __str__ may do anything
        return f"(its message cannot be read: {type(broken).__name__})"
