"""The changelog: every fragment arrives in it, and a release has assembled it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from release.members import TOP, VERSION

CHANGELOG = (TOP / "CHANGELOG.md").read_text(encoding="utf-8")
FRAGMENTS = sorted(file for file in (TOP / "changes").iterdir() if file.name != ".gitignore")


def assembled() -> str:
    command = [sys.executable, "-m", "towncrier", "build", "--draft", f"--version={VERSION}"]
    return subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=True).stdout


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda fragment: fragment.name)
def test_every_fragment_arrives_as_a_sentence(fragment: object) -> None:
    text = words(fragment.read_text(encoding="utf-8"))  # type: ignore[attr-defined]  # a Path; parametrize has no types
    assert text[-1] in ".!", "write full sentences"
    assert text in words(assembled())


def test_the_release_has_assembled_it(tag: str) -> None:
    """Nothing is left in changes/, and the version has its section, with a date."""
    assert FRAGMENTS == []
    assert re.search(rf"^## {re.escape(VERSION)} \(\d{{4}}-\d\d-\d\d\)$", CHANGELOG, re.MULTILINE)


def test_the_tag_is_the_version(tag: str) -> None:
    assert tag == f"v{VERSION}"
