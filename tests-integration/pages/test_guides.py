"""Every code block of the guides is a test file that passes as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from clstr_testing import TransportSuite

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
BLOCKS = {  # how many tests each block has, in order: a block that is lost, or collects nothing, is noticed
    "actors.md": [1, 1, 1, 1, 1],
    "deploying.md": [1],
    "errors-and-retries.md": [1, 1, 1],
    "testing-transports.md": [sum(not check.needs for check in TransportSuite.checks()), 1, 1, 1, 1, 1],
    "testing-your-application.md": [2, 3, 2, 1],
    "typed-handlers.md": [1, 1, 1],
}


def blocks(guide: str) -> list[str]:
    found = re.findall(
        r"^```python\n(.*?)^```$", (GUIDES / guide).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return [block for block in found if not block.startswith("--8<--")]  # a program: it has a test of its own


def settings() -> str:
    """Return what the blocks need beside them, as a reader is told."""
    page = (GUIDES / "testing-your-application.md").read_text(encoding="utf-8")
    [found] = re.findall(r'^```ini title="pytest.ini"\n(.*?)^```$', page, re.DOTALL | re.MULTILINE)
    return str(found)


@pytest.mark.parametrize("guide", BLOCKS)
def test_every_block_is_counted(guide: str) -> None:
    assert len(blocks(guide)) == len(BLOCKS[guide])


@pytest.mark.parametrize(
    ("guide", "number"), [(guide, number) for guide in BLOCKS for number in range(len(BLOCKS[guide]))]
)
def test_a_block_passes(guide: str, number: int, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(settings(), encoding="utf-8")
    (tmp_path / "test_block.py").write_text(blocks(guide)[number], encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", str(tmp_path)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"{BLOCKS[guide][number]} passed" in ran.stdout, ran.stdout + ran.stderr
    assert "failed" not in ran.stdout
