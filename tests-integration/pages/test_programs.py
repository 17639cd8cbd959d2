"""The README's program and the demo, run as a reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
DEMO = TOP / "docs" / "examples" / "demo.py"


def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python and return what it printed."""
    return subprocess.run(
        [sys.executable, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False, cwd=TOP
    )


def test_the_readme_program_prints_what_the_readme_says(tmp_path: Path) -> None:
    readme = (TOP / "README.md").read_text(encoding="utf-8")
    match = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", readme, re.DOTALL)
    assert match is not None
    program = tmp_path / "program.py"
    program.write_text(match[1], encoding="utf-8")
    result = run(str(program))
    assert (result.stderr, result.stdout) == ("", match[2])


@pytest.mark.parametrize(
    "broker",
    [[], *(["--broker", name] for name in ("nats", "redis", "zmq"))],
    ids=["memory", "nats", "redis", "zmq"],
)
def test_the_demo_shows_every_section(broker: list[str]) -> None:
    result = run(str(DEMO), "--requests", "500", *broker)
    assert result.stderr == ""
    assert [line[0] for line in re.findall(r"^\d\. .*$", result.stdout, re.MULTILINE)] == list("12345")
    assert "NoShardSubscriberError: no subscriber for shard" in result.stdout
    assert "maybe_executed=False" in result.stdout
    assert "requests/s" in result.stdout
    assert "\033" not in result.stdout  # plain when piped
    assert re.search(r"node-b +0", result.stdout)
    assert [line for line in result.stdout.splitlines() if len(line) > 80] == []  # a terminal's width


@pytest.mark.parametrize("buffering", ["", "1"], ids=["buffered", "unbuffered"])
def test_the_demo_ends_in_silence_when_its_reader_has_read_enough(buffering: str) -> None:
    command = [sys.executable, str(DEMO), "--requests", "10"]
    environment = {**os.environ, "PYTHONUNBUFFERED": buffering}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=TOP, env=environment) as demo:
        assert demo.stdout
        assert demo.stderr
        demo.stdout.close()
        assert demo.stderr.read() == b""
        demo.wait(60)


def test_the_demo_reads_orders_from_standard_input() -> None:
    result = run(str(DEMO), "--input", "-", "--requests", "10", text="cart-x jam 2\n\nnonsense\ncart-x jam 3\n")
    assert result.returncode == 0, result.stderr
    assert "line 3 is not 'CART ITEM QUANTITY', skipped: 'nonsense'" in result.stdout
    assert re.search(r"cart-x +-> shard +\d+ -> node-\w +3 x jam +5 in the cart", result.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "kafka://127.0.0.1"], "no installed distribution provides the URL scheme 'kafka'"),
        (["--url", "memory://demo?max_concurent=5"], "max_concurrent"),
        (["--requests", "0"], "--requests must be at least 2"),
        (["--input", "no/such/file"], "cannot read no/such/file: "),
    ],
    ids=["no plugin", "misspelt parameter", "no requests", "no input"],
)
def test_a_mistake_on_the_demo_command_line_names_the_way_out(arguments: list[str], message: str) -> None:
    result = run(str(DEMO), *arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
