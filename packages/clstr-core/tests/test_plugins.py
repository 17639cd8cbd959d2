"""The page that a plugin author reads: names, defaults, and the example in its docstring."""

import logging
from collections.abc import Mapping
from typing import Any

import pytest

from clstr import plugins
from clstr.abc import Transport
from clstr.plugins import API_VERSION, ConnectOptions, Limits, TransportSpec, TransportURL, hookimpl


async def open_carrier(url: TransportURL, options: ConnectOptions) -> Transport:
    raise NotImplementedError


@hookimpl
def clstr_transports() -> list[TransportSpec]:
    """As a plugin's module has it; type checking this file checks the hook's form."""
    return [TransportSpec(scheme="carrier", open=open_carrier, api=1)]


def test_the_names_of_the_page_are_sorted_and_there() -> None:
    assert plugins.__all__ == sorted(plugins.__all__)
    assert all(hasattr(plugins, name) for name in plugins.__all__)


def test_the_markers_belong_to_the_project() -> None:
    assert plugins.hookspec.project_name == plugins.hookimpl.project_name == "clstr"


def test_a_spec_needs_a_scheme_an_opener_and_the_api_that_it_was_written_for() -> None:
    (spec,) = clstr_transports()
    assert (spec.scheme, spec.open, spec.api) == ("carrier", open_carrier, API_VERSION)
    assert (spec.capabilities, spec.parameters) == (frozenset(), {})
    incomplete: dict[str, Any] = {"scheme": "carrier", "open": open_carrier}
    with pytest.raises(TypeError, match="'api'"):
        TransportSpec(**incomplete)


def test_specs_are_frozen_and_hashable() -> None:
    """Also with parameters, which are a plain dict."""
    parameters: Mapping[str, type[int]] = {"db": int}
    spec = TransportSpec(scheme="carrier", open=open_carrier, api=1, parameters=parameters)
    assert hash(spec) == hash(TransportSpec(scheme="carrier", open=open_carrier, api=1))
    with pytest.raises(AttributeError):
        spec.api = 2  # type: ignore[misc]  # frozen: that is the test


def test_options_hold_what_an_opener_needs() -> None:
    logger = logging.getLogger("test")
    options = ConnectOptions(limits=Limits(), logger=logger, peer_id="p", connect_timeout=5.0, extra={"db": 1})
    assert options.limits.max_concurrent == 100
    assert (options.logger, options.peer_id, options.connect_timeout, options.extra) == (logger, "p", 5.0, {"db": 1})
    assert "db" not in repr(options)  # it might be a password
    with pytest.raises(AttributeError):
        options.peer_id = "q"  # type: ignore[misc]  # frozen: that is the test
