"""Fuzz one target guided by coverage: ``guided.py TARGET``, and arguments of libFuzzer. The last line is its sum."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(
    include=["clstr", "clstr_nats", "clstr_redis", "clstr_zmq", "unix_frames", "unix_link"]
):
    from fuzz.targets import TARGETS

if __name__ == "__main__":
    target, *arguments = sys.argv[1:]
    atheris.Setup([sys.argv[0], *arguments], TARGETS[target])
    atheris.Fuzz()
