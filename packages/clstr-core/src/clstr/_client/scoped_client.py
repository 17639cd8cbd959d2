"""A client that always talks to one key or one shard."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any, TypeVar, overload

import msgspec

from clstr._client.send_options import SendOptions
from clstr._client.sender import Destination, Sender
from clstr._messages.message import MAX_TYPES, Message, message_type, reply_type, type_name
from clstr._messages.node_info import NODE_INFO_REQUEST, NODE_INFO_TYPE, NodeInfo, decode_node_info
from clstr._messages.payload import check_reply_type, decode_reply, encode

R = TypeVar("R")


class ScopedClient(msgspec.Struct, eq=False):
    """
    Sends typed messages to one key or one shard. Made by `Client.key` and `Client.shard`.

    Every method takes ``headers`` (added to the client's), ``ttl`` and ``timeout``, both in seconds and finite and
    above 0; what is left out is as `Client.key` or `Client.shard` was told, or else as the client was. Messages are
    sent as JSON. Go: ``ScopedClient``.
    """

    _sender: Sender
    _to: Destination
    _options: SendOptions

    def __repr__(self) -> str:
        return f"ScopedClient(shard={self.shard}, key={self.key!r})"

    @property
    def shard(self) -> int:
        """The shard that messages go to."""
        return self._to.shard

    @property
    def key(self) -> str | None:
        """The key that messages go to, or ``None`` if they go to a shard."""
        return self._to.key

    @overload
    async def request(
        self,
        message: Message[R],
        *,
        headers: Mapping[str, str] | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> R: ...
    @overload
    async def request(
        self,
        message: object,
        *,
        reply: type[R],
        headers: Mapping[str, str] | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> R: ...
    @overload
    async def request(
        self,
        message: object,
        *,
        reply: types.UnionType,
        headers: Mapping[str, str] | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> Any: ...
    async def request(
        self,
        message: object,
        *,
        reply: Any = None,
        headers: Mapping[str, str] | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> Any:
        """
        Send ``message`` and wait for its reply. Go: ``ScopedClient.Request``.

        Args:
            message: A msgspec struct, dataclass, attrs object or pydantic model. Its class names its type on the wire,
                and through `Message` the type of its reply.
            reply: The reply's type, if the message's class names none or another one is wanted; ``bytes`` is the reply
                as it is.
            headers: Text by name, added to the client's.
            ttl: Seconds in which a node may start and run the message; by default as for `Client.key`.
            timeout: Seconds to wait for the reply; by default as for `Client.key`.

        Returns:
            The reply, decoded and checked.

        Raises:
            TypeError: The message, or the type of its reply, is not known or has no encoding; nothing was sent.
            ValueError: ``ttl`` or ``timeout`` is not finite and above 0, or the message cannot be encoded.
            InvalidReplyError: The reply is not of the expected type; the handler ran.
            ClstrError: What `Client.request_key` raises.
        """
        cls = message if isinstance(message, type) else type(message)
        expected, name = _expected_reply(cls, reply)
        options = self._options.override(headers, ttl, timeout)
        answer = await self._sender.request(self._to, name, encode(message), options)
        return decode_reply(answer, expected)

    async def notify(
        self,
        message: object,
        *,
        headers: Mapping[str, str] | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> None:
        """
        Send ``message`` and return when it is on its way to its owner. Go: ``ScopedClient.Notify``.

        clstr-go waits for the handler; this does not, and never learns what became of the message.

        Args:
            message: As in `request`.
            headers: Text by name, added to the client's.
            ttl: Seconds in which a node may start and run the message; by default as for `Client.key`.
            timeout: Seconds in which it must be on its way, by default as for `Client.key`; they do not shorten
                ``ttl``.

        Raises:
            TypeError: The message has no encoding.
            ValueError: ``ttl`` or ``timeout`` is not finite and above 0, or the message cannot be encoded.
            ClstrError: What `Client.notify_key` raises.
        """
        options = self._options.override(headers, ttl, timeout)
        await self._sender.notify(self._to, message_type(message), encode(message), options)

    async def get_node_info(
        self,
        *,
        headers: Mapping[str, str] | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> NodeInfo:
        """
        Ask the owner of the key or shard who it is. Go: ``ScopedClient.GetNodeInfo``.

        Args:
            headers: Text by name, added to the client's.
            ttl: Seconds in which a node may start to answer; by default as for `Client.key`.
            timeout: Seconds to wait for the answer; by default as for `Client.key`.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: ``ttl`` or ``timeout`` is not finite and above 0.
            InvalidReplyError: The answer describes no node.
            ClstrError: What `Client.request_key` raises.
        """
        options = self._options.override(headers, ttl, timeout)
        answer = await self._sender.request(self._to, NODE_INFO_TYPE, NODE_INFO_REQUEST, options)
        return decode_node_info(answer)


@functools.lru_cache(maxsize=MAX_TYPES)
def _expected_reply(cls: type, reply: Any) -> tuple[Any, str]:
    """Return the type of the reply to messages of ``cls``, and their name on the wire."""
    expected = reply_type(cls) if reply is None else reply
    if expected is None:
        name = type_name(cls)
        raise TypeError(
            f"the type of the reply to {name} is not known: let {name} derive from clstr.Message[ReplyType], or pass "
            "reply=ReplyType (reply=bytes for the reply as it is)"
        )
    check_reply_type(expected)
    return expected, message_type(cls)
