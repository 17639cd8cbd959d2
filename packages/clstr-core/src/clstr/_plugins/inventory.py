"""What transports are installed, and why one of them cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint

from clstr._plugins.registry import Registry, distribution_field, distribution_name
from clstr.errors import PluginError


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledTransport:
    """
    What one distribution claims to provide for one URL scheme.

    Attributes:
        scheme: The scheme.
        distribution: The distribution's name.
        version: Its version; empty if its metadata has none.
        api: The plugin API that the plugin was written for; ``None`` if it was refused.
        capabilities: What the transport can do beyond the contract, sorted; empty if the plugin was refused.
        refused: Why `clstr.connect` would refuse it; empty if it would not.
    """

    scheme: str
    distribution: str
    version: str
    api: int | None = None
    capabilities: tuple[str, ...] = ()
    refused: str = ""


def installed_transports(registry: Registry) -> Iterator[InstalledTransport]:
    """Yield every claim to a scheme, sorted by scheme. Imports the plugins, but none of their drivers."""
    for scheme in registry.schemes():
        for entry in registry.claims(scheme):
            yield _describe(registry, entry)


def _describe(registry: Registry, entry: EntryPoint) -> InstalledTransport:
    scheme, distribution, version = entry.name, distribution_name(entry), distribution_field(entry, "Version")
    try:
        spec = registry.resolve(scheme).spec
    except PluginError as error:
        return InstalledTransport(scheme=scheme, distribution=distribution, version=version, refused=str(error))
    return InstalledTransport(
        scheme=scheme,
        distribution=distribution,
        version=version,
        api=spec.api,
        capabilities=tuple(sorted(spec.capabilities)),
    )
