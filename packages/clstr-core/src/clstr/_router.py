"""Typed handlers: messages find the function that was written for their type."""

from __future__ import annotations

import asyncio
import inspect
import logging
import types
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, get_type_hints, overload

from clstr._context import current, current_node_id, refuse
from clstr._envelope import Envelope
from clstr._message import Message, message_type, reply_type, type_name
from clstr._payload import check_reply_type, decode_request, encode
from clstr.abc import Handler
from clstr.errors import InvalidEnvelopeError, UnknownMessageError

R = TypeVar("R")
_logger = logging.getLogger("clstr.handler")


@dataclass(frozen=True, slots=True)
class Context:
    """
    What a typed handler knows of its message, beside the message itself.

    Attributes:
        envelope: The message as it arrived.
        node_id: The node that handles it; empty outside of nodes.
    """

    envelope: Envelope
    node_id: str = ""

    @property
    def key(self) -> str | None:
        """The key that the message was routed by, or ``None`` if it was sent by shard."""
        return self.envelope.key

    @property
    def shard(self) -> int:
        """The shard that the message was sent to."""
        return self.envelope.shard

    @property
    def headers(self) -> Mapping[str, str]:
        """The message's headers."""
        return self.envelope.headers

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """The logger ``clstr.handler``, whose records carry the node, the shard and the message's type."""
        facts = {"clstr_node": self.node_id, "clstr_shard": self.shard, "clstr_type": self.envelope.type}
        return logging.LoggerAdapter(_logger, facts)

    def time_left(self) -> float | None:
        """Return the seconds until the handler is cancelled, at least 0, or ``None`` outside of a transport."""
        inside = current()
        return None if inside is None else inside.time_left()


@dataclass(frozen=True, slots=True)
class Route:
    """
    A function for one type of message.

    Attributes:
        message: The class that payloads are decoded as.
        reply: The type of the reply; ``bytes`` is sent as it is.
        handler: Gets the message and its context.
    """

    message: Any
    reply: Any
    handler: Callable[..., Awaitable[Any]]

    async def answer(self, envelope: Envelope) -> bytes | None:
        """Decode, handle, encode."""
        return await self.run(self.decode(envelope), envelope)

    def decode(self, envelope: Envelope) -> Any:
        """Return the message; what cannot be decoded is refused."""
        try:
            return decode_request(envelope.data, self.message)
        except InvalidEnvelopeError as error:
            raise refuse(error) from error

    async def run(self, message: Any, envelope: Envelope, *target: object) -> bytes | None:
        """
        Handle ``message``, and encode the reply.

        Args:
            message: What `decode` returned.
            envelope: What it came in.
            target: The object whose method the handler is, if it is one.
        """
        result = await self.handler(*target, message, Context(envelope, current_node_id()))
        return result if self.reply is bytes else encode(result)


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
        Let ``handler`` answer the messages of the types that it knows now: an `ActorHandler` of a class, or a `Router`.

        So one node hosts several kinds of actors. When the node releases shards, each is told, as the fallback is.

        Raises:
            TypeError: It is an `ActorHandler` of a function, whose types are not known.
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

    async def release_shards(self, shards: Iterable[int]) -> None:
        """
        Let the fallback and every included handler that keeps state release that of ``shards``, all at once.

        Raises:
            Exception: What one of them raised; an `ExceptionGroup` if there are several.
        """
        released = frozenset(shards)
        hooks = [getattr(each, "release_shards", None) for each in (*self._included, self._fallback)]
        calls = [hook(released) for hook in hooks if hook is not None]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if len(errors) > 1:
            raise BaseExceptionGroup("several handlers failed to release their state", errors)
        for error in errors:
            raise error


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


def unknown_message(envelope: Envelope, known: Iterable[str]) -> UnknownMessageError:
    """Refuse ``envelope``, whose type is none of the ``known`` ones."""
    return refuse(UnknownMessageError(envelope.type, ", ".join(sorted(known))))


def checked_route(
    message: type[Any], reply: Any, *, position: int = 0
) -> Callable[[Callable[[Any, Context], Awaitable[Any]]], Route]:
    """
    Check what can be checked of a route before its function is known, and return what makes it.

    Args:
        message: The class of the messages.
        reply: The type of the replies, or ``None`` if the class names it.
        position: Which of the function's parameters gets the message.
    """
    if not isinstance(message, type):
        raise TypeError(f"on() takes the class of the messages, not {message!r}")
    expected = reply_type(message) if reply is None else reply
    if expected is None:
        name = type_name(message)
        raise TypeError(f"the type of the reply to {name} is not known: derive from clstr.Message[...] or pass reply=")
    message_type(message)
    check_reply_type(message)

    def make(handler: Callable[[Any, Context], Awaitable[Any]]) -> Route:
        if not inspect.iscoroutinefunction(handler):
            raise TypeError(f"the handler of {type_name(message)} must be an async function, not {handler!r}")
        annotation = _annotation(handler, position)
        if not _takes(annotation, message):
            raise TypeError(f"{handler.__qualname__} takes a {type_name(annotation)}, which no {type_name(message)} is")
        return Route(message, expected, handler)

    return make


def _annotation(handler: Callable[..., Any], position: int) -> Any:
    """Return the annotation of a parameter, or ``None`` if there is none, or it cannot be resolved here."""
    function: Any = inspect.unwrap(handler)
    try:
        hint = list(inspect.signature(function).parameters.values())[position].annotation
        holder = types.SimpleNamespace(__annotations__={"message": hint})
        return None if hint is inspect.Parameter.empty else get_type_hints(holder, function.__globals__)["message"]
    except Exception:  # noqa: BLE001 -- a hint is a program, often for type checkers alone: anything may come of it
        return None


def _takes(annotation: Any, message: type[Any]) -> bool:
    """Tell whether a parameter may get a ``message``: what is no plain class is left to type checkers."""
    if not isinstance(annotation, type) or annotation is Any:
        return True
    try:
        return issubclass(message, annotation)
    except TypeError:  # a protocol that is not for run time
        return True
