"""Estimates of run times, from below."""

from __future__ import annotations

import pytest

from clstr.spi._run_times import CLIMB, FORGET, HEADROOM, MAX_TYPES, RunTimes


def test_nothing_is_needed_where_nothing_is_known() -> None:
    assert RunTimes().needed("a", 0.0) == 0.0


def test_a_faster_run_counts_at_once_and_a_slower_one_by_a_part() -> None:
    times = RunTimes()
    times.ended("a", 1.0, 0.0)
    times.ended("a", 0.1, 0.0)
    assert times.needed("a", 0.0) == pytest.approx(HEADROOM * 0.1)
    times.ended("a", 0.9, 0.0)
    assert times.needed("a", 0.0) == pytest.approx(HEADROOM * (0.1 + CLIMB * 0.8))


def test_a_run_that_was_cut_off_only_raises_the_estimate() -> None:
    times = RunTimes()
    times.cut_off("a", 1.0, 0.0)
    times.cut_off("a", 0.1, 0.0)
    assert times.needed("a", 0.0) == HEADROOM


def test_what_nothing_confirms_is_forgotten() -> None:
    times = RunTimes()
    times.ended("a", 1.0, 0.0)
    assert times.needed("a", FORGET + 1.0) == HEADROOM
    assert times.needed("a", FORGET + 1.1) == 0.0


def test_the_table_is_bounded() -> None:
    times = RunTimes()
    for number in range(MAX_TYPES + 1):
        times.ended(str(number), 1.0, 0.0)
    assert times.needed("0", 0.0) == 0.0
    assert times.needed("1", 0.0) == times.needed(str(MAX_TYPES), 0.0) == HEADROOM
