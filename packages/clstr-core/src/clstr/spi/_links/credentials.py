"""Credentials that expire: asked for anew at each connect."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeAlias

from clstr.errors import AuthenticationError

Given: TypeAlias = "str | tuple[str] | tuple[str, str]"
"""A secret alone, or a user and a secret."""


class CredentialProvider(Protocol):
    """An object with redis-py's interface; if it has ``get_credentials_async`` too, that is awaited instead."""

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return ``(secret,)`` or ``(user, secret)``."""


Credentials: TypeAlias = "Callable[[], Given | Awaitable[Given]] | CredentialProvider"
"""What users give as ``credentials=``: a function, plain or async, or a `CredentialProvider`."""


def check_credentials(credentials: Any) -> Credentials:
    """
    Return ``credentials`` if they can be asked for.

    Raises:
        TypeError: It is neither a function nor has it ``get_credentials``.
    """
    if callable(credentials) or callable(getattr(credentials, "get_credentials", None)):
        return credentials  # type: ignore[no-any-return]  # just checked
    raise TypeError(
        "credentials must be a function that returns a secret or (user, secret), or an object with get_credentials(), "
        f"not {type(credentials).__name__}"
    )


async def read_credentials(credentials: Credentials) -> tuple[str | None, str]:
    """
    Ask for the credentials of the next connection.

    Args:
        credentials: A function or a provider. A plain one runs on the event loop and must not block it.

    Returns:
        The user, or ``None``, and the secret.

    Raises:
        AuthenticationError: There are none: asking failed, or returned something else. It never holds what was
            returned; the failure is its ``__cause__``.
    """
    try:
        given = _ask(credentials)
        if inspect.isawaitable(given):
            given = await given
    except Exception as error:
        raise AuthenticationError(f"the credentials could not be obtained: {type(error).__name__}") from error
    parts = (given,) if isinstance(given, str) else given
    if not (isinstance(parts, tuple | list) and 1 <= len(parts) <= 2 and all(isinstance(part, str) for part in parts)):  # noqa: PLR2004 -- as in redis-py
        raise AuthenticationError(f"credentials must return a str or (user, secret), not {type(given).__name__}")
    return (None if len(parts) == 1 else parts[0]), parts[-1]


def hide_secrets(text: str, secrets: Iterable[str | None]) -> str:
    """
    Return ``text`` without ``secrets``: what a server or a driver says may repeat what it was sent.

    Args:
        text: Any text, not cut yet: a half of a secret is not found.
        secrets: Passwords, tokens, seeds; empty ones and ``None`` are passed over.
    """
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return text


def _ask(credentials: Any) -> Any:  # Any: the user's, checked by what it returns
    ask = getattr(credentials, "get_credentials_async", None) or getattr(credentials, "get_credentials", credentials)
    return ask()
