"""What a NATS URL and its options say."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clstr.plugins import TransportURL, parse_bool, parse_codec, parse_file, parse_seconds
from clstr.spi import Credentials, check_credentials
from clstr_nats._subjects import DEFAULT_PREFIX, check_inbox_prefix, check_prefix

DEFAULT_PORT = 4222
TLS_SCHEMES = {"nats+tls", "tls"}
TLS_FILES = ("tls_ca", "tls_cert", "tls_key")


def refuse_context(_text: str) -> object:
    """Refuse what a URL cannot say."""
    raise ValueError("is an ssl.SSLContext, which a URL cannot hold: give it to connect() as the keyword tls")


def refuse_function(_text: str) -> object:
    """Refuse what a URL cannot say."""
    raise ValueError("is a function, which a URL cannot hold: give it to connect() as the keyword credentials")


PARAMETERS: Mapping[str, Callable[[str], object]] = {
    "codec": parse_codec,
    "credentials": refuse_function,
    "creds": parse_file,
    "heartbeat": parse_seconds,
    "inbox_prefix": check_inbox_prefix,
    "nkey": parse_file,
    "nkey_seed": str,
    "prefix": check_prefix,
    "tls": refuse_context,
    "tls_ca": parse_file,
    "tls_cert": parse_file,
    "tls_first": parse_bool,
    "tls_key": parse_file,
    "token": str,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """
    How to reach the servers.

    Attributes:
        servers: ``(host, port)`` of each, in the order of the URL.
        prefix: What the shards' subjects begin with.
        inbox_prefix: What the inbox's subject begins with.
        codec: What messages are sent in.
        heartbeat: Seconds between PINGs; a connection that answers none for three of them is lost.
        needs_tls: Whether a server without TLS is refused.
        tls: The context for TLS, if it is spoken; of files, as they were when the options were read.
        tls_files: The paths ``tls_ca``, ``tls_cert`` and ``tls_key``, if the context was made of files.
        credentials: What nats-py is told about who we are.
        ask_credentials: What is asked who we are at each connect, if that was given instead.
    """

    servers: tuple[tuple[str, int], ...]
    prefix: str = DEFAULT_PREFIX
    inbox_prefix: str = "_INBOX"
    codec: str = "json"
    heartbeat: float = 1.0
    needs_tls: bool = False
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    tls_files: Mapping[str, str] = field(default_factory=dict, repr=False)
    credentials: Mapping[str, Any] = field(default_factory=dict, repr=False)
    ask_credentials: Credentials | None = field(default=None, repr=False)

    @classmethod
    def of(cls, url: TransportURL, extra: Mapping[str, Any]) -> Options:
        """
        Read them.

        Raises:
            ValueError: They contradict each other, or one is malformed.
        """
        if url.path:
            raise ValueError(f"malformed {url.scheme} URL: it has no path; write nats://host:4222?prefix=name")
        if not url.hosts:
            raise ValueError(f"malformed {url.scheme} URL: it names no host; write {url.scheme}://127.0.0.1:4222")
        needs_tls = url.scheme in TLS_SCHEMES or extra.get("tls") is not None
        if not needs_tls and any(name.startswith("tls") for name in extra):
            raise ValueError("there are options for TLS, but the URL does not ask for it: write nats+tls://")
        names = ("prefix", "inbox_prefix", "codec", "heartbeat")
        return cls(
            servers=tuple((host, port or DEFAULT_PORT) for host, port in url.hosts),
            needs_tls=needs_tls,
            tls=_tls_context(extra) if needs_tls else None,
            tls_files={name: extra[name] for name in TLS_FILES if name in extra},
            credentials=_credentials(url, extra),
            ask_credentials=check_credentials(extra["credentials"]) if "credentials" in extra else None,
            **{name: _checked(name, extra[name]) for name in names if name in extra},
        )

    def secret_files(self) -> list[tuple[str, str]]:
        """Return the files with secrets: what each is, and its path."""
        key = self.tls_files.get("tls_key") or self.tls_files.get("tls_cert")  # a certificate's file may hold the key
        found = [("the TLS key", key), ("the credentials", self.credentials.get("user_credentials"))]
        found.append(("the nkey", self.credentials.get("nkeys_seed")))
        return [(what, path) for what, path in found if path is not None]

    def new_tls(self) -> ssl.SSLContext | None:
        """
        Return the context for the next connection: files are read anew, since they may have been renewed.

        Raises:
            OSError: They cannot be read, or do not belong together, as while they are being written.
        """
        return _tls_context(self.tls_files) if self.tls_files else self.tls


def _checked(name: str, value: Any) -> Any:
    """Check what came as a keyword and not as text."""
    if name == "heartbeat" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return parse_seconds(str(value))
    if not isinstance(value, str if name != "heartbeat" else float):
        raise TypeError(f"{name} must be {'seconds' if name == 'heartbeat' else 'a str'}, not {type(value).__name__}")
    return value


def _tls_context(extra: Mapping[str, Any]) -> ssl.SSLContext:
    context = extra.get("tls")
    files = [name for name in TLS_FILES if name in extra]
    if context is not None:
        if not isinstance(context, ssl.SSLContext):
            raise TypeError(f"tls must be an ssl.SSLContext, not {type(context).__name__}")
        if files:
            raise ValueError(f"{files[0]} and tls say the same: give one of them")
        return context
    context = ssl.create_default_context(cafile=extra.get("tls_ca"))
    if "tls_key" in extra and "tls_cert" not in extra:
        raise ValueError("tls_key needs its certificate: give tls_cert too")
    if "tls_cert" in extra:
        context.load_cert_chain(extra["tls_cert"], extra.get("tls_key"))
    return context


def _credentials(url: TransportURL, extra: Mapping[str, Any]) -> dict[str, Any]:
    ways = {
        "a user in the URL": url.username is not None or url.password is not None,
        **{name: name in extra for name in ("credentials", "creds", "nkey", "nkey_seed", "token")},
    }
    chosen = [way for way, is_given in ways.items() if is_given]
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(chosen)} are several ways to say who this is: give one")
    if url.username is not None and url.password is None:
        return {"token": url.username}
    names = {"creds": "user_credentials", "nkey": "nkeys_seed", "nkey_seed": "nkeys_seed_str", "token": "token"}
    given = {names[name]: extra[name] for name in names if name in extra}
    if url.password is not None:
        given |= {"user": url.username or "", "password": url.password}
    if "tls_first" in extra:
        given["tls_handshake_first"] = extra["tls_first"]
    return given
