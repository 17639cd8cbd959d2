"""The page on the plugin API names everything that a plugin author can meet, and nothing else."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from importlib import metadata
from pathlib import Path

import pytest

import clstr.plugins
import clstr.spi
from clstr.spi import Link, Sink

PAGE = (Path(__file__).parents[2] / "docs" / "plugin-api.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """Return the text below a heading, up to the next."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def named(title: str) -> set[str]:
    """Return the names in the first column of a section's table."""
    cells = re.findall(r"^\| (`.*?) \|", section(title), re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([\w.-]+)`", cell)}


def methods(cls: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")}


def test_every_method_of_a_link_is_there() -> None:
    assert named("What the engine calls") == methods(Link)


def test_every_abstract_method_is_called_abstract_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*?) \|$", section("What the engine calls"), re.MULTILINE)
    assert {name for name, default in rows if default == "abstract"} == Link.__abstractmethods__


def test_every_method_of_the_sink_is_there() -> None:
    assert named("What the link calls") == methods(Sink)


def test_every_name_of_the_spi_is_there() -> None:
    assert named("The parts") == set(clstr.spi.__all__)


def test_every_field_of_a_spec_is_there() -> None:
    assert named("How a plugin is found") >= {
        f"TransportSpec.{field.name}" for field in fields(clstr.plugins.TransportSpec)
    }


def test_every_reader_of_parameters_is_there() -> None:
    readers = {name for name in clstr.plugins.__all__ if name.startswith("parse_")}
    assert {name for name in named("How a plugin is found") if name.startswith("parse_")} == readers


def test_every_capability_of_the_docstring_is_there() -> None:
    docstring = inspect.getdoc(clstr.plugins.TransportSpec) or ""
    of_capabilities = docstring.partition("capabilities:")[2].partition("parameters:")[0]
    told = set(re.findall(r"``([\w-]+)``", of_capabilities)) - {"carrier-pigeons"}
    assert named("Capabilities") == told
    assert len(told) == 4


def test_the_api_version_is_the_one_on_the_page() -> None:
    assert f"`clstr.plugins.API_VERSION`, now **{clstr.plugins.API_VERSION}**" in PAGE


CHOICE = (Path(__file__).parents[2] / "docs" / "guides" / "choosing-a-transport.md").read_text(encoding="utf-8")
COLUMNS = ["memory", "nats", "redis", "zmq"]
INSTALLED = sorted({entry.name for entry in metadata.entry_points(group="clstr.transports")} & {*COLUMNS})


def test_there_are_transports_to_look_at() -> None:
    assert {"memory", "nats"} <= {*INSTALLED}


@pytest.mark.parametrize("scheme", INSTALLED)
def test_a_transport_claims_what_the_matrix_says(scheme: str) -> None:
    """The page on choosing a transport has what ``python -m clstr transports`` prints."""
    from clstr._plugins.registry import resolve  # noqa: PLC0415 -- private: no application asks for capabilities

    rows = re.findall(r"^\| `([\w-]+)` \| (\w+) \| (\w+) \| (\w+) \| (\w+) \|$", CHOICE, re.MULTILINE)
    column = COLUMNS.index(scheme) + 1
    assert {row[0] for row in rows} == named("Capabilities")
    assert resolve(scheme).spec.capabilities == {row[0] for row in rows if row[column] == "yes"}
