"""Two thousand random schedules, held against the safety oracle; ``run.py`` runs as many as one likes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from clstr.spi import Engine
from clstr.spi._delivery import Delivery
from clstr.spi._pending import Pending
from simulation.run import digest, main
from simulation.schedule import Seen, run
from simulation.script import CLOSING, HARMLESS, ODD, TAKING_LONG, Script

SCHEDULES = 2000
BATCH = 100
FIRST_SEEDS = range(1, SCHEDULES + 1, BATCH)
KEPT = (Delivery, Pending, Engine)


def kept() -> Counter[str]:
    """Count what no schedule may leave in memory."""
    gc.collect()
    return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, KEPT))


@pytest.mark.parametrize("first", FIRST_SEEDS)
def test_no_schedule_violates_the_oracle(first: int) -> None:
    """To see one again: ``python tests-integration/simulation/run.py --seed ... --trace``."""
    before = kept()
    for seed in range(first, first + BATCH):
        script = Script.of(seed)
        violations = run(script).violations
        assert not violations, f"{script}: {violations}"
    assert kept() == before, f"some schedule with a seed from {first} to {seed} keeps objects in memory"


def test_one_seed_gives_the_same_trace_in_every_process() -> None:
    """With other addresses and other hashes: nothing but the seed decides."""
    seeds = ["--seed", "1", "--schedules", "150", "--digest"]
    digests = set()
    for hash_seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("run.py")), *seeds],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=False,
        )
        digests.add(ran.stdout.splitlines()[-1])
    assert digests == {digest(run(Script.of(seed)) for seed in range(1, 151))}


def test_the_schedules_reach_everything_that_they_are_meant_to_reach() -> None:
    """An oracle that sees nothing happen finds nothing."""
    outcomes: Counter[str] = Counter()
    started: Counter[str] = Counter()
    for seed in range(1, 401):
        seen = run(Script.of(seed))
        outcomes.update(seen.outcomes)
        started.update(seen.started)
    assert set(started) == {"answer", *ODD, *TAKING_LONG, *CLOSING}
    assert outcomes.keys() >= {
        "bytes",
        "NoneType",
        "CancelledError",
        "ConnectionLostError",
        "DrainingError",
        "EnvelopeExpiredError",
        "HandlerError",
        "HandlerTimeoutError",
        "NoShardSubscriberError",
        "NotOwnerError",
        "OverloadedError",
        "PayloadTooLargeError",
        "RequestTimeoutError",
        "TransportClosedError",
        "TransportUnavailableError",
    }


def test_one_in_five_schedules_is_harmless() -> None:
    harmless = [script for script in map(Script.of, range(1, 1001)) if script.is_harmless]
    assert 150 < len(harmless) < 300
    assert all(script.features <= set(HARMLESS) for script in harmless)


def test_the_command_line_names_what_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(script: Script) -> Seen:
        violations = ["simulated"] if script.seed == 8 else []
        return Seen(trace=[(0.5, "happened", 3)], violations=violations, outcomes=Counter(), started=Counter())

    monkeypatch.setattr("simulation.run.run", fail)
    assert main(["--seed", "7", "--schedules", "3", "--trace"]) == 1
    printed = capsys.readouterr().out
    assert f"FAILED {Script.of(8)}\n  simulated\n    0.500000 happened 3\n" in printed
    assert "3 schedules from seed 7: 1 failed" in printed
    assert main(["--seed", "9"]) == 0
