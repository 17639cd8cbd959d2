"""Actors: one object per key, one message at a time."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar, TypeVar, overload

from clstr._actors.declaration import declared, mark_route
from clstr._actors.stops import cancel_all
from clstr._context import set_current
from clstr._messages.message import Message, message_type, type_name
from clstr._node.route import Context, Route, checked_route
from clstr._rate_limited_log import RateLimitedLog
from clstr._tasks import new_task
from clstr.errors import OverloadedError

R = TypeVar("R")
Method = Callable[[Any, Any, Context], Awaitable[R]]
_logger = logging.getLogger("clstr.actor")
_log = RateLimitedLog(_logger)
MAX_TASKS = 32


class Actor:
    """
    The base of classes whose instances hold the state of one key.

        class Account(clstr.Actor):
            async def on_start(self) -> None:
                self.balance = await load(self.key)

            @clstr.handles(Deposit)
            async def deposit(self, message: Deposit, context: clstr.Context) -> Balance:
                self.balance += message.amount
                return Balance(self.balance)

        node = clstr.Node(transport, clstr.ActorHandler(Account), shards=shards)

    There is one instance per key and node, and it handles one message at a time, in order of arrival.

    Attributes:
        key: The key, set before `on_start`.
        max_tasks: How many tasks `spawn` may have running; 32 by default.
        reentrant: Whether a message may be handled while the actor awaits a request that led to it. Where it may not,
            such a message is refused with `CallCycleError`: waiting for its turn would never end. The turn is over
            when all of them have ended: other messages, and the stop, come after that.
        routes: What handles which type of message: made of the methods that `handles` decorates.
        timers: The seconds between the runs of each method that `every` decorates, by its name.
    """

    key: str
    max_tasks: ClassVar[int] = MAX_TASKS
    reentrant: ClassVar[bool] = False
    routes: ClassVar[dict[str, Route]] = {}
    timers: ClassVar[dict[str, float]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.routes, cls.timers = declared(cls)

    async def on_start(self) -> None:
        """
        Load the state. It belongs to the key: it goes on when the messages that wait for it give up.

        It has ``start_timeout`` of `ActorHandler`, 30 seconds by default, however long those messages may wait. If it
        fails, all that wait are refused with a `HandlerError` and ``maybe_executed=False``, and the actor is forgotten.
        A start that keeps failing pauses, from 0.1 to 10 seconds, in which messages are refused at once.
        """

    async def on_stop(self) -> None:
        """
        Store the state: the actor was idle, makes room, is to be restarted, or its shard is released.

        What it raises is logged; after ten seconds it is cancelled. What it spawns is cancelled when it has returned.
        """

    def on_error(self, error: Exception) -> bool:  # noqa: ARG002 -- for those who override it
        """
        Tell whether the actor is to be stopped, and started anew for the next message, because ``error`` escaped.

        It is asked for what a message's handler or periodic work raised, and when one was cut off in its midst: with
        `HandlerTimeoutError` for a message, with `TimeoutError` for periodic work. It is not asked for refusals, for
        what spawned tasks or `on_start` raise, nor for handlers that a closing transport cancels. If it raises itself,
        that is logged, and the actor is stopped.
        """
        return False

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """
        Run ``work`` beside the messages until it ends or the actor stops, which cancels it. What it raises is logged.

        It does not keep an idle actor alive. That tasks were cancelled is logged, at most once a second, as a warning.

        Raises:
            OverloadedError: ``max_tasks`` run.
            RuntimeError: The actor has stopped, or its start failed: nothing would ever cancel the task.
        """
        if self.__dict__.get("_clstr_is_over"):
            work.close()
            raise RuntimeError(f"this {type_name(type(self))} has stopped: a task of it would outlive it")
        if len(self._tasks()) >= self.max_tasks:
            work.close()
            raise OverloadedError("max_tasks", self.max_tasks)
        context = contextvars.copy_context()
        context.run(set_current, None)  # it outlives the message that it was spawned for
        task = new_task(work, context)
        self._tasks().add(task)
        task.add_done_callback(self._ended)
        return task

    def _tasks(self) -> set[asyncio.Task[None]]:
        tasks: set[asyncio.Task[None]] = self.__dict__.setdefault("_clstr_tasks", set())
        return tasks

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks().discard(task)
        if not task.cancelled() and task.exception() is not None:
            error, name = task.exception(), type_name(type(self))
            _log.say(logging.ERROR, "a task of a %s failed", name, kind=(name, type(error)), error=error)

    async def cancel_tasks(self) -> None:
        """Cancel what was spawned, and wait ten seconds at most for its end. Done before `on_stop`, and after it."""
        await cancel_tasks_of(self)


def abandon_tasks_of(actor: Actor) -> None:
    """Cancel what ``actor`` spawned for good, without waiting for its end."""
    actor.__dict__["_clstr_is_over"] = True
    for task in actor.__dict__.get("_clstr_tasks", ()):
        task.cancel()


async def cancel_tasks_of(actor: Actor, *, for_good: bool = False) -> int:
    """
    Cancel what ``actor`` spawned, wait ten seconds at most for its end, and return how many tasks that were.

    ``for_good`` it can spawn nothing any more.
    """
    if for_good:
        actor.__dict__["_clstr_is_over"] = True
    tasks = [task for task in actor.__dict__.get("_clstr_tasks", ()) if task is not asyncio.current_task()]
    await cancel_all(tasks, f"tasks of a {type_name(type(actor))}", _logger)
    return len(tasks)


@overload
def handles(message: type[Message[R]]) -> Callable[[Method[R]], Method[R]]: ...
@overload
def handles(message: type[object], *, reply: type[R]) -> Callable[[Method[R]], Method[R]]: ...
def handles(message: type[Any], *, reply: Any = None) -> Any:
    """
    Return a decorator that lets an async method of an `Actor` handle ``message``; as `Router.on`.

    Further decorators may stand above or below it, if they use `functools.wraps`; those above run too. A method may
    handle several types: give it the decorator once for each.

    Args:
        message: The class of the messages.
        reply: The type of the replies, if the class names none; ``bytes`` is sent as it is.

    Raises:
        TypeError: The class or its reply cannot be decoded, the type of its reply is not known, or the method is not
            async, does not take a message and a context, takes messages of another class, or returns another type.
        ValueError: The class's name on the wire is empty or holds control characters.
    """
    route_for = checked_route(message, reply, position=1)

    def mark(method: Any) -> Any:
        mark_route(method, message_type(message), route_for(method))
        return method

    return mark


def every(seconds: float) -> Callable[[Callable[[Any], Awaitable[None]]], Callable[[Any], Awaitable[None]]]:
    """
    Return a decorator that runs an async method of an `Actor` every so many seconds, in a turn of its own.

    The seconds are counted from the end of one run. What it raises is logged; after 30 seconds it is cancelled, so that
    messages go on. It does not keep an idle actor alive.

    Raises:
        TypeError: The method is not async.
        ValueError: ``seconds`` is not above 0.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, not {seconds!r}")

    def mark(method: Any) -> Any:
        if not inspect.iscoroutinefunction(method):
            raise TypeError(f"periodic work must be an async method, not {method!r}")
        method.clstr_every = seconds
        return method

    return mark
