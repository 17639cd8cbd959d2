"""Transport URLs: ``scheme://user:password@host:port,host:port/path?parameter=value``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from types import MappingProxyType
from typing import Self
from urllib.parse import quote, unquote_to_bytes

from clstr._messages.envelope import has_control_characters

Host = tuple[str, int | None]

MAX_PORT = 65535
HIDDEN = "***"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII)
_HOST = re.compile(r"[\w.~*-]+")  # names in any script, addresses, "*" for every interface
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SECRET = re.compile(r"pass|pwd|secret|token|cred|auth|key|seed|jwt|sig", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TransportURL:
    """
    A transport's address. Its password and secret parameters never show in ``repr``, ``str`` or an error's message.

    Attributes:
        scheme: Lower case; names the plugin.
        username: Decoded, or ``None``. Without a password it may be a token, and is hidden like one.
        password: Decoded, or ``None``.
        hosts: Name or address (IPv6 without brackets) and port of each host; empty in ``memory://``.
        path: Decoded, with its leading ``/``; empty if there is none. A UNIX socket's path, or a database's number.
        parameters: The query, decoded. ``+`` is a plus sign.
    """

    scheme: str
    username: str | None = None
    password: str | None = None
    hosts: tuple[Host, ...] = ()
    path: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read a URL.

        Stricter than RFC 3986 where a slip would go unnoticed: ``@`` may appear once, before the first host, and must
        be written ``%40`` elsewhere, so that a password with ``/``, ``?`` or ``#`` is not taken for something else.

        Raises:
            TypeError: ``text`` is not a str.
            ValueError: It is not a URL; the message says which part is wrong, and quotes none of it.
        """
        if not isinstance(text, str):
            raise TypeError(f"a transport URL must be a str, not {type(text).__name__}")
        scheme, separator, rest = text.partition("://")
        scheme = scheme.lower()
        if not separator or not _SCHEME.fullmatch(scheme):
            raise ValueError("malformed transport URL: it does not begin with scheme://, as in nats://127.0.0.1:4222")
        try:
            return cls(scheme=scheme, **_parse_rest(rest))  # type: ignore[arg-type]  # the keys are this class's fields
        except ValueError as error:
            reason = str(error)
        raise ValueError(f"malformed {scheme} URL: {reason}")

    @property
    def name(self) -> str:
        """
        The name in ``scheme://name``; empty if there is none.

        Raises:
            ValueError: There are several hosts, or a port.
        """
        if not self.hosts:
            return ""
        if len(self.hosts) > 1 or self.hosts[0][1] is not None:
            raise ValueError(f"malformed {self.scheme} URL: write one name without a port, as in {self.scheme}://name")
        return self.hosts[0][0]

    def __str__(self) -> str:
        query = "&".join(f"{name}={_show_value(name, value)}" for name, value in self.parameters.items())
        hosts = ",".join(_show_host(*host) for host in self.hosts)
        return f"{self.scheme}://{self._show_user()}{hosts}{quote(self.path)}{'?' if query else ''}{query}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def _show_user(self) -> str:
        if self.password is not None:
            return f"{quote(self.username or '', safe='')}:{HIDDEN}@"
        return f"{HIDDEN}@" if self.username is not None else ""


def is_secret_name(name: str) -> bool:
    """Tell whether a parameter of this name may hold a secret. Rather one too many."""
    return _SECRET.search(name) is not None


def _parse_rest(rest: str) -> dict[str, object]:
    """Read what follows ``scheme://`` into the fields of `TransportURL`. Messages quote nothing: it may be a secret."""
    if has_control_characters(rest):
        raise ValueError("it holds control characters or lone surrogates: percent-encode what you need of them")
    if "#" in rest:
        raise ValueError("it holds '#': there are no fragments, and elsewhere it is written %23")
    before_query, _, query = rest.partition("?")
    authority, slash, path = before_query.partition("/")
    if "@" in path or "@" in query:
        raise ValueError("it holds '@' behind the hosts: write %40, and in a password %2F for '/' and %3F for '?'")
    user, at, hosts = authority.rpartition("@")
    username, password = _parse_user(user) if at else (None, None)
    return {
        "username": username,
        "password": password,
        "hosts": _parse_hosts(hosts),
        "path": _decode("the path", slash + path),
        "parameters": _parse_query(query),
    }


def _parse_user(text: str) -> tuple[str | None, str | None]:
    if "@" in text or "," in text:
        raise ValueError("write user and password once, before the first host, and in them %40 for '@' and %2C for ','")
    username, colon, password = text.partition(":")
    return _decode("the user name", username) or None, _decode("the password", password) if colon else None


def _parse_hosts(text: str) -> tuple[Host, ...]:
    if not text:
        return ()
    return tuple(_parse_host(f"host {number}", host) for number, host in enumerate(text.split(","), 1))


def _parse_host(what: str, text: str) -> Host:
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ValueError(f"{what} has brackets that are not closed right before the port: write [::1]:4222")
        return _parse_address(what, host), _parse_port(what, port[1:]) if port else None
    host, colon, port = text.partition(":")
    if ":" in port:
        raise ValueError(f"{what} holds several ':': write IPv6 addresses in brackets, as in [::1]:4222")
    if not _HOST.fullmatch(host):
        raise ValueError(f"{what} is {'not a name or an address' if host else 'empty'}: write host:port,host:port")
    return host, _parse_port(what, port) if colon else None


def _parse_address(what: str, text: str) -> str:
    address = _decode(what, text)
    try:
        IPv6Address(address)
    except ValueError:
        raise ValueError(f"{what} is in brackets, but is not an IPv6 address") from None
    return address


def _parse_port(what: str, text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > MAX_PORT:
        raise ValueError(f"{what} has a port that is not a number from 0 to {MAX_PORT}")
    return int(text)


def _parse_query(text: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for part in text.split("&") if text else ():
        name, equals, value = part.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise ValueError("a parameter is not of the form name=value, with letters, digits and '_' in its name")
        if name in parameters:
            raise ValueError(f"parameter {name!r} is there twice: give it once")
        parameters[name] = _decode(f"parameter {name!r}", value)
    return parameters


def _decode(what: str, text: str) -> str:
    if _BAD_ESCAPE.search(text):
        raise ValueError(f"{what} holds '%' without two hexadecimal digits: write %25 for a percent sign")
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{what} holds percent escapes that are not UTF-8") from None
    if has_control_characters(decoded):
        raise ValueError(f"{what} holds control characters: they are not allowed, percent-encoded either")
    return decoded


def _show_host(host: str, port: int | None) -> str:
    shown = f"[{quote(host, safe=':')}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"


def _show_value(name: str, value: str) -> str:
    return HIDDEN if is_secret_name(name) else quote(value)
