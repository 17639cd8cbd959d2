"""The client: keys and shards to messages on a transport."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from clstr._client.redelivery import Redelivery
from clstr._client.scoped_client import ScopedClient
from clstr._client.send_options import SendOptions
from clstr._client.sender import Destination, Sender
from clstr._messages.envelope import has_control_characters
from clstr._node.metrics import Metrics
from clstr._node.middleware import Middleware, check_middleware
from clstr._routing.hashing import shard_for_key
from clstr._routing.shards import check_shard
from clstr.abc import ClientTransport
from clstr.errors import KeyRequiredError


class Client:
    """
    Routes messages to the nodes that own their keys or shards. Go: ``Client``.

    Used inside a handler, a client inherits from the message being handled: no request waits longer than the handler
    may still run (a TTL stays as given), and the headers ``traceparent``, ``tracestate``, ``baggage`` and ``trace-id``
    are passed on unless the client or the call has its own. A client holds nothing that needs closing.

    Args:
        transport: What carries the messages.
        num_shards: The cluster's number of shards, 1 to 2**32 - 1. Clients and nodes must agree on it.
        seed: The cluster's seed. Clients and nodes must agree on it.
        headers: Sent with every message: text by name, at most 64 and 8 KiB. Names under ``x-clstr-`` are reserved.
        ttl: Seconds in which a node may start and run a message; ``None`` is no limit.
        timeout: Seconds that a request waits for its reply, and that a notify has to be on its way.
        metrics: Receives measurements.
        middleware: Functions around the sending of every message, the first outermost; see `Middleware`. What follows
            the last is the transport; a notify is answered with ``b""``.
        retry_undelivered: Whether messages that were refused for a passing reason (`NoShardSubscriberError`,
            `NotOwnerError`, `DrainingError`, `OverloadedError`, `TransportUnavailableError`) are sent again until their
            ``timeout``, after pauses that grow from 10 milliseconds to 1 second and are spread by chance. Only what
            certainly did not run is: each message still runs at most once. Order is not kept between a message that
            is sent again and later ones.

    Raises:
        InvalidEnvelopeError: A header's name or value is malformed.
        ReservedHeaderError: A header's name begins with ``x-clstr-``.
        TypeError: An argument has the wrong type.
        ValueError: ``num_shards`` is out of its bounds, ``ttl`` or ``timeout`` is not finite and above 0, or ``seed``
            holds control characters.
    """

    def __init__(
        self,
        transport: ClientTransport,
        *,
        num_shards: int,
        seed: str = "",
        headers: Mapping[str, str] | None = None,
        ttl: float | None = None,
        timeout: float = 5.0,
        metrics: Metrics | None = None,
        middleware: Iterable[Middleware] = (),
        retry_undelivered: bool = False,
    ) -> None:
        if not isinstance(transport, ClientTransport):
            raise TypeError(
                f"transport must be an open transport, not {type(transport).__name__}: write "
                "`async with clstr.connect(url) as transport:`"
            )
        shard_for_key("", num_shards, seed)  # checks both
        self._num_shards = num_shards
        self._seed = seed
        carrier = Redelivery(transport) if retry_undelivered else transport
        self._sender = Sender(carrier, metrics, check_middleware(middleware))
        self._options = SendOptions.of(headers, ttl, timeout)

    def key(
        self,
        key: str,
        *,
        headers: Mapping[str, str] | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> ScopedClient:
        """
        Return a client for the owner of ``key``; its messages carry the key. Go: ``Client.Key``.

        Args:
            key: Text without control characters.
            headers: Text by name, added to the client's.
            ttl: Seconds in which a node may start and run a message; ``None`` is as the client was told.
            timeout: Seconds that a request waits; ``None`` is as the client was told.

        Raises:
            KeyRequiredError: The key is empty.
            TypeError: The key is not a ``str``, or another argument has the wrong type.
            ValueError: The key holds control characters or lone surrogates, or another argument is out of its bounds.
        """
        return ScopedClient(self._sender, self._owner_of(key), self._options.override(headers, ttl, timeout))

    def shard(
        self,
        shard: int,
        *,
        headers: Mapping[str, str] | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> ScopedClient:
        """
        Return a client for the owner of ``shard``. Go: ``Client.Shard``.

        Its messages carry no key, so keyed handlers refuse them with `MissingKeyHeaderError`.

        Args:
            shard: ``0 <= shard < num_shards``.
            headers: Text by name, added to the client's.
            ttl: Seconds in which a node may start and run a message; ``None`` is as the client was told.
            timeout: Seconds that a request waits; ``None`` is as the client was told.

        Raises:
            TypeError: The shard is not an int, or another argument has the wrong type.
            ValueError: The shard, or another argument, is out of its bounds.
        """
        to = Destination(check_shard(shard, self._num_shards))
        return ScopedClient(self._sender, to, self._options.override(headers, ttl, timeout))

    async def request_key(
        self,
        key: str,
        type: str,  # noqa: A002 -- as in Envelope
        data: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """
        Send bytes to the owner of ``key`` and return the bytes of the reply. Go: ``Client.RequestKey``.

        The message carries the key in the header ``x-clstr-key``, which clstr-go does not set.

        Args:
            key: Text without control characters.
            type: The message type's name, at most 256 characters.
            data: The payload.
            headers: Text by name, added to the client's.
            ttl: Seconds in which a node may start and run the message; ``None`` is as the client was told.
            timeout: Seconds to wait for the reply; ``None`` is as the client was told.

        Raises:
            KeyRequiredError: The key is empty.
            InvalidEnvelopeError: The type, the data or a header is malformed or too large.
            ReservedHeaderError: A header's name begins with ``x-clstr-``.
            NoShardSubscriberError: Nobody owns the key's shard.
            RequestTimeoutError: No reply in time; with ``maybe_executed=False`` if the message being handled has no
                time left, so that nothing was sent.
            HandlerError: The handler raised.
            ClstrError: Anything else of the transport contract, see `clstr.abc`.
            TypeError: An argument has the wrong type.
            ValueError: The key holds control characters, or ``ttl`` or ``timeout`` is not finite and above 0.
        """
        options = self._options.override(headers, ttl, timeout)
        return await self._sender.request(self._owner_of(key), type, data, options)

    async def notify_key(
        self,
        key: str,
        type: str,  # noqa: A002 -- as in Envelope
        data: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> None:
        """
        Send bytes to the owner of ``key`` without a reply. Go: ``Client.NotifyKey``.

        It returns when the message is on its way to a live owner; what becomes of it is not reported. clstr-go waits
        for the handler.

        Args:
            key: Text without control characters.
            type: The message type's name, at most 256 characters.
            data: The payload.
            headers: Text by name, added to the client's.
            ttl: Seconds in which a node may start and run the message; ``None`` is as the client was told. Neither
                ``timeout`` nor the message being handled shortens it.
            timeout: Seconds in which the message must be on its way; ``None`` is as the client was told.

        Raises:
            KeyRequiredError: The key is empty.
            NoShardSubscriberError: Nobody owns the key's shard.
            RequestTimeoutError: It was not known to be on its way in time.
            ClstrError: As in `request_key`, but for what the handler does.
            TypeError: An argument has the wrong type.
            ValueError: An argument is out of its bounds.
        """
        options = self._options.override(headers, ttl, timeout)
        await self._sender.notify(self._owner_of(key), type, data, options)

    async def request_shard(
        self,
        shard: int,
        type: str,  # noqa: A002 -- as in Envelope
        data: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """
        Send bytes to the owner of ``shard`` and return those of the reply. Go: ``Client.RequestShard``.

        Everything but the shard is as in `request_key`.

        Args:
            shard: ``0 <= shard < num_shards``.
            type: The message type's name, at most 256 characters.
            data: The payload.
            headers: Text by name, added to the client's.
            ttl: Seconds in which a node may start and run the message; ``None`` is as the client was told.
            timeout: Seconds to wait for the reply; ``None`` is as the client was told.

        Raises:
            TypeError: The shard is not an int, or another argument has the wrong type.
            ValueError: The shard, or another argument, is out of its bounds.
            ClstrError: As in `request_key`.
        """
        to = Destination(check_shard(shard, self._num_shards))
        return await self._sender.request(to, type, data, self._options.override(headers, ttl, timeout))

    async def notify_shard(
        self,
        shard: int,
        type: str,  # noqa: A002 -- as in Envelope
        data: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> None:
        """
        Send bytes to the owner of ``shard`` without a reply. Go: ``Client.NotifyShard``.

        Everything but the shard is as in `notify_key`.

        Args:
            shard: ``0 <= shard < num_shards``.
            type: The message type's name, at most 256 characters.
            data: The payload.
            headers: Text by name, added to the client's.
            ttl: Seconds in which a node may start and run the message; ``None`` is as the client was told.
            timeout: Seconds in which the message must be on its way; ``None`` is as the client was told.

        Raises:
            TypeError: The shard is not an int, or another argument has the wrong type.
            ValueError: The shard, or another argument, is out of its bounds.
            ClstrError: As in `notify_key`.
        """
        to = Destination(check_shard(shard, self._num_shards))
        await self._sender.notify(to, type, data, self._options.override(headers, ttl, timeout))

    def _owner_of(self, key: str) -> Destination:
        if type(key) is not str or not key or not key.isprintable():  # in line: this runs for every message
            check_key(key)
        return Destination(shard_for_key(key, self._num_shards, self._seed), key)


def check_key(key: str) -> None:
    """Raise `TypeError`, `KeyRequiredError` or `ValueError` unless messages can be routed by ``key``."""
    if not isinstance(key, str):
        raise TypeError(f"key must be a str, not {type(key).__name__}")
    if not key:
        raise KeyRequiredError
    if not key.isprintable() and has_control_characters(key):  # nearly all are printable
        raise ValueError("the key holds control characters or lone surrogates: use printable text")
