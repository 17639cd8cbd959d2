"""
Admission: which messages run now, which wait, and which are refused.

A message takes a slot when its handler's task starts and frees it when that task has really ended. While the handler
awaits a request it lends the slot, so that what it waits for can run (T6); messages sent from inside a handler wait in
a queue of their own that is served first. Without both, nested requests deadlock as soon as the slots are full.

No handler starts whose answer would wait behind too many others (`AnswerBudget`). Messages of a destination that does
not take its answers are set aside, so that those of others pass them.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine, Hashable, Iterator
from typing import Any

from clstr._context import is_refusal_of, set_current
from clstr._limits import Limits
from clstr._messages.envelope import Envelope
from clstr.errors import ClstrError, EnvelopeExpiredError, OverloadedError
from clstr.spi._answer_budget import AnswerBudget
from clstr.spi._answers import Answers
from clstr.spi._changes import Changes
from clstr.spi._deadlines import GRANULARITY, Deadlines
from clstr.spi._delivery import Delivery
from clstr.spi._loop_lag import LoopLag
from clstr.spi._run_times import RunTimes
from clstr.spi._set_aside import Queue, SetAside

# So many messages from outside may start beyond the number of slots, on slots that others have lent. Each may fan out,
# and what all of them ask for at once has to fit the queue of nested messages: hence not as many as would find a slot.
SPARE = 4

NOTHING = Envelope(shard=0, type="")

Selector = Callable[[Delivery], bool]


class Dispatcher:
    """Runs the handlers of one transport within its limits."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        deadlines: Deadlines,
        answers: Answers,
        *,
        budget: AnswerBudget,
        destination_of: Callable[[object], Hashable],
        lag: LoopLag,
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._deadlines = deadlines
        self._answers = answers
        self._budget = budget
        self._destination_of = destination_of
        self._lag = lag
        # Handlers start in the context of `connect`, not in that of whatever callback read their message.
        self._context = contextvars.copy_context()
        self._context.run(set_current, None)
        self._outer = Queue()
        self._nested = Queue()
        self._aside = SetAside()
        # Bytes of messages that wait for a slot or have lent theirs: from outside, and nested.
        self._held_bytes = {False: 0, True: 0}
        self._running: set[Delivery] = set()
        self._active = 0
        self._suspended = 0
        self._outer_running = 0
        self._max_suspended = 2 * max(limits.max_queue, limits.max_concurrent)
        self._wake_scheduled = False
        self._settlers = Changes(loop)
        self._run_times = RunTimes()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that handlers run on."""
        return self._loop

    @property
    def context(self) -> contextvars.Context:
        """The context of `connect`, without a message. Every handler runs in a copy."""
        return self._context

    @property
    def active(self) -> int:
        """Handlers that hold a slot."""
        return self._active

    @property
    def suspended(self) -> int:
        """Handlers that have lent their slot."""
        return self._suspended

    @property
    def waiting(self) -> int:
        """Messages that wait for a slot."""
        return len(self._outer) + len(self._nested) + sum(self._aside.count.values())

    @property
    def waiting_bytes(self) -> int:
        """The bytes of these messages."""
        return sum(self._held_bytes.values())

    # A message's way: admit -> (wait) -> start -> run -> end.

    def admit(self, delivery: Delivery) -> None:
        """Start the message, or let it wait, or refuse it. Never blocks."""
        queue = self._queue_of(delivery)
        is_blocked = bool(self._budget.blocked) and self._is_blocked(delivery)
        if not (queue or is_blocked) and self._has_slot(delivery):
            self._start(delivery)
            return
        limits, is_nested = self._limits, delivery.depth > 0
        if len(queue) + self._aside.count[is_nested] >= limits.max_queue or self._suspended >= self._max_suspended:
            self._answers.refuse(delivery, OverloadedError("max_queue", limits.max_queue))
        elif self._held_bytes[is_nested] + delivery.size > limits.max_queue_bytes:
            self._answers.refuse(delivery, OverloadedError("max_queue_bytes", limits.max_queue_bytes))
        else:
            self._enqueue(queue, delivery)
            if is_blocked:
                self._aside.put(self._destination_of(delivery.to), delivery)

    def _queue_of(self, delivery: Delivery) -> Queue:
        return self._nested if delivery.depth else self._outer

    def _has_slot(self, delivery: Delivery) -> bool:
        if self._active >= self._limits.max_concurrent or self._budget.is_full:
            return False
        # Where nested messages may not start they are refused: if they waited, everybody might wait for them.
        if delivery.depth:
            return self._suspended < self._max_suspended
        fits = self._outer_running < self._limits.max_concurrent + SPARE and self._suspended < self._max_suspended
        return fits and not self._nested

    def _enqueue(self, queue: Queue, delivery: Delivery) -> None:
        queue[delivery] = None
        delivery.queue = queue
        self._held_bytes[delivery.depth > 0] += delivery.size
        if delivery.envelope.ttl_ms:
            delivery.tick = self._deadlines.add(delivery.deadline, delivery)

    def _dequeue(self, delivery: Delivery) -> None:
        if delivery.queue is self._outer or delivery.queue is self._nested:
            del delivery.queue[delivery]
        else:
            self._aside.remove(delivery)
        delivery.queue = None
        self._held_bytes[delivery.depth > 0] -= delivery.size
        if delivery.tick:
            self._deadlines.discard(delivery.tick, delivery)
            delivery.tick = 0

    def _start(self, delivery: Delivery) -> None:
        now = self._loop.time()
        # It was read with others whose handlers have blocked the loop, or has waited for a slot: the wheel may be 10 ms
        # late, a busy loop later.
        if now >= delivery.deadline or (now - delivery.since > GRANULARITY and self._is_too_late(delivery)):
            self._answers.refuse(delivery, expired(delivery))
            self._settlers.wake()
            return
        delivery.timeout = min(self._limits.handler_timeout, delivery.deadline - now)
        delivery.deadline = now + delivery.timeout
        delivery.since = now
        self._active += 1
        self._outer_running += not delivery.depth
        self._running.add(delivery)
        if not self._lag.is_armed:
            self._lag.arm()
        running, envelope = self._run(delivery), delivery.envelope
        try:
            task = self._new_task(running)
        except Exception as error:  # noqa: BLE001 -- a task factory is user code; whatever it raises, the slot comes back
            running.close()
            self._answers.handler_raised(delivery, error)
            self._loop.call_soon(self.end, delivery)
            return
        if delivery.begun:  # its first step ran inside of `_new_task`
            self._lag.stepped(envelope, self._loop.time() - now)
        if delivery.ended:  # already: its handler never waited
            return
        delivery.tick = self._deadlines.add(delivery.deadline, delivery)
        delivery.task = task
        if not delivery.begun:  # cancelled before its first step, the task would end without a word
            task.add_done_callback(delivery.ended_by)

    def _new_task(self, running: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin at once if that can be: most handlers never wait, and then the loop has nothing to do for them."""
        context = self._context.copy()
        if sys.version_info >= (3, 12) and self._loop.get_task_factory() is None:
            return asyncio.Task(running, loop=self._loop, context=context, eager_start=True)
        return self._loop.create_task(running, context=context)

    async def _run(self, delivery: Delivery) -> None:
        delivery.begun = True
        if delivery.task is not None:  # this is not inside of `_start`: other callbacks may have blocked the loop
            delivery.task.remove_done_callback(delivery.ended_by)
            # Only a TTL refuses it here: how long a handler may take says nothing of how late it may begin.
            if delivery.deadline <= self._loop.time() and delivery.timeout < self._limits.handler_timeout:
                self._answers.refuse(delivery, expired(delivery))
                self.end(delivery)
                return
        set_current(delivery)
        try:
            answer = delivery.subscription.handler(delivery.envelope)
            if not hasattr(answer, "__await__"):
                raise TypeError("the handler is not async: write `async def`")
            result = await answer
        except BaseException as error:  # noqa: BLE001 -- this task ends here, and its sender is told why
            if isinstance(error, Exception) and not is_refusal_of(error, delivery):
                self._note_run(delivery)
            self._answers.handler_raised(delivery, error)
            if not isinstance(error, (Exception, asyncio.CancelledError)):
                # The program is to stop; the link that may have called this is not to break on the way.
                self._loop.call_soon(_raise, error)
        else:
            self._note_run(delivery)
            self._answers.handler_returned(delivery, result)
        finally:  # the task's last step; a done callback would cost another turn of the loop for each message
            self.end(delivery)

    def _note_run(self, delivery: Delivery) -> None:
        now = self._loop.time()
        self._run_times.ended(delivery.envelope.type, now - delivery.since, now)

    def end(self, delivery: Delivery) -> None:
        """Free the slot of a message whose task has ended."""
        delivery.ended = True
        if delivery.lent:
            self._suspended -= 1
            self._held_bytes[delivery.depth > 0] -= delivery.size
        else:
            self._active -= 1
        self._outer_running -= not delivery.depth and not delivery.parked
        self._running.discard(delivery)
        if delivery.tick:
            self._deadlines.discard(delivery.tick, delivery)
        if not delivery.answered:  # cancelled before its first step
            self._answers.handler_raised(delivery, asyncio.CancelledError())
        delivery.task = None  # its context holds this delivery: a cycle
        self._lag.recent[delivery.envelope.type] = delivery.envelope.shard
        delivery.envelope = NOTHING  # tasks that the handler left behind keep this delivery, but need not its payload
        if self._outer or self._nested:
            self._wake()
        if self._settlers:
            self._settlers.wake()

    def _start_waiting(self) -> None:
        self._wake_scheduled = False
        for queue in (self._nested, self._outer):
            while queue and self._has_slot(delivery := next(iter(queue))):
                if self._budget.blocked and self._is_blocked(delivery):
                    self._aside.put(self._destination_of(delivery.to), delivery)
                else:
                    self._dequeue(delivery)
                    self._start(delivery)

    # Destinations that do not take their answers.

    def resume(self) -> None:
        """Start what waited because answers could not leave: there is room for more of them."""
        self._aside.put_back(self._budget.blocked, self._outer, self._nested)
        self._wake()

    def _is_blocked(self, delivery: Delivery) -> bool:
        to = None if delivery.oneway else delivery.to
        return to is not None and self._destination_of(to) in self._budget.blocked

    # Slots that are lent.

    def lend(self, delivery: Delivery) -> None:
        """Give the slot of ``delivery`` to others, until as many calls of `reclaim`."""
        delivery.lent += 1
        if delivery.lent == 1 and not delivery.ended:
            self._active -= 1
            self._suspended += 1
            self._held_bytes[delivery.depth > 0] += delivery.size
            self._wake()

    def reclaim(self, delivery: Delivery) -> None:
        """Take the slot back, even if that exceeds the limit for a while: nothing starts until it fits again."""
        delivery.lent -= 1
        if delivery.lent == 0 and not delivery.ended:
            self._active += 1
            self._suspended -= 1
            self._held_bytes[delivery.depth > 0] -= delivery.size
            self._wake()  # where too many were suspended, one more may start now

    def park(self, delivery: Delivery) -> None:
        """Lend the slot of a message that waits for its turn: until then it asks for nothing, and counts for little."""
        delivery.parked += 1
        if delivery.parked == 1 and not delivery.ended:
            delivery.parked_at = self._loop.time()
            self._outer_running -= not delivery.depth
        self.lend(delivery)

    def unpark(self, delivery: Delivery) -> None:
        """Undo one `park`."""
        delivery.parked -= 1
        if delivery.parked == 0 and not delivery.ended:
            delivery.since += self._loop.time() - delivery.parked_at
            self._outer_running += not delivery.depth
        self.reclaim(delivery)

    def _wake(self) -> None:
        """Start what waits, but not here: with eager tasks the next handler would run inside of this one."""
        if (self._outer or self._nested) and not self._wake_scheduled:
            self._wake_scheduled = True
            self._loop.call_soon(self._start_waiting)

    # Deadlines.

    def time_left(self, delivery: Delivery) -> float:
        """Return the seconds until the deadline of ``delivery``."""
        return max(0.0, delivery.deadline - self._loop.time())

    def expire(self, delivery: Delivery) -> None:
        """End a message whose deadline is over: refuse it if it waits, cancel it if it runs."""
        if delivery.ended:  # in this very tick
            return
        if delivery not in self._running:
            self._refuse_waiting(delivery, expired(delivery))
        elif delivery.has_run:
            self._cancel(delivery)
        else:
            self._refuse_unbegun(delivery, self._waited_too_long(delivery))

    def too_late(self, delivery: Delivery) -> ClstrError | None:
        """Return what refuses a message that has a task and has waited, if its handler could not end in time."""
        return self._waited_too_long(delivery) if self._is_too_late(delivery) else None

    def _is_too_late(self, delivery: Delivery) -> bool:
        """Tell whether a message that has waited is not to start: its time is over, or will be before it ends."""
        now = self._loop.time()
        left = delivery.deadline - now
        return left <= 0 or left < self._run_times.needed(delivery.envelope.type, now)

    def _waited_too_long(self, delivery: Delivery) -> ClstrError:
        """Say which bound ended the wait of a message that has a task: its TTL, or that of every handler."""
        if delivery.timeout < self._limits.handler_timeout:
            return expired(delivery)
        return OverloadedError("handler_timeout", self._limits.handler_timeout)

    def _cancel(self, delivery: Delivery) -> None:
        now = self._loop.time()
        self._run_times.cut_off(delivery.envelope.type, now - delivery.since, now)
        self._answers.handler_timed_out(delivery)
        self._cancel_task(delivery)

    def _cancel_task(self, delivery: Delivery) -> None:
        self._deadlines.discard(delivery.tick, delivery)
        if delivery.task is not None:
            delivery.task.cancel()

    # Draining.

    async def settle(self, selects: Selector, deadline: float) -> bool:
        """Wait until no message that ``selects`` chooses waits or runs; return ``False`` at ``deadline``."""
        while concerned := [delivery for delivery in self._open() if selects(delivery)]:
            while concerned:  # a walk over all that are open, at each end of one, would cost their square
                if not (self._is_open(concerned[-1]) and selects(concerned[-1])):
                    concerned.pop()
                elif self._loop.time() >= deadline or not await self._settlers.wait(deadline):
                    return False
        return True

    def begin_close(self, delivery: Delivery) -> None:
        """Note that ``delivery`` closes something itself: nobody who settles waits for it, and it lends its slot."""
        delivery.closing += 1
        self.lend(delivery)
        self._settlers.wake()

    def end_close(self, delivery: Delivery) -> None:
        """Undo one `begin_close`."""
        delivery.closing -= 1
        self.reclaim(delivery)

    def refuse_waiting(self, selects: Selector, new_error: Callable[[Delivery], ClstrError]) -> int:
        """Refuse the messages that ``selects`` chooses and whose handlers have not run; return how many."""
        waiting = [delivery for queue in self._queues() for delivery in queue if selects(delivery)]
        for delivery in waiting:
            self._refuse_waiting(delivery, new_error(delivery))
        unbegun = [each for each in self._running if not (each.has_run or each.answered) and selects(each)]
        for delivery in unbegun:
            self._refuse_unbegun(delivery, new_error(delivery))
        return len(waiting) + len(unbegun)

    def _refuse_waiting(self, delivery: Delivery, error: ClstrError) -> None:
        self._dequeue(delivery)
        self._answers.refuse(delivery, error)
        self._settlers.wake()

    def _refuse_unbegun(self, delivery: Delivery, error: ClstrError) -> None:
        """Refuse a message that has a task, but whose handler has not run: not begun, or waiting for its turn."""
        self._answers.refuse(delivery, error)
        self._cancel_task(delivery)

    def cancel_running(self, selects: Selector) -> int:
        """Cancel the handlers that have run and that ``selects`` chooses; return how many."""
        chosen = [delivery for delivery in self._running if delivery.has_run and selects(delivery)]
        now = self._loop.time()
        for delivery in chosen:
            delivery.timeout -= max(0.0, delivery.deadline - now)  # what it was really given
            self._cancel(delivery)
        return len(chosen)

    def revoke(self, selects: Selector) -> list[Delivery]:
        """Keep the handlers that run and that ``selects`` chooses from what they have not reached; return them."""
        chosen = [delivery for delivery in self._running if selects(delivery)]
        for delivery in chosen:
            delivery.is_revoked = True
        return chosen

    def running(self) -> list[Delivery]:
        """Return the messages whose handlers have started and not ended."""
        return list(self._running)

    def is_running(self) -> bool:
        """Tell whether a handler runs whose deadline is not over; one that ignores its cancellation does not count."""
        now = self._loop.time()
        return any(delivery.deadline > now for delivery in self._running)

    def _open(self) -> Iterator[Delivery]:
        yield from self._running
        for queue in self._queues():
            yield from queue

    def _is_open(self, delivery: Delivery) -> bool:
        return delivery in self._running or delivery.queue is not None

    def _queues(self) -> Iterator[Queue]:
        yield self._nested
        yield self._outer
        yield from self._aside.queues()


def _raise(error: BaseException) -> None:
    raise error


def expired(delivery: Delivery) -> EnvelopeExpiredError:
    """Say that ``delivery`` did not start within its TTL."""
    return EnvelopeExpiredError(delivery.envelope.shard, delivery.envelope.ttl_ms / 1000)
