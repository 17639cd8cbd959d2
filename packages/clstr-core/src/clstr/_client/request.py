"""A request as a function from one type to another."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from clstr._client.scoped_client import ScopedClient
from clstr._messages.message import message_type, type_name
from clstr._messages.payload import check_reply_type

IN = TypeVar("IN")
OUT = TypeVar("OUT")


class Request(Generic[IN, OUT]):
    """
    Sends one kind of message to one place and returns one kind of reply. Go: ``Request[IN, OUT]``.

        get_user = clstr.Request(client.key("user-123"), GetUser, User)
        user = await get_user(GetUser("123"))

    It suits messages whose class does not derive from `Message`, and code that is to be given a function.

    Args:
        client: Where the messages go.
        message: The class of the messages.
        reply: The type of the replies; ``bytes`` for replies as they are.

    Raises:
        TypeError: ``message`` has no name on the wire, or ``reply`` cannot be decoded.
        ValueError: The name on the wire is empty or holds control characters.
    """

    __slots__ = ("_client", "_message", "_reply")

    def __init__(self, client: ScopedClient, message: type[IN], reply: type[OUT]) -> None:
        origin = typing.get_origin(message) or message
        if not isinstance(origin, type):
            raise TypeError(f"message must be the class of the messages, not {message!r}")
        message_type(origin)
        check_reply_type(reply)
        self._client = client
        self._message: type[Any] = origin
        self._reply = reply

    def __repr__(self) -> str:
        return f"Request({self._client!r}, {type_name(self._message)}, {type_name(self._reply)})"

    async def __call__(
        self,
        message: IN,
        *,
        headers: Mapping[str, str] | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> OUT:
        """
        Send ``message`` and return its reply; see `ScopedClient.request`.

        Raises:
            TypeError: ``message`` is of another class.
        """
        if not isinstance(message, self._message):
            raise TypeError(f"message must be a {type_name(self._message)}, not a {type_name(type(message))}")
        return await self._client.request(message, reply=self._reply, headers=headers, ttl=ttl, timeout=timeout)
