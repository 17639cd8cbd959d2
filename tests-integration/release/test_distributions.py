"""The built distributions are fit to be published."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.licenses import canonicalize_license_expression
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from release.members import DIST, MEMBERS, TOP, VERSION, Member, contents

each_member = pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)


def test_there_is_a_wheel_and_an_sdist_of_each_and_nothing_else() -> None:
    assert {file.name for file in DIST.iterdir()} == {
        file.name for member in MEMBERS for file in (member.wheel, member.sdist)
    }


def test_versions_are_in_lockstep() -> None:
    assert {member.version for member in MEMBERS} == {VERSION}
    assert str(Version(VERSION)) == VERSION


@each_member
def test_our_own_distributions_are_pinned_to_the_same_minor_version(member: Member) -> None:
    major, minor = Version(VERSION).release[:2]
    for line in member.project["dependencies"]:
        requirement = Requirement(line)
        if requirement.name.startswith("clstr-"):
            assert requirement.specifier == SpecifierSet(f">={major}.{minor},<{major}.{minor + 1}"), line


@each_member
def test_every_dependency_has_a_lower_bound(member: Member) -> None:
    extras = member.project.get("optional-dependencies", {}).values()
    for line in [*member.project["dependencies"], *(line for extra in extras for line in extra)]:
        assert {part.operator for part in Requirement(line).specifier} & {">=", "=="}, line


@each_member
def test_the_metadata_is_complete(member: Member) -> None:
    """PEP 621's fields, and PEP 639's for the licence."""
    metadata = member.metadata()
    for field in ("Name", "Version", "Summary", "Author", "Keywords", "Requires-Python", "Description-Content-Type"):
        assert metadata[field], field
    assert Version(metadata["Metadata-Version"]) >= Version("2.4")
    assert canonicalize_license_expression(metadata["License-Expression"]) == "MIT"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert SpecifierSet(metadata["Requires-Python"]) == SpecifierSet(">=3.11.3")
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert not [line for line in metadata.get_all("Classifier", []) if line.startswith("License ::")]
    assert len(str(metadata.get_payload()).split()) > 20, "the README says nothing"


@each_member
def test_the_wheel_holds_the_package_its_types_and_its_licence_and_no_tests(member: Member) -> None:
    names = member.files().keys()
    assert {name.partition("/")[0] for name in names} == {
        member.import_name,
        f"{member.name.replace('-', '_')}-{VERSION}.dist-info",
    }
    assert f"{member.import_name}/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert {Path(name).suffix for name in names if name.startswith(f"{member.import_name}/")} == {".py", ".typed"}
    sources = {str(file.relative_to(member.path / "src")) for file in member.path.glob("src/**/*.py")}
    assert sources <= names


@each_member
def test_every_licence_is_the_project_s(member: Member) -> None:
    assert (member.path / "LICENSE").read_text() == (TOP / "LICENSE").read_text()


@each_member
def test_the_entry_points_are_those_of_the_source(member: Member) -> None:
    declared = {group: dict(entries) for group, entries in member.project.get("entry-points", {}).items()}
    assert member.entry_points() == declared
    for value in declared.get("clstr.transports", {}).values():
        assert f"{value.replace('.', '/')}.py" in member.files()


@each_member
def test_the_sdist_builds_the_same_wheel(member: Member, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, f"--wheel-dir={tmp_path}", str(member.sdist)], check=True)
    assert contents(tmp_path / member.wheel.name) == member.files()


def test_the_index_would_take_them() -> None:
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *DIST.iterdir()], check=True)


def test_tools_are_pinned_exactly() -> None:
    """PEP 735: the groups can be resolved, and hold nothing that changes by itself."""
    import nox  # noqa: PLC0415 -- resolves them

    groups = nox.project.load_toml(TOP / "pyproject.toml")
    for name in groups["dependency-groups"]:
        for line in nox.project.dependency_groups(groups, name):
            assert [part.operator for part in Requirement(line).specifier] == ["=="], line
