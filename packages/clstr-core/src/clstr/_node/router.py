"""Typed handlers: messages find the function that was written for their type."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, Protocol, TypeVar, overload

from clstr._messages.envelope import Envelope
from clstr._messages.hints import check_async
from clstr._messages.message import Message, message_type, type_name
from clstr._node.route import Context, checked_route, unknown_message
from clstr.abc import Handler
from clstr.errors import StateNotStoredError

R = TypeVar("R")


class Router:
    """
    A handler that gives each message to the function that was written for its type.

        router = clstr.Router()

        @router.on(GetUser)
        async def get_user(message: GetUser, context: clstr.Context) -> User:
            return await load(message.id)

        node = clstr.Node(transport, router, shards=shards)

    The class says the type on the wire and, through `Message`, the type of the reply, which type checkers hold the
    function to. A message of another type is refused with `UnknownMessageError`, which names the known ones; a payload
    that does not fit with `InvalidEnvelopeError`, which names the field. A function that returns ``None`` sends
    ``null``.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._included: list[object] = []
        self._fallback: Handler | None = None

    @property
    def message_types(self) -> frozenset[str]:
        """The types that have a function, or belong to a handler that is included; not those of the fallback."""
        return frozenset(self._handlers)

    @overload
    def on(
        self, message: type[Message[R]]
    ) -> Callable[[Callable[[Any, Context], Awaitable[R]]], Callable[[Any, Context], Awaitable[R]]]: ...
    @overload
    def on(
        self, message: type[object], *, reply: type[R]
    ) -> Callable[[Callable[[Any, Context], Awaitable[R]]], Callable[[Any, Context], Awaitable[R]]]: ...
    def on(self, message: type[Any], *, reply: Any = None) -> Any:
        """
        Return a decorator that lets an async function handle ``message``.

        Args:
            message: The class of the messages.
            reply: The type of the replies, if the class names none; ``bytes`` is sent as it is.

        Raises:
            TypeError: The class cannot be decoded, the type of its reply is not known, or the function is not async or
                takes messages of another class.
            ValueError: Another function handles messages of this name.
        """
        route_for = checked_route(message, reply)

        def register(handler: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
            self._register([message_type(message)], route_for(handler).answer)
            return handler

        return register

    def include(self, handler: TypedHandler) -> None:
        """
        Let ``handler`` answer the messages of the types that it knows now: an `ActorHandler`, or a `Router`.

        So one node hosts several kinds of actors. When the node releases shards, each is told, as the fallback is.

        Raises:
            TypeError: It is an `ActorHandler` of a function that does not tell which actors it makes.
            ValueError: One of the types has a handler already.
        """
        self._register(handler.message_types, handler)
        self._included.append(handler)

    def _register(self, types: Iterable[str], handler: Handler) -> None:
        taken = sorted(set(types) & self._handlers.keys())
        if taken:
            raise ValueError(f"messages of type {taken[0]!r} have a handler already: give the class a message_type")
        self._handlers.update(dict.fromkeys(types, handler))

    def fallback(self, handler: Handler) -> Handler:
        """
        Let ``handler``, an async function of an envelope, answer messages of every other type. A decorator.

        Raises:
            TypeError: It is not callable.
            ValueError: There is a fallback already.
        """
        if not callable(handler):
            raise TypeError(f"fallback must be an async function of an envelope, not {handler!r}")
        check_async(handler, "the fallback")
        if self._fallback is not None:
            raise ValueError("there is a fallback already")
        self._fallback = handler
        return handler

    async def __call__(self, envelope: Envelope) -> bytes | None:
        """
        Answer ``envelope`` with the function for its type.

        Raises:
            UnknownMessageError: There is none.
            InvalidEnvelopeError: Its payload does not fit.
        """
        handler = self._handlers.get(envelope.type, self._fallback)
        if handler is None:
            raise unknown_message(envelope, self._handlers)
        return await handler(envelope)

    def fresh(self) -> Router:
        """
        Return a router of the same functions, with fresh handlers of those that keep state: each node needs its own.

        Raises:
            TypeError: A handler keeps state, since it has ``release_shards``, and has no ``fresh``.
        """
        own = {id(each): new_like(each) for each in (*self._included, self._fallback)}
        made = Router()
        made._handlers = {type_: own.get(id(each), each) for type_, each in self._handlers.items()}
        made._included = [own[id(each)] for each in self._included]
        made._fallback = own[id(self._fallback)]
        return made

    def abort(self) -> None:
        """End the state that the fallback and every included handler keep, as the death of the process would."""
        for each in (*self._included, self._fallback):
            if hasattr(each, "abort"):
                each.abort()

    async def release_shards(self, shards: Iterable[int]) -> None:
        """
        Let the fallback and every included handler that keeps state release that of ``shards``, all at once.

        Raises:
            StateNotStoredError: Some of them could not store the state of some keys.
            Exception: What else one of them raised; an `ExceptionGroup` if there are several.
        """
        released = frozenset(shards)
        hooks = [getattr(each, "release_shards", None) for each in (*self._included, self._fallback)]
        calls = [hook(released) for hook in hooks if hook is not None]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        errors = _merged([outcome for outcome in outcomes if isinstance(outcome, BaseException)])
        if len(errors) > 1:
            raise BaseExceptionGroup("several handlers failed to release their state", errors)
        for error in errors:
            raise error


def new_like(handler: Any) -> Any:
    """
    Return what another node needs in the place of ``handler``: a fresh one if it keeps state, else itself.

    Raises:
        TypeError: It keeps state, since it has ``release_shards``, and has no ``fresh``.
    """
    if not hasattr(handler, "release_shards"):
        return handler
    if not hasattr(handler, "fresh"):
        text = "keeps state, and two nodes cannot share it: give it a method fresh(), or make one for each"
        raise TypeError(f"a {type_name(type(handler))} {text}")
    return handler.fresh()


def _merged(errors: list[BaseException]) -> list[BaseException]:
    """Make one error of those that say which keys' state is not stored."""
    keys = {key for error in errors if isinstance(error, StateNotStoredError) for key in error.keys}
    others = [error for error in errors if not isinstance(error, StateNotStoredError)]
    return [*others, StateNotStoredError(keys)] if keys else others


class TypedHandler(Protocol):
    """
    A handler that knows the types of its messages, for `Router.include`.

    If it keeps state, it has ``async def release_shards(shards)`` too, as handlers of nodes have.
    """

    @property
    def message_types(self) -> Collection[str]:
        """The types that it handles."""
        ...

    async def __call__(self, envelope: Envelope, /) -> bytes | None:
        """Answer ``envelope``."""
        ...
