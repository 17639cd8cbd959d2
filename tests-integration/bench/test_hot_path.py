"""A request does not become dearer unnoticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.hot_path import Counts, problems, python, recorded

PROGRAM = str(Path(__file__).with_name("hot_path.py"))
SOME = Counts(calls=100, blocks=50)


def test_a_request_costs_no_more_than_was_recorded() -> None:
    result = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("now", "found"),
    [
        (Counts(calls=109, blocks=54), []),
        (Counts(calls=111, blocks=50), ["raw: calls grew from 100 to 111 for each request"]),
        (Counts(calls=100, blocks=56), ["raw: blocks grew from 50 to 56 for each request"]),
        (Counts(calls=50, blocks=20), []),
    ],
    ids=["little more", "more calls", "more blocks", "less"],
)
def test_a_tenth_more_is_too_much(now: Counts, found: list[str]) -> None:
    assert problems({"raw": now}, {python(): {"raw": SOME}}) == found


def test_a_python_without_a_record_is_a_failure() -> None:
    assert problems({"raw": SOME}, {"2.7": {"raw": SOME}}) == [
        f"nothing is recorded for Python {python()}: run this with --record"
    ]


def test_the_record_is_of_whole_scenarios() -> None:
    assert all(counts.keys() == {"raw", "actor"} for counts in recorded().values())
