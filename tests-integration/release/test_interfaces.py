"""What users have written goes on to work: public interfaces are compared with those of the last release."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

from release.members import MEMBERS, TOP, VERSION, Member


def git(folder: Path, *arguments: str) -> str:
    ran = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=False)
    return ran.stdout.strip() if ran.returncode == 0 else ""


def compare(package: str, sources: str, tag: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Name what is gone or has changed in ``package`` since ``tag``."""
    command = ["griffecli", "check", package, "--search", sources, "--against", tag, "--format", "oneline"]
    return subprocess.run([*command, "--no-color"], cwd=folder, capture_output=True, text=True, check=False)


def allows_breaks(version: str, last: str) -> bool:
    """Tell whether a release may break interfaces: with 0.x a minor one may, later only a major one."""
    new, old = Version(version), Version(last)
    return new.major > old.major or (new.major == 0 and new.minor > old.minor)


def last_release() -> str:
    """Return the newest tag before this commit, but for this version's own."""
    return git(TOP, "describe", "--tags", "--abbrev=0", "--match=v*", f"--exclude=v{VERSION}")


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_nothing_public_is_broken_unless_the_version_says_so(member: Member) -> None:
    last = last_release()
    if not last:
        pytest.skip("there is no release to compare with yet")
    if not git(TOP, "ls-tree", last, str(member.path.relative_to(TOP))):
        pytest.skip(f"{member.name} is new since {last}")
    sources = str((member.path / "src").relative_to(TOP))
    result = compare(member.import_name, sources, last, TOP)
    if allows_breaks(VERSION, last):
        return
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("version", "last", "allowed"),
    [
        ("0.1.1", "v0.1.0", False),
        ("0.2.0", "v0.1.3", True),
        ("1.0.0", "v0.9.0", True),
        ("1.1.0", "v1.0.0", False),
        ("2.0.0", "v1.4.0", True),
    ],
)
def test_only_some_releases_may_break(version: str, last: str, *, allowed: bool) -> None:
    assert allows_breaks(version, last) is allowed


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A package with one release."""
    package = tmp_path / "src" / "carrier"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("def send(shard, *, timeout=5.0):\n    return shard\n", encoding="utf-8")
    me = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, *me, "commit", "-qm", "The first release")
    git(tmp_path, "tag", "v0.1.0")
    return tmp_path


def test_an_addition_is_no_break(released: Path) -> None:
    file = released / "src" / "carrier" / "__init__.py"
    file.write_text("def send(shard, *, timeout=5.0, ttl=None):\n    return shard\n", encoding="utf-8")
    result = compare("carrier", "src", "v0.1.0", released)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_break_is_noticed(released: Path) -> None:
    file = released / "src" / "carrier" / "__init__.py"
    file.write_text("def send(shard, timeout):\n    return shard\n", encoding="utf-8")
    result = compare("carrier", "src", "v0.1.0", released)
    assert result.returncode != 0
    assert "timeout" in result.stdout + result.stderr
