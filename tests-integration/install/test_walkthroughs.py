"""Pages that a reader follows from nothing, each followed word for word with the built wheels."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from install.walkthrough import File, follow, steps

TOP = Path(__file__).parents[2]
START = TOP / "docs" / "start.md"
GUIDE = TOP / "docs" / "guides" / "writing-a-transport.md"
TEMPLATE = TOP / "docs" / "examples" / "transport-template"

pytestmark = pytest.mark.timeout(600)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_start_here(tmp_path: Path, environment: Mapping[str, str]) -> None:
    """From nothing to nodes in processes of their own. The broker's port is another: 4222 may be taken."""
    follow(read(START).replace("4222", str(free_port())), tmp_path, environment)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_writing_a_transport(tmp_path: Path, environment: Mapping[str, str]) -> None:
    """From an empty folder to wheels that could be published."""
    follow(read(GUIDE), tmp_path, environment)


def test_the_template_becomes_a_project(tmp_path: Path, environment: Mapping[str, str]) -> None:
    """It passes its own checks and tests before a line of it was changed."""
    leftovers = shutil.ignore_patterns(".*_cache", "__pycache__")
    shutil.copytree(TEMPLATE, tmp_path / "transport-template", ignore=leftovers)
    follow(read(TEMPLATE / "README.md"), tmp_path, environment)


def test_the_suite_takes_fewer_than_ten_lines_beside_imports() -> None:
    tests = [step.text for step in steps(read(GUIDE)) if isinstance(step, File) and "conformance" in step.name]
    assert len([line for line in tests[0].splitlines() if line.strip() and "import" not in line]) < 10


def test_the_link_takes_about_180_lines() -> None:
    (link,) = (step.text for step in steps(read(GUIDE)) if isinstance(step, File) and step.name.endswith("_link.py"))
    assert len(link.splitlines()) <= 185
