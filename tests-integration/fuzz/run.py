"""
Fuzz every target, guided by coverage where atheris is installed, else with mutations at random.

    python tests-integration/fuzz/run.py --seconds 20
    python tests-integration/fuzz/run.py --target request --seconds 3600

An input that breaks a promise is printed; put it into ``FOUND`` of ``seeds.py``, where it becomes a test.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.seeds import seeds
from fuzz.targets import TARGETS

SECONDS = 20.0
MAX_BYTES = 4096
GUIDED = Path(__file__).with_name("guided.py")
HAS_ATHERIS = find_spec("atheris") is not None


def main() -> int:
    """Fuzz what the command line says; return 1 if a promise was broken."""
    options = _parser().parse_args()
    targets = options.target or sorted(TARGETS)
    share = options.seconds / len(targets)
    how = "guided by coverage" if HAS_ATHERIS else "at random: atheris is not installed"
    sys.stdout.write(f"{len(targets)} targets, {share:.1f} s each, {how}\n")
    fuzz = _guided if HAS_ATHERIS else _at_random
    return max([fuzz(target, share) for target in targets])


def _guided(target: str, seconds: float) -> int:
    """Fuzz in a process of its own, since libFuzzer ends it."""
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds()):
            (Path(folder) / str(number)).write_bytes(seed)
        arguments = [folder, f"-max_total_time={max(1, round(seconds))}", f"-max_len={MAX_BYTES}"]
        command = [sys.executable, str(GUIDED), target, *arguments]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        found = [repr(file.read_bytes()) for file in Path(folder).glob("*-*")]  # libFuzzer prints none beyond 256 bytes
    lines = run.stderr.splitlines()
    done = next((line for line in lines if line.startswith("Done")), "FAILED")
    sys.stdout.write(f"  {target}: {done}\n")
    if run.returncode:
        sys.stdout.write("\n".join([*lines[-20:], run.stdout, *found]) + "\n")
    sys.stdout.flush()
    return run.returncode


def _at_random(target: str, seconds: float) -> int:
    chance, corpus = random.Random(0), list(seeds())
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        data = mutate(chance.choice(corpus), chance)
        count += 1
        try:
            TARGETS[target](data)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is a finding
            sys.stdout.write(f"  {target}: {error!r} for {data!r}\n")
            return 1
    sys.stdout.write(f"  {target}: {count} inputs\n")
    return 0


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change some bytes: others instead of them, more, or fewer."""
    for _ in range(chance.randint(1, 8)):
        at = chance.randint(0, len(data))
        cut = chance.choice((0, 0, 1, 1, 4))
        data = data[:at] + chance.randbytes(chance.choice((0, 1, 1, 4))) + data[at + cut :]
    return data[:MAX_BYTES]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Feed the readers of bytes with bytes that nobody should send.")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="which; by default each in turn")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long for all together (%(default)g)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
