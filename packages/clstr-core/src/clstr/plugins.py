"""
What the author of a transport plugin needs to register it.

A plugin is a distribution with an entry point per URL scheme in the group ``clstr.transports``. Its name is the
scheme, its value a light module that imports no driver and carries the hook `clstr_transports`::

    [project.entry-points."clstr.transports"]
    carrier = "clstr_carrier._plugin"

    @hookimpl
    def clstr_transports() -> list[TransportSpec]:
        return [TransportSpec(scheme="carrier", open=open_carrier, api=1)]

Plugins may import ``clstr.plugins``, ``clstr.spi``, ``clstr.abc`` and ``clstr.errors``; the rest of clstr is private.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pluggy

from clstr._limits import Limits as Limits
from clstr._urls.parameters import parse_bool as parse_bool
from clstr._urls.parameters import parse_codec as parse_codec
from clstr._urls.parameters import parse_file as parse_file
from clstr._urls.parameters import parse_seconds as parse_seconds
from clstr._urls.url import TransportURL as TransportURL
from clstr.abc import Transport

API_VERSION: int = 1
"""The version of the plugin API that this clstr has. It grows when plugins that were written for the last one break."""

hookspec: pluggy.HookspecMarker = pluggy.HookspecMarker("clstr")
"""Marks the specification of a hook: clstr's own, below."""

hookimpl: pluggy.HookimplMarker = pluggy.HookimplMarker("clstr")
"""Marks a plugin's answer to the hook `clstr_transports`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """
    What the caller of `clstr.connect` asked for, checked.

    Attributes:
        limits: The bounds that the transport keeps.
        logger: Where the transport logs; never payloads or header values.
        peer_id: The id of this peer: 1 to 128 of ``A-Za-z0-9_.-``.
        connect_timeout: Seconds after which ``open`` is cancelled. It need not watch the clock itself.
        extra: The plugin's own parameters that were given, by name, parsed.
    """

    limits: Limits
    logger: logging.Logger
    peer_id: str
    connect_timeout: float
    extra: Mapping[str, object] = field(repr=False)  # passwords may be among them


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSpec:
    """
    One URL scheme of a plugin.

    Attributes:
        scheme: In lower case, as in the entry point's name.
        open: Opens a transport that is ready for use on return. Imports the driver; an `ImportError` that leaves it
            becomes `clstr.errors.PluginImportError`. Releases what it holds when it fails or is cancelled.
        api: The plugin API that the plugin was written for. Write the number, not `API_VERSION`: that is always the
            one that is installed.
        capabilities: Names of what the transport can do beyond the contract, for people to read:
            ``processes`` (peers in other processes), ``hosts`` (on other machines), ``encryption``,
            ``clstr-go`` (peers of the Go package). Others begin with the plugin's name: ``carrier-pigeons``.
        parameters: The plugin's own URL parameters, each with what parses its text and raises `ValueError` for a
            malformed one: `int`, `str`, a function of yours, or `parse_bool`, `parse_codec`, `parse_file` and
            `parse_seconds`. They are keywords of `clstr.connect` too: a str is parsed, any other value handed over.
    """

    scheme: str
    open: Callable[[TransportURL, ConnectOptions], Awaitable[Transport]]
    api: int
    capabilities: frozenset[str] = frozenset()
    parameters: Mapping[str, Callable[[str], object]] = field(default_factory=dict, hash=False)


@hookspec
def clstr_transports() -> Sequence[TransportSpec]:
    """Return the transports that the plugin provides, one spec per URL scheme."""
    raise NotImplementedError  # pragma: no cover - a specification, which pluggy never calls


__all__ = [
    "API_VERSION",
    "ConnectOptions",
    "Limits",
    "TransportSpec",
    "TransportURL",
    "clstr_transports",
    "hookimpl",
    "hookspec",
    "parse_bool",
    "parse_codec",
    "parse_file",
    "parse_seconds",
]
