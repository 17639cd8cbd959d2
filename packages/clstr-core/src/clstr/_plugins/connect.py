"""``clstr.connect``: from a URL to an open transport."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import secrets
from collections.abc import Callable, Generator, Mapping
from types import TracebackType
from typing import Any

from clstr._backoff import Backoff
from clstr._limits import LIMIT_NAMES, Limits, check_seconds, parse_limit
from clstr._messages.cluster_name import check_cluster_name
from clstr._plugins.registry import Provider, resolve
from clstr._urls.url import TransportURL, is_secret_name
from clstr.abc import Transport
from clstr.errors import PluginApiError, PluginImportError, TransportUnavailableError
from clstr.plugins import ConnectOptions, TransportSpec

_PEER_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_Parsers = Mapping[str, Callable[[str], object]]


class PendingTransport:
    """
    A transport that is still to be opened: ``await`` it and close it yourself, or enter it with ``async with``.

    It opens one transport, once: using it a second time raises `RuntimeError`.
    """

    def __init__(
        self,
        provider: Provider,
        url: TransportURL,
        options: ConnectOptions,
        *,
        wait: float = 0.0,
        cluster: str | None = None,
    ) -> None:
        self._provider = provider
        self._url = url
        self._options = options
        self._wait = wait
        self._cluster = cluster
        self._is_used = False
        self._transport: Transport | None = None

    def __await__(self) -> Generator[Any, None, Transport]:  # Any: what a coroutine yields is the loop's affair
        return self._open().__await__()

    async def __aenter__(self) -> Transport:
        self._transport = await self._open()
        return self._transport

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._transport is not None:
            await self._transport.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._url}>"

    async def _open(self) -> Transport:
        if self._is_used:
            raise RuntimeError("connect() opens one transport, and this one was awaited before: call connect() again")
        self._is_used = True
        transport = await self._open_patiently()
        _check_transport(self._provider.distribution, transport)
        if self._cluster is not None:
            await _join(transport, self._cluster)
        return transport

    async def _open_patiently(self) -> Transport:
        """Try again while the broker cannot be reached, and ``wait`` is not over."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._wait
        backoff = Backoff()
        while True:
            try:
                return await self._open_in_time()
            except TransportUnavailableError as error:
                pause = backoff.next()
                if clock() + pause >= deadline:
                    raise
                self._options.logger.warning("%s; trying again for %.0f s", error, deadline - clock())
            await asyncio.sleep(pause)

    async def _open_in_time(self) -> Transport:
        clock = asyncio.timeout(self._options.connect_timeout)
        try:
            async with clock:
                return await self._open_or_explain()
        except TimeoutError as error:
            if not clock.expired():  # the plugin's own
                raise
            message = (
                f"{self._url} did not open within connect_timeout={self._options.connect_timeout:g} s: "
                "check that the address is right and answers, or allow more time"
            )
            raise TransportUnavailableError(message) from error

    async def _open_or_explain(self) -> Transport:
        try:
            return await self._provider.spec.open(self._url, self._options)
        except PluginImportError:
            raise
        except ImportError as error:
            name = self._provider.distribution
            message = f"{name} cannot import its driver: {error}: reinstall {name} with its dependencies"
            raise PluginImportError(name, message) from error


async def _join(transport: Transport, cluster: str) -> None:
    try:
        transport.join_cluster(cluster)
    except BaseException:
        await transport.aclose()
        raise


def _check_transport(distribution: str, transport: object) -> None:
    if not isinstance(transport, Transport):
        message = f"{distribution} opened a {type(transport).__name__}, not a clstr.abc.Transport"
        raise PluginApiError(distribution, f"{message}: report it to its authors")


def connect(
    url: str,
    *,
    limits: Limits | None = None,
    logger: logging.Logger | None = None,
    peer_id: str | None = None,
    connect_timeout: float = 5.0,
    wait: float = 0.0,
    cluster: str | None = None,
    **options: object,
) -> PendingTransport:
    """
    Open the transport that ``url`` names; to be entered with ``async with``, or awaited and closed by hand.

    The URL's scheme chooses the plugin. Its parameters set fields of `Limits` and the plugin's own parameters:
    ``nats://127.0.0.1:4222?max_concurrent=5``. A field given twice has its value from the single keyword, else from
    ``limits``, which counts as a whole, else from the URL. The scheme, the names
    of the parameters and the limits are checked at the call; what only the plugin can judge when it is awaited.

    Args:
        url: ``scheme://user:password@host:port,host:port/path?parameter=value``, see `clstr.plugins.TransportURL`.
        limits: The bounds that the transport keeps.
        logger: Where the transport logs; ``clstr.transport.<scheme>`` unless given.
        peer_id: The id of this peer, 1 to 128 of ``A-Za-z0-9_.-``; random unless given. No two peers may share one.
        connect_timeout: Seconds in which the transport must be open, finite and above 0; of each attempt, if it waits.
        wait: Seconds for which to try again, with growing pauses, while the broker cannot be reached: for one that is
            started later. Finite; 0 by default is one attempt. Other errors, such as refused credentials, end it.
        cluster: The cluster's name, 1 to 128 of ``A-Za-z0-9_.-``; a URL parameter too. Its nodes refuse requests of
            other clusters, and of peers without a name: give it to all peers of a cluster or to none. It is no secret,
            and proves nothing: it is against mistakes, two clusters with one prefix on one broker.
        options: Single fields of `Limits`, and the plugin's own parameters.

    Raises:
        TypeError: An argument has the wrong type, or an unknown name.
        ValueError: The URL is malformed, has an unknown parameter, or a value is out of its bounds.
        PluginError: The plugin is not installed, or cannot be used.
        TransportUnavailableError: When awaited: it was not open within ``connect_timeout`` seconds, nor
            at any further attempt within ``wait``.
        AuthenticationError: When awaited: the broker refused the credentials.
    """
    parsed = TransportURL.parse(url)
    provider = resolve(parsed.scheme)
    _check_names(parsed, options, provider.spec)
    cluster = parsed.parameters.get("cluster") if cluster is None else cluster
    if cluster is not None:  # a plugin may tell clusters apart by itself, before a message is sent
        options["cluster"] = cluster
    plugin_options = ConnectOptions(
        limits=_merge_limits(parsed, limits, options),
        logger=_check_logger(logger) or logging.getLogger(f"clstr.transport.{parsed.scheme.partition('+')[0]}"),
        peer_id=_new_peer_id() if peer_id is None else _check_peer_id(peer_id),
        connect_timeout=check_seconds("connect_timeout", connect_timeout),
        extra=_merge_extra(parsed, options, provider.spec.parameters),
    )
    return PendingTransport(
        provider,
        parsed,
        plugin_options,
        wait=_check_wait(wait),
        cluster=None if cluster is None else check_cluster_name(cluster),
    )


def _check_names(url: TransportURL, options: Mapping[str, object], spec: TransportSpec) -> None:
    known = LIMIT_NAMES | spec.parameters.keys()
    way_out = f"for {url.scheme}; known: {', '.join(sorted(known))}"
    for name in sorted(url.parameters.keys() - known - {"cluster"}):
        raise ValueError(f"unknown URL parameter {name!r} {way_out}")
    for name in sorted(options.keys() - known):
        raise TypeError(f"connect() got an unknown keyword {name!r} {way_out}")


def _merge_limits(url: TransportURL, limits: Limits | None, options: Mapping[str, object]) -> Limits:
    if limits is not None and not isinstance(limits, Limits):
        raise TypeError(f"limits must be a clstr.Limits, not {limits!r}")
    in_url: dict[str, Any] = {  # Any: Limits checks the types itself, here and below
        name: parse_limit(name, text) for name, text in url.parameters.items() if name in LIMIT_NAMES
    }
    keywords: dict[str, Any] = {name: value for name, value in options.items() if name in LIMIT_NAMES}
    return dataclasses.replace(Limits(**in_url) if limits is None else limits, **keywords)


def _merge_extra(url: TransportURL, options: Mapping[str, object], parsers: _Parsers) -> dict[str, object]:
    given: dict[str, object] = {**url.parameters, **options}
    return {name: _parse(name, given[name], parse) for name, parse in parsers.items() if name in given}


def _parse(name: str, value: object, parse: Callable[[str], object]) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse(value)
    except ValueError as error:
        reason = "it is malformed" if is_secret_name(name) else str(error)
    raise ValueError(f"parameter {name!r}: {reason}")


def _check_logger(logger: logging.Logger | None) -> logging.Logger | None:
    if logger is not None and not isinstance(logger, logging.Logger):
        raise TypeError(f"logger must be a logging.Logger, not {logger!r}")
    return logger


def _check_wait(wait: float) -> float:
    return 0.0 if wait == 0 and not isinstance(wait, bool) else check_seconds("wait", wait)


def _check_peer_id(peer_id: str) -> str:
    if not isinstance(peer_id, str):
        raise TypeError(f"peer_id must be a str, not {peer_id!r}")
    if not _PEER_ID.fullmatch(peer_id):
        raise ValueError(f"peer_id must be 1 to 128 of A-Z, a-z, 0-9, '_', '.' and '-', not {peer_id!r}")
    return peer_id


def _new_peer_id() -> str:
    return f"peer-{secrets.token_urlsafe(9)}"  # 9 bytes are 12 characters: no two peers share an id by chance
