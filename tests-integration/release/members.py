"""The distributions, as their pyproject.toml and their built files have them."""

from __future__ import annotations

import tomllib
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from functools import cached_property
from pathlib import Path
from typing import Any

TOP = Path(__file__).parents[2]
DIST = TOP / "dist"


@dataclass(frozen=True)
class Member:
    """One distribution. Any: what TOML holds."""

    path: Path

    @property
    def name(self) -> str:
        """The distribution's name."""
        return self.path.name

    @cached_property
    def project(self) -> dict[str, Any]:
        """The table ``[project]``."""
        text = (self.path / "pyproject.toml").read_text(encoding="utf-8")
        project: dict[str, Any] = tomllib.loads(text)["project"]
        return project

    @property
    def version(self) -> str:
        """Its version."""
        return str(self.project["version"])

    @property
    def import_name(self) -> str:
        """The package that it installs."""
        return next(self.path.glob("src/*/py.typed")).parent.name

    @property
    def wheel(self) -> Path:
        """Its wheel in dist/."""
        return DIST / f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"

    @property
    def sdist(self) -> Path:
        """Its sdist in dist/."""
        return DIST / f"{self.name.replace('-', '_')}-{self.version}.tar.gz"

    def files(self) -> dict[str, bytes]:
        """Return what its wheel holds."""
        return contents(self.wheel)

    def metadata(self) -> Message:
        """Return the metadata in its wheel."""
        return Parser().parsestr(self._info("METADATA"))

    def entry_points(self) -> dict[str, dict[str, str]]:
        """Return the entry points in its wheel, by group."""
        groups: dict[str, dict[str, str]] = {}
        group: dict[str, str] = {}
        for line in self._info("entry_points.txt").splitlines():
            if line.startswith("["):
                group = groups[line.strip("[]")] = {}
            elif line.strip():
                name, _, value = line.partition("=")
                group[name.strip()] = value.strip()
        return groups

    def _info(self, file: str) -> str:
        found = [data for name, data in self.files().items() if name.endswith(f".dist-info/{file}")]
        return found[0].decode() if found else ""


def contents(wheel: Path) -> dict[str, bytes]:
    """Return the files of a wheel, by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


MEMBERS = [Member(file.parent) for file in sorted(TOP.glob("p*s/*/pyproject.toml"))]
VERSION = MEMBERS[0].version
