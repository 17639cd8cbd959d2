"""The scenarios are complete, and the program runs what it is asked to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.contenders.table import CONTENDERS, TRANSPORTS
from bench.costs import COSTS
from bench.scenarios import scenarios

PROGRAM = str(Path(__file__).with_name("run.py"))


def test_every_side_is_in_the_table() -> None:
    for scenario in scenarios().values():
        assert {scenario.left.contender, scenario.right.contender} <= CONTENDERS.keys()


def test_every_contender_is_compared_with_something() -> None:
    compared = {side.contender for scenario in scenarios().values() for side in (scenario.left, scenario.right)}
    ours = {f"clstr-{name}{kind}" for name in TRANSPORTS for kind in ("", "-actor")}
    bare = {other for transport in TRANSPORTS.values() for other in (*transport.raw, *transport.actor, transport.bare)}
    assert compared == ours | bare


@pytest.mark.parametrize(
    ("name", "at_least"), [("nats-raw-nats-py", 1.1), ("nats-actor-nats-py", 0.9), ("memory-actor-pykka", 1.5)]
)
def test_the_bars_of_throughput(name: str, at_least: float) -> None:
    scenario = scenarios()[name]
    load = scenario.left.load
    assert (load.callers, load.keys, load.payload_bytes) == (256, 100, 100)
    assert scenario.right.load == load
    assert scenario.at_least == at_least


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program."""
    return subprocess.run(
        [sys.executable, PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_program_lists_every_scenario() -> None:
    assert run("--list").stdout.split() == [*scenarios(), *COSTS]


def test_an_unknown_scenario_is_an_error_and_not_an_empty_run() -> None:
    result = run("--scenario", "nast-*")
    assert result.returncode == 2
    assert "no scenario is called nast-*" in result.stderr


def test_the_program_measures_and_keeps_figures(tmp_path: Path) -> None:
    kept = tmp_path / "figures.json"
    result = run("--scenario", "idle-actor", "--rounds", "1", "--json", str(kept))
    assert result.returncode == 0, result.stderr
    assert "idle-actor: " in result.stdout
    assert '"idle-actor"' in kept.read_text(encoding="utf-8")


def test_a_bar_that_is_missed_is_an_exit_status(tmp_path: Path) -> None:
    result = run("--scenario", "memory-raw-keys", "--rounds", "1", "--seconds", "0.05")
    assert "memory-raw-keys (asyncio): " in result.stdout
    assert result.returncode == ("NOT MET" in result.stdout)
