"""The oracle finds every deliberate defect of the engine within some hundred schedules, and for its own reason."""

from __future__ import annotations

import pytest

from simulation.mutants import MUTANTS, Mutant
from simulation.schedule import run
from simulation.script import Script

ENOUGH = 400


def schedules_until_found(mutant: Mutant) -> int | None:
    """Return how many schedules it took, or ``None``."""
    for seed in range(1, ENOUGH + 1):
        with mutant.patch():
            violations = run(Script.of(seed)).violations
        if any(mutant.found_as in violation for violation in violations):
            return seed
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_oracle_finds(mutant: Mutant) -> None:
    assert schedules_until_found(mutant) is not None


def test_there_are_enough_mutants_and_no_two_are_called_the_same() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) >= 20
    assert len(set(names)) == len(names)
