"""What is installed, and why something is refused."""

from types import SimpleNamespace
from typing import Any

import pytest

from clstr._plugins.inventory import InstalledTransport, installed_transports
from clstr._plugins.registry import Registry
from clstr.abc import Transport
from clstr.plugins import ConnectOptions, TransportSpec, TransportURL, hookimpl


async def open_it(url: TransportURL, options: ConnectOptions) -> Transport:
    raise NotImplementedError


class Plugin:
    def __init__(self, scheme: str, api: int = 1, capabilities: frozenset[str] = frozenset()) -> None:
        self.spec = TransportSpec(scheme=scheme, open=open_it, api=api, capabilities=capabilities)

    @hookimpl
    def clstr_transports(self) -> list[TransportSpec]:
        return [self.spec]


def entry(plugin: Plugin, distribution: str | None = None, **metadata: str) -> Any:
    dist = distribution and SimpleNamespace(metadata={"Name": distribution, **metadata})
    return SimpleNamespace(name=plugin.spec.scheme, value="mod:x", dist=dist, load=lambda: plugin)


def listed(*entries: Any) -> list[InstalledTransport]:
    return list(installed_transports(Registry(lambda: entries)))


def test_a_transport_is_listed_with_its_facts_and_its_capabilities_sorted() -> None:
    plugin = Plugin("carrier", capabilities=frozenset({"hosts", "encryption"}))
    assert listed(entry(plugin, "clstr-carrier", Version="1.2")) == [
        InstalledTransport(
            scheme="carrier",
            distribution="clstr-carrier",
            version="1.2",
            api=1,
            capabilities=("encryption", "hosts"),
        )
    ]


def test_a_refused_transport_says_why_and_hides_no_other() -> None:
    found = listed(
        entry(Plugin("future", api=99), "clstr-future", Version="9.0"), entry(Plugin("carrier"), "clstr-carrier")
    )
    assert [(transport.scheme, transport.api, transport.version) for transport in found] == [
        ("carrier", 1, ""),
        ("future", None, "9.0"),
    ]
    assert found[0].refused == ""
    assert found[1].refused.startswith("clstr-future was written for plugin API 99")


def test_distributions_that_claim_one_scheme_are_each_listed_as_refused() -> None:
    found = listed(entry(Plugin("carrier"), "clstr-b"), entry(Plugin("carrier"), "clstr-a"))
    assert [transport.distribution for transport in found] == ["clstr-a", "clstr-b"]
    assert {transport.refused for transport in found} == {
        "clstr-a and clstr-b provide the same scheme 'carrier': uninstall all but one"
    }


@pytest.mark.parametrize("dist", [None, "ghost"])
def test_a_distribution_without_metadata_has_no_version(dist: str | None) -> None:
    assert [transport.version for transport in listed(entry(Plugin("carrier"), dist))] == [""]


class _WithoutMetadata:
    """What Python 3.15 makes of a distribution that has no METADATA: its error derives from `FileNotFoundError`."""

    @property
    def metadata(self) -> Any:
        raise FileNotFoundError("No package metadata was found.")


def test_a_distribution_whose_metadata_is_missing_is_listed_by_its_module() -> None:
    found = entry(Plugin("carrier"))
    found.dist = _WithoutMetadata()
    assert [(transport.distribution, transport.version, transport.refused) for transport in listed(found)] == [
        ("mod", "", "")
    ]
