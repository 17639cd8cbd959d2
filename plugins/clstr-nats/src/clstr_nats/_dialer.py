"""From options to an open connection: every server, and errors that say what to do."""

from __future__ import annotations

import asyncio
import binascii
import ipaddress
import logging
import random
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import nats.errors
from nats.aio.client import RawCredentials

from clstr.errors import AuthenticationError, ClstrError, PluginImportError, TransportUnavailableError
from clstr.spi import Resolver, hide_secrets, race, read_credentials
from clstr_nats._connection import Connection
from clstr_nats._options import Options

REFUSALS = ("authorization", "authentication", "user jwt", "account")
_BLOCKS = [re.compile(rf"-BEGIN {name}-+\s+\S+\s+-+END {name}-") for name in ("NATS USER JWT", "USER NKEY SEED")]


class Dialer:
    """
    Opens connections to whichever server answers.

    Args:
        options: Where, and as whom.
        name: What the server's monitoring calls the connection.
        connect_timeout: Seconds for all of them together. The first half starts one after the other, so that a mute
            one hides no other; each may go on until the end, so that a slow one is not given up for its slowness.
        logger: Where warnings go.
    """

    def __init__(self, options: Options, name: str, connect_timeout: float, logger: logging.Logger) -> None:
        self._options = options
        self._name = name
        self._connect_timeout = connect_timeout
        self._logger = logger
        self._has_warned = False
        self._resolver = Resolver()

    async def dial(self, new_connection: Callable[[], Connection]) -> Connection:
        """
        Return a connection to the first server that takes us, in an order of chance.

        Raises:
            AuthenticationError: A server refused the credentials, and no other took them; or there are none.
            TransportUnavailableError: No server could be reached.
        """
        deadline = asyncio.get_running_loop().time() + self._connect_timeout
        how = await self._how_to_connect(deadline)
        servers = [(new_connection(), *server) for server in self._options.servers]
        random.shuffle(servers)
        attempts = [partial(self._dial_one, *server, deadline, how) for server in servers]
        chosen: Connection | None = None
        try:
            chosen, host = won = await race(attempts, delay=self._connect_timeout / (2 * len(servers)), discard=_abort)
        except ExceptionGroup as group:
            failures = [each for each in group.exceptions if isinstance(each, ClstrError)]
            raise max(failures, key=lambda error: isinstance(error, AuthenticationError)) from None
        finally:
            for connection, _, _ in servers:
                if connection is not chosen:
                    await connection.end()
        self._warn_of_plaintext(host)
        return won[0]

    async def _how_to_connect(self, deadline: float) -> dict[str, Any]:
        """Read what may have been renewed since the last connection: TLS files and credentials."""
        options = self._options
        try:
            async with asyncio.timeout_at(deadline):
                identity = await _identity(options)
            return {"tls": options.new_tls(), "needs_tls": options.needs_tls, **identity}
        except ClstrError:
            raise
        except OSError as error:  # a timeout is one
            reason = str(error) or "they did not come in time"
            raise TransportUnavailableError(f"the TLS files or the credentials cannot be read: {reason}") from error

    async def _dial_one(
        self, connection: Connection, host: str, port: int, deadline: float, how: Mapping[str, Any]
    ) -> tuple[Connection, str]:
        scheme = "tls" if self._options.needs_tls else "nats"
        address = f"[{host}]" if ":" in host else host
        try:
            async with asyncio.timeout_at(deadline):
                await connection.dial(
                    f"{scheme}://{address}:{port}",
                    resolver=self._resolver,
                    name=self._name,
                    connect_timeout=self._connect_timeout,
                    **how,
                )
        except Exception as error:  # noqa: BLE001 -- whatever nats-py raises, this server cannot be used
            await connection.end()
            failure = explain(error, f"{host}:{port}", _secrets(how))
            cause = error if isinstance(error, OSError) else None
        else:
            return connection, host
        # Out here, so that the chain has no exception of the driver: it may repeat what the server was sent.
        raise failure from cause

    def _warn_of_plaintext(self, host: str) -> None:
        if not (self._has_warned or self._options.needs_tls or is_loopback(host)):
            self._has_warned = True
            self._logger.warning("the connection to %s is not encrypted: use nats+tls:// outside of one machine", host)


def _abort(late: tuple[Connection, str]) -> None:
    late[0].abort()


async def _identity(options: Options) -> dict[str, Any]:
    """
    Return what nats-py is told about who we are, asked or read anew for each connection.

    Raises:
        AuthenticationError: There are no credentials.
        OSError: Their file cannot be read.
    """
    if options.ask_credentials is None:
        return _read_credentials(options.credentials)
    user, secret = await read_credentials(options.ask_credentials)
    who = {"token": secret} if user is None else {"user": user, "password": secret}
    return {**options.credentials, **who}


def _read_credentials(given: Mapping[str, Any]) -> dict[str, Any]:
    """
    Read the credentials file, if there is one.

    nats-py would read it by itself, and never come back from one that is cut off, as it is while somebody writes it.

    Raises:
        AuthenticationError: It is not complete.
    """
    path = given.get("user_credentials")
    if path is None:
        return dict(given)
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    if not all(block.search(text) for block in _BLOCKS):
        raise AuthenticationError(
            f"the credentials file {path} is not complete: it needs a block NATS USER JWT and a block USER NKEY SEED"
        )
    return {**given, "user_credentials": RawCredentials(text)}


def is_loopback(host: str) -> bool:
    """Tell whether ``host`` is this machine, judged by its name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secrets(how: Mapping[str, Any]) -> list[str]:
    """Return what the server was sent, or proves who this is."""
    return [str(how[name]) for name in ("password", "token", "nkeys_seed_str") if how.get(name)]


def explain(error: Exception, server: str, secrets: Iterable[str] = ()) -> ClstrError:
    """Turn what nats-py raised while it dialled into an error of ours; it never holds credentials."""
    if isinstance(error, ClstrError):
        return error
    if isinstance(error, ImportError):
        message = "creds, nkey and nkey_seed need the package nkeys: pip install 'clstr-nats[nkeys]'"
        return PluginImportError("clstr-nats", message)
    text = hide_secrets(str(error), secrets)
    if type(error).__module__.partition(".")[0] == "nkeys" or isinstance(error, binascii.Error):
        return AuthenticationError(f"the nkey cannot be used: {text or type(error).__name__}")
    if isinstance(error, nats.errors.Error) and any(word in text.lower() for word in REFUSALS):
        return AuthenticationError(f"the NATS server {server} refused the credentials: {text.removeprefix('nats: ')}")
    if isinstance(error, TimeoutError) or not text:
        text = "it did not answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    return TransportUnavailableError(f"the NATS server {server} cannot be used: {text}")
