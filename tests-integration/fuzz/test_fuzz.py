"""The targets hold for whatever hypothesis thinks of, and for what fuzzing has found before."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.run import mutate
from fuzz.seeds import seeds
from fuzz.targets import TARGETS

SEEDS = list(seeds())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("data", SEEDS)
def test_seeds_and_findings(target: str, data: bytes) -> None:
    TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes(target: str, data: bytes) -> None:
    TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
@given(seed=st.sampled_from(SEEDS), chance=st.randoms(use_true_random=False))
@settings(deadline=None)
def test_real_messages_with_a_few_bytes_changed(target: str, seed: bytes, chance: random.Random) -> None:
    TARGETS[target](mutate(seed, chance))
