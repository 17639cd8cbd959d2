"""What the tests of installation share: the built wheels, and fresh environments."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
DIST = TOP / "dist"


@pytest.fixture(scope="session")
def environment() -> Mapping[str, str]:
    """The environment variables of a reader who has none of ours, and for whom pip finds the wheels that were built."""
    if not list(DIST.glob("*.whl")):
        pytest.fail("there are no wheels in dist/: run nox -s build first", pytrace=False)
    private = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDEVMODE", "COVERAGE_PROCESS_START"}
    variables = {name: value for name, value in os.environ.items() if name not in private}
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_QUIET": "1"}  # warnings about the configuration are no output
    return {**variables, "PIP_FIND_LINKS": str(DIST), **quiet}


@pytest.fixture
def fresh(tmp_path: Path, environment: Mapping[str, str]) -> Callable[..., Path]:
    """Make a fresh environment with some distributions, and return its Python."""

    def make(*requirements: str) -> Path:
        folder = tmp_path / "venv"
        python = folder / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, env=environment)
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", *requirements]
        subprocess.run(command, check=True, env=environment)
        return python

    return make
