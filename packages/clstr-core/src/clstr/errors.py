"""
Every error that clstr raises.

    ClstrError
    ├── TransportClosedError        (ConnectionError)   used after, or in flight during, ``aclose``
    ├── TransportUnavailableError   (ConnectionError)   no link to the broker; nothing was sent
    ├── ConnectionLostError         (ConnectionError)   the link went down under a request in flight
    ├── AuthenticationError         (PermissionError)   the broker refused the credentials
    ├── AccessDeniedError           (PermissionError)   the broker refused a right
    ├── NoShardSubscriberError      (LookupError)       nobody owns the shard
    ├── NotOwnerError               (LookupError)       the receiver does not own the shard
    ├── DrainingError               (ConnectionError)   the receiver is stopping
    ├── OverloadedError             (RuntimeError)      a bound is reached
    ├── EnvelopeExpiredError        (TimeoutError)      the TTL ran out before the handler started
    ├── HandlerTimeoutError         (TimeoutError)      the handler took too long
    ├── RequestTimeoutError         (TimeoutError)      no reply in time
    ├── HandlerError                (RuntimeError)      the handler raised
    ├── CallCycleError              (RuntimeError)      a call chain came back to a busy key
    ├── InvalidEnvelopeError        (ValueError)        a field of the envelope is wrong
    ├── ReservedHeaderError         (ValueError)        a header under ``x-clstr-``
    ├── KeyRequiredError            (ValueError)        routing by key with an empty key
    ├── MissingKeyHeaderError       (ValueError)        a keyed handler got a message without a key
    ├── UnknownMessageError         (LookupError)       no handler for the message type
    ├── PayloadTooLargeError        (ValueError)        the data exceeds the limit
    ├── InvalidReplyError           (ValueError)        the reply cannot be decoded
    ├── NodeIdInUseError            (RuntimeError)      another live node has the id
    ├── StateNotStoredError         (RuntimeError)      a node or handler stopped, and state of keys is not stored
    └── PluginError                 (RuntimeError)
        ├── UnknownSchemeError      (LookupError)       no installed distribution provides the scheme
        ├── PluginConflictError                         two distributions provide one scheme
        ├── PluginImportError       (ImportError)       the plugin cannot be imported
        └── PluginApiError                              the plugin was written for another plugin API

Each carries its facts as attributes, a wire ``code`` that never changes, and ``maybe_executed``: may the handler have
run? ``False`` proves that it did not, so the message is safe to send again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Self

from clstr._text import printable

_NAMED_KEYS = 10  # in the text: a node may have thousands
Fact = str | int | float | bool


class ClstrError(Exception):
    """
    The base of every error in clstr.

    Attributes:
        code: The error's name on the wire, part of the protocol; empty for errors that never travel.
        facts: The attributes that travel with the error, each with its type.
        maybe_executed: Whether the handler may have run. The class attribute is the default; an instance may differ.
    """

    code: ClassVar[str] = ""
    facts: ClassVar[dict[str, type[Fact]]] = {}
    maybe_executed: bool = False

    def __init__(self, message: str, *, maybe_executed: bool | None = None) -> None:
        super().__init__(message)
        if maybe_executed is not None:
            self.maybe_executed = maybe_executed

    def __str__(self) -> str:
        # Part of it may come from a stranger: a peer's answer, a message's type, a header's name.
        return printable(super().__str__())

    def details(self) -> dict[str, Fact]:
        """Return the facts by name, as they travel on the wire."""
        return {name: getattr(self, name) for name in self.facts}

    @classmethod
    def restore(cls, message: str, attributes: dict[str, Any]) -> Self:
        """Build an error from its message and attributes, past ``__init__``: for the wire and for pickle."""
        error = cls.__new__(cls)
        Exception.__init__(error, message)
        error.__dict__.update(attributes)
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        # What `clstr.spi.refuse` stamped on it belongs to this process.
        attributes = {name: value for name, value in self.__dict__.items() if name != "_refused"}
        return type(self).restore, (str(self), attributes)


class TransportClosedError(ClstrError, ConnectionError):
    """The transport was closed before or while it was used. ``maybe_executed`` only if the request was in flight."""

    code = "closed"

    def __init__(self, message: str = "transport closed: connect again", *, maybe_executed: bool = False) -> None:
        super().__init__(message, maybe_executed=maybe_executed)


class TransportUnavailableError(ClstrError, ConnectionError):
    """There is no link to the broker, and nothing was sent."""


class ConnectionLostError(ClstrError, ConnectionError):
    """The link was lost while the request was in flight: the handler may or may not have run."""

    maybe_executed = True


class AuthenticationError(ClstrError, PermissionError):
    """The broker refused the credentials."""


class AccessDeniedError(ClstrError, PermissionError):
    """The broker refused a right that the operation needs; the message names it."""


class NoShardSubscriberError(ClstrError, LookupError):
    """
    Nobody owns the shard.

    Attributes:
        shard: The shard without an owner.
    """

    code = "no_subscriber"
    facts: ClassVar[dict[str, type[Fact]]] = {"shard": int}

    def __init__(self, shard: int) -> None:
        super().__init__(f"no subscriber for shard {shard}: start a node that owns it, or check num_shards and seed")
        self.shard = shard


class NotOwnerError(ClstrError, LookupError):
    """
    The receiver does not own the shard (any more); the message did not run.

    Attributes:
        shard: The shard in question.
    """

    code = "not_owner"
    facts: ClassVar[dict[str, type[Fact]]] = {"shard": int}

    def __init__(self, shard: int) -> None:
        super().__init__(f"the receiver does not own shard {shard}: send it again, its owner is changing")
        self.shard = shard


class DrainingError(ClstrError, ConnectionError):
    """
    The receiver is stopping and takes no new work; the message did not run.

    Attributes:
        shard: The shard that the message was for.
    """

    code = "draining"
    facts: ClassVar[dict[str, type[Fact]]] = {"shard": int}

    def __init__(self, shard: int) -> None:
        super().__init__(f"the owner of shard {shard} is draining: try again once another node owns it")
        self.shard = shard


class OverloadedError(ClstrError, RuntimeError):
    """
    A bound is reached; the message did not run.

    Attributes:
        limit: The name of the bound, as in `clstr.Limits` or in the constructor that set it.
        bound: Its value: bytes, seconds or a count, as its name says.
    """

    code = "overloaded"
    facts: ClassVar[dict[str, type[Fact]]] = {"limit": str, "bound": float}

    def __init__(self, limit: str, bound: float) -> None:
        super().__init__(f"overloaded: {limit}={bound} is reached; slow down, or raise the limit")
        self.limit = limit
        self.bound = bound


class EnvelopeExpiredError(ClstrError, TimeoutError):
    """
    The message could not be run within its TTL: it ran out before the start, or too little of it was left for the run.

    Attributes:
        shard: The shard that the message was for.
        ttl: The TTL that it had, in seconds.
    """

    code = "expired"
    facts: ClassVar[dict[str, type[Fact]]] = {"shard": int, "ttl": float}

    def __init__(self, shard: int, ttl: float) -> None:
        super().__init__(
            f"envelope TTL expired: shard {shard} could not run it within its {ttl:g} s; its owner is busy, or it was "
            "sent late"
        )
        self.shard = shard
        self.ttl = ttl


class HandlerTimeoutError(ClstrError, TimeoutError):
    """
    The handler did not finish in time and was cancelled.

    Attributes:
        shard: The shard that the message was for.
        timeout: The seconds that the handler had.
    """

    code = "handler_timeout"
    facts: ClassVar[dict[str, type[Fact]]] = {"shard": int, "timeout": float}
    maybe_executed = True

    def __init__(self, shard: int, timeout: float) -> None:
        super().__init__(f"handler exceeded deadline: {timeout:g} s on shard {shard}; raise handler_timeout or the ttl")
        self.shard = shard
        self.timeout = timeout


class RequestTimeoutError(ClstrError, TimeoutError):
    """
    No reply arrived in time. ``maybe_executed`` unless nothing was written.

    Attributes:
        shard: The shard that was asked.
        timeout: The seconds that the caller waited.
        reason: What the transport knows of the cause, such as something else that answered; often empty.
    """

    maybe_executed = True

    def __init__(self, shard: int, timeout: float, reason: str = "", *, maybe_executed: bool = True) -> None:
        message = f"no reply from shard {shard} within {timeout:g} s"
        super().__init__(f"{message}: {reason}" if reason else message, maybe_executed=maybe_executed)
        self.shard = shard
        self.timeout = timeout
        self.reason = reason


class HandlerError(ClstrError, RuntimeError):
    """
    The handler raised an exception, or returned something that is not a reply.

    Attributes:
        error_type: The name of the exception's type on the node; empty if a peer sent text alone, or the node hides it.
        error_message: Its message, at most 1 KiB; empty if the node tells the type alone.
    """

    code = "handler_error"
    facts: ClassVar[dict[str, type[Fact]]] = {"error_type": str, "error_message": str}
    maybe_executed = True

    def __init__(self, error_type: str, error_message: str) -> None:
        super().__init__(": ".join(part for part in (error_type, error_message) if part))
        self.error_type = error_type
        self.error_message = error_message


class CallCycleError(ClstrError, RuntimeError):
    """
    A call chain came back to a key that is busy with it; waiting would never end.

    Attributes:
        chain: The keys of the chain, joined by ``" -> "``.
    """

    code = "call_cycle"
    facts: ClassVar[dict[str, type[Fact]]] = {"chain": str}

    def __init__(self, chain: str) -> None:
        super().__init__(f"the call chain {chain} comes back to a busy key; use notify, or let the actor be reentrant")
        self.chain = chain


class InvalidEnvelopeError(ClstrError, ValueError):
    """
    A field of the envelope is missing, malformed or out of its bounds.

    Attributes:
        field: The field's name.
        reason: What is wrong with it.
    """

    code = "invalid_envelope"
    facts: ClassVar[dict[str, type[Fact]]] = {"field": str, "reason": str}

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"invalid envelope: {field} {reason}")
        self.field = field
        self.reason = reason


class ReservedHeaderError(ClstrError, ValueError):
    """
    A header name begins with ``x-clstr-``, in any case.

    Attributes:
        header: The header's name.
    """

    code = "reserved_header"
    facts: ClassVar[dict[str, type[Fact]]] = {"header": str}

    def __init__(self, header: str) -> None:
        super().__init__(f"cannot set reserved header {header!r}: the names under 'x-clstr-' are clstr's own")
        self.header = header


class KeyRequiredError(ClstrError, ValueError):
    """Routing by key needs a key that is not empty."""

    code = "key_required"

    def __init__(self, message: str = "key is required: routing by key needs a non-empty string") -> None:
        super().__init__(message)


class MissingKeyHeaderError(ClstrError, ValueError):
    """A keyed handler got a message without the header ``x-clstr-key``."""

    code = "missing_key_header"

    def __init__(self, message: str = "missing x-clstr-key header: send by key, not by shard") -> None:
        super().__init__(message)


class UnknownMessageError(ClstrError, LookupError):
    """
    The node has no handler for the message type.

    Attributes:
        message_type: The type that arrived.
        known: The types that the node handles, joined by ``", "``.
    """

    code = "unknown_message"
    facts: ClassVar[dict[str, type[Fact]]] = {"message_type": str, "known": str}

    def __init__(self, message_type: str, known: str) -> None:
        super().__init__(f"no handler registered for message type {message_type!r}; known: {known or 'none'}")
        self.message_type = message_type
        self.known = known


class PayloadTooLargeError(ClstrError, ValueError):
    """
    The data of a request (nothing was sent) or of a reply (the handler ran) exceeds the limit.

    Attributes:
        size: The size of the data, in bytes.
        max_bytes: How many bytes would pass; if the broker's limit is what counts, beside this message's headers.
    """

    code = "too_large"
    facts: ClassVar[dict[str, type[Fact]]] = {"size": int, "max_bytes": int}

    def __init__(
        self, size: int, max_bytes: int, *, is_reply: bool = False, setting: str = "max_payload_bytes"
    ) -> None:
        what = "reply" if is_reply else "payload"
        advice = f"send less, or raise {setting}" if setting else "send less: the broker carries no more"
        super().__init__(
            f"the {what} has {size} bytes, the limit is {max_bytes}: {advice}",
            maybe_executed=is_reply,
        )
        self.size = size
        self.max_bytes = max_bytes


class InvalidReplyError(ClstrError, ValueError):
    """The reply cannot be decoded, or is not of the expected type; the handler ran."""

    maybe_executed = True


class NodeIdInUseError(ClstrError, RuntimeError):
    """
    A node did not start, since another live one has its id and holds its shards.

    Attributes:
        node_id: The id.
        shard: A shard that the other one holds.
    """

    def __init__(self, node_id: str, shard: int) -> None:
        super().__init__(
            f"node id {node_id!r} is in use: another node of that id holds shard {shard}; "
            "stop that one first, or give this one an id of its own"
        )
        self.node_id = node_id
        self.shard = shard


class StateNotStoredError(ClstrError, RuntimeError):
    """
    Shards were released, or a handler closed, and the state of some keys is not stored.

    An `on_stop` or ``aclose`` of theirs failed, was cancelled, or has not ended; the log says which. The state of all
    other keys is stored.

    Attributes:
        keys: Those keys, in alphabetical order.
    """

    maybe_executed = True  # messages that changed the state have been answered

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys: tuple[str, ...] = tuple(sorted(keys))
        named = ", ".join(map(repr, self.keys[:_NAMED_KEYS]))
        more = len(self.keys) - _NAMED_KEYS
        named += f" and {more} more" if more > 0 else ""
        count = f"{len(self.keys)} key{'' if len(self.keys) == 1 else 's'}"
        super().__init__(f"the state of {count} is not stored: {named}; the log says what failed")


class PluginError(ClstrError, RuntimeError):
    """A transport plugin cannot be used."""


class UnknownSchemeError(PluginError, LookupError):
    """
    No installed distribution provides the URL scheme.

    Attributes:
        scheme: The scheme that was asked for.
    """

    def __init__(self, scheme: str, message: str) -> None:
        super().__init__(message)
        self.scheme = scheme


class PluginConflictError(PluginError):
    """
    Several installed distributions provide one URL scheme.

    Attributes:
        scheme: The scheme.
        distributions: The names of the distributions that claim it, sorted.
    """

    def __init__(self, scheme: str, distributions: tuple[str, ...]) -> None:
        names = " and ".join(distributions)
        super().__init__(f"{names} provide the same scheme {scheme!r}: uninstall all but one")
        self.scheme = scheme
        self.distributions = distributions


class PluginImportError(PluginError, ImportError):
    """
    A plugin, or the driver that it needs, cannot be imported.

    Attributes:
        distribution: The distribution that provides the plugin.
    """

    def __init__(self, distribution: str, message: str) -> None:
        super().__init__(message)
        self.distribution = distribution


class PluginApiError(PluginError):
    """
    A plugin was written for another version of the plugin API, or does not follow it.

    Attributes:
        distribution: The distribution that provides the plugin.
    """

    def __init__(self, distribution: str, message: str) -> None:
        super().__init__(message)
        self.distribution = distribution


__all__ = [
    "AccessDeniedError",
    "AuthenticationError",
    "CallCycleError",
    "ClstrError",
    "ConnectionLostError",
    "DrainingError",
    "EnvelopeExpiredError",
    "HandlerError",
    "HandlerTimeoutError",
    "InvalidEnvelopeError",
    "InvalidReplyError",
    "KeyRequiredError",
    "MissingKeyHeaderError",
    "NoShardSubscriberError",
    "NodeIdInUseError",
    "NotOwnerError",
    "OverloadedError",
    "PayloadTooLargeError",
    "PluginApiError",
    "PluginConflictError",
    "PluginError",
    "PluginImportError",
    "RequestTimeoutError",
    "ReservedHeaderError",
    "StateNotStoredError",
    "TransportClosedError",
    "TransportUnavailableError",
    "UnknownMessageError",
    "UnknownSchemeError",
]
