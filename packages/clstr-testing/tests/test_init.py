"""The package itself: its public names are listed before they are loaded."""

from __future__ import annotations

import subprocess
import sys

import clstr_testing


def test_dir_lists_every_public_name_before_any_is_loaded() -> None:
    program = "import clstr_testing; print(set(clstr_testing.__all__) - set(dir(clstr_testing)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


def test_every_listed_name_can_be_loaded() -> None:
    assert [name for name in clstr_testing.__all__ if not hasattr(clstr_testing, name)] == []
