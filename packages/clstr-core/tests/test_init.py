"""The package itself: its version and its public names."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

import clstr


def test_the_version_is_that_of_the_distribution() -> None:
    assert clstr.__version__ == metadata.version("clstr-core")


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="'clstr' has no attribute 'Cluster'"):
        _ = clstr.Cluster  # type: ignore[attr-defined]  # there is none, which is the point


def test_every_public_name_exists_and_the_list_is_sorted() -> None:
    assert [name for name in clstr.__all__ if not hasattr(clstr, name)] == []
    assert clstr.__all__ == sorted(clstr.__all__)


def test_no_test_here_needs_another_distribution() -> None:
    """The wheel is tested beside that of clstr-testing alone: a test that connects to a transport belongs there."""
    folder = Path(__file__).parent
    needs_one = re.compile(r"""connect\(f?["'](memory|nats|redis|zmq)""")
    assert [file.name for file in folder.rglob("test_*.py") if needs_one.search(file.read_text("utf-8"))] == []
