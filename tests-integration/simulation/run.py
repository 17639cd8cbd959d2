"""
Run many schedules, and print what is wrong with those that fail.

    python tests-integration/simulation/run.py --schedules 10000 --seed 1
    python tests-integration/simulation/run.py --seed 1234 --schedules 1 --trace
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulation.schedule import Seen, run
from simulation.script import Script


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line says; return 1 if a schedule failed."""
    options = _parser().parse_args(arguments)
    began, failures = time.perf_counter(), 0
    outcomes: Counter[str] = Counter()
    traces = hashlib.sha256()
    for seed in range(options.seed, options.seed + options.schedules):
        script = _changed(Script.of(seed), options)
        seen = run(script)
        outcomes.update(seen.outcomes)
        traces.update(_bytes(seen))
        if seen.violations:
            failures += 1
            _print(script, seen, options)
        if failures == options.failures:
            break
    took, count = time.perf_counter() - began, seed + 1 - options.seed
    _write(
        f"{count} schedules from seed {options.seed}: {failures} failed; {outcomes.total()} calls, "
        f"{outcomes['bytes']} answered; {took:.1f} s, {1000 * took / count:.2f} ms each\n"
    )
    if options.digest:
        _write(f"{traces.hexdigest()}\n")
    return int(failures > 0)


def digest(seen: Iterable[Seen]) -> str:
    """Return a digest of the traces: two runs of one seed have the same."""
    traces = hashlib.sha256()
    for each in seen:
        traces.update(_bytes(each))
    return traces.hexdigest()


def _bytes(seen: Seen) -> bytes:
    return repr(seen.trace).encode()


def _changed(script: Script, options: argparse.Namespace) -> Script:
    if options.features is not None:
        script = replace(script, features=frozenset(filter(None, options.features.split(","))), eager=options.eager)
    script = replace(script, calls=options.calls or script.calls, peers=options.peers or script.peers)
    for feature in filter(None, options.without.split(",")):
        script = script.without(feature)
    return script


def minimise(script: Script, violation: str) -> Script:
    """Take away features, calls and peers while the same kind of violation stays."""

    def still(candidate: Script) -> bool:
        return any(each[:25] == violation[:25] for each in run(candidate).violations)

    changed = True
    while changed:
        changed = False
        candidates = [script.without(feature) for feature in sorted(script.features)]
        candidates += [replace(script, calls=calls) for calls in range(1, script.calls)]
        candidates += [replace(script, peers=peers) for peers in range(1, script.peers)]
        candidates += [replace(script, eager=False)] if script.eager else []
        for candidate in candidates:
            if still(candidate):
                script, changed = candidate, True
                break
    return script


def _print(script: Script, seen: Seen, options: argparse.Namespace) -> None:
    _write(f"FAILED {script}\n")
    for violation in seen.violations[:6]:
        _write(f"  {violation}\n")
    if options.minimise:
        script = minimise(script, seen.violations[0])
        _write(f"  SMALLER {script}\n")
        seen = run(script)
    if options.trace:
        for moment, event, fact in seen.trace:
            _write(f"  {moment:10.6f} {event} {fact}\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Simulate random schedules of engines on a faulty network.")
    parser.add_argument("--seed", type=int, default=1, help="the first schedule's seed (%(default)d)")
    parser.add_argument("--schedules", type=int, default=1, help="how many, with the seeds that follow (%(default)d)")
    parser.add_argument("--failures", type=int, default=10, help="stop after so many that failed (%(default)d)")
    parser.add_argument("--features", help="exactly these, joined by commas, instead of those that the seed draws")
    parser.add_argument("--without", default="", help="never these")
    parser.add_argument("--calls", type=int, help="so many calls from outside")
    parser.add_argument("--peers", type=int, help="so many transports")
    parser.add_argument("--eager", action="store_true", help="with --features: tasks start eagerly")
    parser.add_argument("--trace", action="store_true", help="print every event of those that failed")
    parser.add_argument("--digest", action="store_true", help="print a digest of what happened, as the last line")
    parser.add_argument("--minimise", action="store_true", help="take away what a failure does not need")
    return parser


if __name__ == "__main__":
    sys.exit(main())
