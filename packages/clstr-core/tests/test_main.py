"""The command line, run as a person would run it, beside distributions that are laid out as pip would."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from clstr import __main__
from clstr._plugins.inventory import InstalledTransport

SOURCE = """
from clstr.plugins import TransportSpec, hookimpl

async def open_it(url, options):
    raise NotImplementedError

@hookimpl
def clstr_transports():
    return [TransportSpec(scheme="{scheme}", open=open_it, api={api}, capabilities=frozenset({{"hosts"}}))]
"""
CORE = metadata.version("clstr-core")


def lay_out(folder: Path, scheme: str, api: int = 1) -> None:
    (folder / f"of_{scheme}.py").write_text(SOURCE.format(scheme=scheme, api=api), encoding="utf-8")
    info = folder / f"clstr_{scheme}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: clstr-{scheme}\nVersion: 1.2\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[clstr.transports]\n{scheme} = of_{scheme}\n", encoding="utf-8")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clstr", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_transports_are_listed_for_people(tmp_path: Path) -> None:
    """A module run with ``-m`` finds distributions in the current folder."""
    lay_out(tmp_path, "carrier")
    result = run(tmp_path, "transports")
    assert (result.stderr, result.returncode) == ("", 0)
    lines = result.stdout.splitlines()
    assert lines[0] == f"clstr-core {CORE}, plugin API 1"
    assert lines[2].split() == ["scheme", "distribution", "version", "API", "capabilities"]
    assert ["carrier", "clstr-carrier", "1.2", "1", "hosts"] in [line.split() for line in lines]


def test_a_refused_transport_is_listed_with_the_reason_and_the_exit_status_tells(tmp_path: Path) -> None:
    lay_out(tmp_path, "carrier")
    lay_out(tmp_path, "future", api=99)
    result = run(tmp_path, "transports")
    assert (result.stderr, result.returncode) == ("", 1)
    assert "refused: clstr-future was written for plugin API 99, this clstr-core has 1: upgrade clstr-core" in (
        result.stdout
    )
    assert "clstr-carrier" in result.stdout


def test_transports_are_listed_for_programs(tmp_path: Path) -> None:
    lay_out(tmp_path, "carrier")
    facts = json.loads(run(tmp_path, "transports", "--json").stdout)
    assert (facts["clstr_core"], facts["plugin_api"]) == (CORE, 1)
    assert {
        "scheme": "carrier",
        "distribution": "clstr-carrier",
        "version": "1.2",
        "api": 1,
        "capabilities": ["hosts"],
        "refused": "",
    } in facts["transports"]


def test_where_nothing_is_installed_the_way_out_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(_registry: object) -> list[InstalledTransport]:
        return []

    monkeypatch.setattr(__main__, "installed_transports", nothing)
    assert __main__.main(["transports"]) == 0
    assert "no transport is installed: pip install one of clstr-memory, clstr-nats" in capsys.readouterr().out


def test_the_table_and_the_status_in_this_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As above, where coverage sees it."""
    found = [
        InstalledTransport(scheme="a", distribution="clstr-a", version="1", api=1),
        InstalledTransport(scheme="b", distribution="clstr-b", version="", refused="no luck"),
    ]

    def both(_registry: object) -> list[InstalledTransport]:
        return found

    monkeypatch.setattr(__main__, "installed_transports", both)
    assert __main__.main(["transports"]) == 1
    rows = [line.split(maxsplit=4) for line in capsys.readouterr().out.splitlines()]
    assert rows[3:] == [["a", "clstr-a", "1", "1", "-"], ["b", "clstr-b", "-", "-", "refused: no luck"]]
    assert __main__.main(["transports", "--json"]) == 1
    assert [each["refused"] for each in json.loads(capsys.readouterr().out)["transports"]] == ["", "no luck"]


def test_without_a_command_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        __main__.main([])
    assert "usage: python -m clstr" in capsys.readouterr().err
