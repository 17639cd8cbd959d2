"""
Finds the plugin behind a URL scheme.

Schemes are found in the metadata of the installed distributions; only the chosen plugin is imported. What is wrong
with one plugin concerns nobody who does not ask for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.metadata import EntryPoint

import pluggy

from clstr import plugins
from clstr._limits import LIMIT_NAMES
from clstr.errors import PluginApiError, PluginConflictError, PluginImportError, UnknownSchemeError
from clstr.plugins import API_VERSION, TransportSpec

GROUP = "clstr.transports"
CONNECT_NAMES = frozenset({"url", "limits", "logger", "peer_id", "connect_timeout"})
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII)

# A hint for those who have not installed a plugin yet: nothing depends on it, and it grants no scheme.
KNOWN_DISTRIBUTIONS: Mapping[str, str] = {
    "memory": "clstr-memory",
    "nats": "clstr-nats",
    "nats+tls": "clstr-nats",
    "tls": "clstr-nats",
    "zmq": "clstr-zmq",
    "zmq+ipc": "clstr-zmq",
    "redis": "clstr-redis",
    "rediss": "clstr-redis",
    "redis+unix": "clstr-redis",
    "redis+sentinel": "clstr-redis",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A plugin's spec for one scheme, and the name of the distribution that it comes from."""

    distribution: str
    spec: TransportSpec


def installed_entry_points() -> Iterable[EntryPoint]:
    """Return the entry points of every installed plugin, read anew."""
    return metadata.entry_points(group=GROUP)


class Registry:
    """
    Resolves URL schemes, and remembers what it resolved. Safe to use from several threads.

    Args:
        entry_points: What lists the installed plugins' entry points.
    """

    def __init__(self, entry_points: Callable[[], Iterable[EntryPoint]] = installed_entry_points) -> None:
        self._entry_points = entry_points
        self._providers: dict[str, Provider] = {}

    def schemes(self) -> list[str]:
        """Return the schemes that the installed distributions claim, sorted. Imports none of them."""
        return sorted({entry.name for entry in self._entry_points()})

    def claims(self, scheme: str) -> list[EntryPoint]:
        """Return the entry points that claim ``scheme``, sorted by distribution, each of them once."""
        claims = {
            (distribution_name(entry), entry.value): entry for entry in self._entry_points() if entry.name == scheme
        }
        return [claims[claim] for claim in sorted(claims)]

    def resolve(self, scheme: str) -> Provider:
        """
        Return what provides ``scheme``.

        Raises:
            UnknownSchemeError: No installed distribution does; the message names the one to install.
            PluginConflictError: Several do; the message names them.
            PluginImportError: The plugin cannot be imported.
            PluginApiError: The plugin was written for another plugin API, or does not follow it.
        """
        provider = self._providers.get(scheme)
        if provider is None:
            provider = self._providers[scheme] = self._load(self._find(scheme))
        return provider

    def _find(self, scheme: str) -> EntryPoint:
        claims = self.claims(scheme)
        if not claims:
            raise UnknownSchemeError(scheme, self._explain_unknown(scheme))
        if len(claims) > 1:
            raise PluginConflictError(scheme, tuple(distribution_name(entry) for entry in claims))
        return claims[0]

    def _explain_unknown(self, scheme: str) -> str:
        fact = f"no installed distribution provides the URL scheme {scheme!r}"
        if scheme in KNOWN_DISTRIBUTIONS:
            return f"{fact}: pip install {KNOWN_DISTRIBUTIONS[scheme]}"
        installed = ", ".join(self.schemes()) or "none"
        return f"{fact}: correct it, or install the distribution that does; installed schemes: {installed}"

    def _load(self, entry: EntryPoint) -> Provider:
        distribution = distribution_name(entry)
        specs = _check_specs(distribution, _call_hook(distribution, _import_plugin(distribution, entry)))
        return Provider(distribution=distribution, spec=_choose_spec(distribution, entry.name, specs))


def distribution_name(entry: EntryPoint) -> str:
    """Return the name of the distribution that ``entry`` comes from, or of its module if the metadata has no name."""
    return distribution_field(entry, "Name") or entry.value.partition(":")[0]


def distribution_field(entry: EntryPoint, field: str) -> str:
    """Return what the metadata of the distribution that ``entry`` comes from has in ``field``; empty if nothing."""
    if entry.dist is None:
        return ""
    try:
        found = entry.dist.metadata
    except FileNotFoundError:  # from Python 3.15 on, where there is no METADATA; before, it is empty then
        return ""
    return found[field] if field in found else ""  # noqa: SIM401 -- what is known of it has no `get`


def _import_plugin(distribution: str, entry: EntryPoint) -> object:
    try:
        return entry.load()
    except Exception as error:  # a module may raise anything while it is imported
        raise _import_error(distribution, error) from error


def _call_hook(distribution: str, plugin: object) -> Sequence[object]:
    """Return what the plugin's hook answers. A manager of its own keeps it apart from every other plugin."""
    manager = pluggy.PluginManager("clstr")
    manager.add_hookspecs(plugins)
    try:
        manager.register(plugin)
        return manager.hook.clstr_transports()  # type: ignore[no-any-return]  # pluggy: a list of any answers
    except ImportError as error:
        raise _import_error(distribution, error) from error
    except pluggy.PluginValidationError as error:
        message = f"the hook clstr_transports of {distribution} has the wrong form: {error}"
        raise PluginApiError(distribution, message) from error
    except Exception as error:
        message = f"the hook clstr_transports of {distribution} raised {_describe(error)}"
        raise PluginApiError(distribution, message) from error


def _import_error(distribution: str, error: Exception) -> PluginImportError:
    fact = f"the plugin of {distribution} cannot be imported: {_describe(error)}"
    return PluginImportError(distribution, f"{fact}: upgrade or reinstall {distribution}")


def _describe(error: Exception) -> str:
    return ": ".join(part for part in (type(error).__name__, str(error)) if part)


def _check_specs(distribution: str, answers: Sequence[object]) -> dict[str, TransportSpec]:
    """Return the specs in a hook's answers by scheme, or raise `PluginApiError`."""
    if not answers:
        raise PluginApiError(distribution, f"the plugin of {distribution} has no hook clstr_transports that answers")
    specs: dict[str, TransportSpec] = {}
    for answer in answers:
        if not isinstance(answer, (list, tuple)):
            raise _invalid(distribution, f"returns {type(answer).__name__}, not a list of TransportSpec")
        for spec in answer:
            _check_spec(distribution, spec)
            if spec.scheme in specs:
                raise _invalid(distribution, f"returns two specs for the scheme {spec.scheme!r}")
            specs[spec.scheme] = spec
    return specs


def _check_spec(distribution: str, spec: object) -> None:
    if not isinstance(spec, TransportSpec):
        raise _invalid(distribution, f"returns a {type(spec).__name__} where a TransportSpec belongs")
    _check_api(distribution, spec.api)
    _check_scheme(distribution, spec.scheme)
    if not callable(spec.open):
        raise _invalid(distribution, f"returns a spec for {spec.scheme!r} whose open cannot be called")
    _check_capabilities(distribution, spec.scheme, spec.capabilities)
    _check_parameters(distribution, spec)


def _check_scheme(distribution: str, scheme: object) -> None:
    if not isinstance(scheme, str) or not _SCHEME.fullmatch(scheme):
        raise _invalid(distribution, f"returns the scheme {scheme!r}, which is not lower-case URL syntax")


def _check_api(distribution: str, api: object) -> None:
    if type(api) is not int:
        raise _invalid(distribution, f"returns the API version {api!r}, which is not an int")
    if api != API_VERSION:
        outdated = "clstr-core" if api > API_VERSION else distribution
        fact = f"{distribution} was written for plugin API {api}, this clstr-core has {API_VERSION}"
        raise PluginApiError(distribution, f"{fact}: upgrade {outdated}")


def _check_capabilities(distribution: str, scheme: str, capabilities: object) -> None:
    if not isinstance(capabilities, frozenset) or not all(isinstance(name, str) for name in capabilities):
        raise _invalid(distribution, f"returns a spec for {scheme!r} whose capabilities are not a frozenset of str")


def _check_parameters(distribution: str, spec: TransportSpec) -> None:
    if not isinstance(spec.parameters, Mapping):
        raise _invalid(distribution, f"returns a spec for {spec.scheme!r} whose parameters are not a mapping")
    for name, parse in spec.parameters.items():
        _check_parameter(distribution, name, parse)


def _check_parameter(distribution: str, name: object, parse: object) -> None:
    if not isinstance(name, str) or not name.isidentifier() or not callable(parse):
        raise _invalid(distribution, f"returns the parameter {name!r}, which is not an identifier with a parser")
    if name in LIMIT_NAMES or name in CONNECT_NAMES:
        raise _invalid(distribution, f"returns the parameter {name!r}, whose name is clstr's own")


def _choose_spec(distribution: str, scheme: str, specs: Mapping[str, TransportSpec]) -> TransportSpec:
    if scheme not in specs:
        raise _invalid(distribution, f"returns no spec for {scheme!r}, only for {', '.join(specs) or 'nothing'}")
    return specs[scheme]


def _invalid(distribution: str, fault: str) -> PluginApiError:
    message = f"the hook clstr_transports of {distribution} {fault}: report it to its authors"
    return PluginApiError(distribution, message)


resolve = Registry().resolve
"""Resolves a scheme among the distributions that are installed in this environment."""
