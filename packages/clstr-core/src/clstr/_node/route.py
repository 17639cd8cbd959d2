"""Functions for messages of one type: what they are given, and how their messages and replies travel."""

from __future__ import annotations

import inspect
import logging
import types
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, get_type_hints

import msgspec

from clstr._context import current, current_node_id, refuse
from clstr._messages.envelope import Envelope
from clstr._messages.hints import annotation, classes_of, is_never
from clstr._messages.message import message_type, reply_type, type_name
from clstr._messages.payload import check_reply_type, decode_reply, decode_request, encode
from clstr.errors import InvalidEnvelopeError, InvalidReplyError, UnknownMessageError

_logger = logging.getLogger("clstr.handler")


class _Logger(logging.LoggerAdapter[logging.Logger]):
    """Adds to what the caller gives as ``extra``, which the base would replace."""

    def process(self, msg: object, kwargs: MutableMapping[str, Any]) -> tuple[object, MutableMapping[str, Any]]:
        return msg, {**kwargs, "extra": {**(kwargs.get("extra") or {}), **(self.extra or {})}}


class Context(msgspec.Struct, frozen=True):
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
        """The logger ``clstr.handler``, whose records carry the node, the shard, the message's type, and ``extra``."""
        facts = {"clstr_node": self.node_id, "clstr_shard": self.shard, "clstr_type": self.envelope.type}
        return _Logger(_logger, facts)

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
        classes: What its results are instances of, if that is known.
    """

    message: Any
    reply: Any
    handler: Callable[..., Awaitable[Any]]
    classes: tuple[type, ...] | None = None

    async def answer(self, envelope: Envelope) -> bytes | None:
        """Decode, handle, encode."""
        return self.encode(await self.handler(self.decode(envelope), self.context(envelope)))

    def decode(self, envelope: Envelope) -> Any:
        """Return the message; what cannot be decoded is refused."""
        try:
            return decode_request(envelope.data, self.message)
        except InvalidEnvelopeError as error:
            raise refuse(error) from error

    def context(self, envelope: Envelope) -> Context:
        """Return what the handler gets beside the message."""
        return Context(envelope, current_node_id())

    def encode(self, result: Any) -> bytes | None:
        """
        Return the reply's payload.

        Raises:
            TypeError: The handler returned something else than it declares, which the sender could not read.
        """
        if self.reply is bytes:
            return result  # type: ignore[no-any-return]  # the node checks it
        if self.classes is None or isinstance(result, self.classes):
            return encode(result)
        return self._encode_other(result)

    def _encode_other(self, result: Any) -> bytes:
        """Encode what is of another type: a dict may say the same as a struct, so ask whether it can be read."""
        payload = encode(result)
        try:
            decode_reply(payload, self.reply)
        except InvalidReplyError as error:
            name, given = getattr(self.handler, "__qualname__", self.handler), type_name(type(result))
            raise TypeError(f"{name} returned a {given}, not a {type_name(self.reply)}") from error
        return payload


Call = tuple[Route, Any]  # the function for a message, and the message, decoded


def find(routes: Mapping[str, Route], envelope: Envelope) -> Call:
    """Return the function for ``envelope`` and its message; refuse it if there is none, or it cannot be decoded."""
    route = routes.get(envelope.type)
    if route is None:
        raise unknown_message(envelope, routes)
    return route, route.decode(envelope)


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
    if expected is not bytes:
        check_reply_type(expected)

    def make(handler: Callable[[Any, Context], Awaitable[Any]]) -> Route:
        if not inspect.iscoroutinefunction(handler):
            raise TypeError(f"the handler of {type_name(message)} must be an async function, not {handler!r}")
        taken = _annotation(handler, position)
        if not _takes(taken, message):
            raise TypeError(f"{handler.__qualname__} takes a {type_name(taken)}, which no {type_name(message)} is")
        _check_parameters(handler, position)
        _check_returned(handler, message, expected)
        return Route(message, expected, handler, classes_of(expected))

    return make


def _check_parameters(handler: Callable[..., Any], position: int) -> None:
    try:
        signature = inspect.signature(handler)
    except ValueError:  # it has none that is known
        return
    try:
        signature.bind(*[None] * (position + 2))
    except TypeError as error:
        example = "self, message, context" if position else "message, context"
        raise TypeError(f"{handler.__qualname__} must take ({example}), not {signature}") from error


def _check_returned(handler: Callable[..., Any], message: Any, expected: Any) -> None:
    returned = annotation(handler, "return")
    if is_never(returned, bytes | None if expected is bytes else expected):
        raise TypeError(
            f"{handler.__qualname__} returns {type_name(returned)}, but the reply to {type_name(message)} is "
            f"{type_name(expected)}"
        )


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
