"""Typed handlers: messages find the function that was written for their type."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, overload

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

    async def answer(self, envelope: Envelope, *target: object) -> bytes | None:
        """
        Decode, handle, encode. What cannot be decoded is refused, before any of the user's code runs.

        Args:
            envelope: The message.
            target: The object whose method the handler is, if it is one.
        """
        try:
            message = decode_request(envelope.data, self.message)
        except InvalidEnvelopeError as error:
            raise refuse(error) from error
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
        self._routes: dict[str, Route] = {}
        self._fallback: Handler | None = None

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
            TypeError: The class cannot be decoded, the type of its reply is not known, or the function is not async.
            ValueError: Another function handles messages of this name.
        """
        route_for = checked_route(message, reply)

        def register(handler: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
            name = message_type(message)
            if name in self._routes:
                raise ValueError(f"messages of type {name!r} have a handler already: give the class a message_type")
            self._routes[name] = route_for(handler)
            return handler

        return register

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
        route = self._routes.get(envelope.type)
        if route is not None:
            return await route.answer(envelope)
        if self._fallback is not None:
            return await self._fallback(envelope)
        raise refuse(UnknownMessageError(envelope.type, ", ".join(sorted(self._routes))))


def checked_route(message: type[Any], reply: Any) -> Callable[[Callable[[Any, Context], Awaitable[Any]]], Route]:
    """Check what can be checked of a route before its function is known, and return what makes it."""
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
        return Route(message, expected, handler)

    return make
