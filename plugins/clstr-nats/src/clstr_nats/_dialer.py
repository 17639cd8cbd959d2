"""From options to an open connection: every server once, and errors that say what to do."""

from __future__ import annotations

import asyncio
import binascii
import ipaddress
import logging
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nats.errors
from nats.aio.client import RawCredentials

from clstr.errors import AuthenticationError, ClstrError, PluginImportError, TransportUnavailableError
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
        connect_timeout: Seconds for all of them together: each gets its share, so that a mute one hides no other.
        logger: Where warnings go.
    """

    def __init__(self, options: Options, name: str, connect_timeout: float, logger: logging.Logger) -> None:
        self._options = options
        self._name = name
        self._connect_timeout = connect_timeout
        self._logger = logger
        self._has_warned = False

    async def dial(self, new_connection: Callable[[], Connection]) -> Connection:
        """
        Return a connection to the first server that takes us, in an order of chance.

        Raises:
            AuthenticationError: A server refused the credentials, and no other took them.
            TransportUnavailableError: No server could be reached.
        """
        servers = list(self._options.servers)
        random.shuffle(servers)
        failures: list[ClstrError] = []
        for host, port in servers:
            connection = new_connection()
            try:
                await self._dial_one(connection, host, port)
            except BaseException as error:
                await connection.end()
                if not isinstance(error, Exception):
                    raise
                failures.append(explain(error, f"{host}:{port}"))
            else:
                self._warn_of_plaintext(host)
                return connection
        raise max(failures, key=lambda error: isinstance(error, AuthenticationError))

    async def _dial_one(self, connection: Connection, host: str, port: int) -> None:
        options = self._options
        address = f"[{host}]" if ":" in host else host
        share = self._connect_timeout / len(options.servers)
        async with asyncio.timeout(share):
            await connection.dial(
                f"{'tls' if options.needs_tls else 'nats'}://{address}:{port}",
                needs_tls=options.needs_tls,
                tls=options.tls,
                name=self._name,
                connect_timeout=share,
                **_read_credentials(options.credentials),
            )

    def _warn_of_plaintext(self, host: str) -> None:
        if not (self._has_warned or self._options.needs_tls or is_loopback(host)):
            self._has_warned = True
            self._logger.warning("the connection to %s is not encrypted: use nats+tls:// outside of one machine", host)


def _read_credentials(given: Mapping[str, Any]) -> dict[str, Any]:
    """
    Read the credentials file, if there is one, anew for each connection: it may have been renewed.

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


def explain(error: Exception, server: str) -> ClstrError:
    """Turn what nats-py raised while it dialled into an error of ours; it never holds credentials."""
    if isinstance(error, ClstrError):
        return error
    if isinstance(error, ImportError):
        message = "creds, nkey and nkey_seed need the package nkeys: pip install 'clstr-nats[nkeys]'"
        return PluginImportError("clstr-nats", message)
    text = str(error)
    if type(error).__module__.partition(".")[0] == "nkeys" or isinstance(error, binascii.Error):
        return AuthenticationError(f"the nkey cannot be used: {text or type(error).__name__}")
    if isinstance(error, nats.errors.Error) and any(word in text.lower() for word in REFUSALS):
        return AuthenticationError(f"the NATS server {server} refused the credentials: {text.removeprefix('nats: ')}")
    if isinstance(error, TimeoutError) or not text:
        text = "it did not answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    return TransportUnavailableError(f"the NATS server {server} cannot be used: {text}")
