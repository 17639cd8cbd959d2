"""The programs in docs/examples: each prints what it says that it prints, on every transport that is there."""

from __future__ import annotations

import ast
import asyncio
import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import pytest

from clstr_testing import nats_server, valkey_server

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
PROGRAMS = {path.stem: path for path in sorted(EXAMPLES.glob("*.py"))}
ELSEWHERE = {"demo", "counter_http"}  # have tests of their own: test_programs.py, and below
GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "programs.md"


def promised(program: str) -> str:
    """Return what its docstring says that it prints."""
    docstring = ast.get_docstring(ast.parse(PROGRAMS[program].read_text(encoding="utf-8")), clean=False) or ""
    return dedent(docstring.partition("It prints:\n\n")[2])


PRINTING = [program for program in PROGRAMS if promised(program)]


def test_no_program_is_forgotten() -> None:
    assert {*PRINTING, *ELSEWHERE} == {*PROGRAMS}
    shown = re.findall(r'--8<-- "examples/(\w+)\.py"', GUIDE.read_text(encoding="utf-8"))
    assert {*shown, "demo"} == {*PROGRAMS}


@pytest.fixture(params=["memory", "nats", "redis"])
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    if request.param == "memory":
        yield "memory://"
        return
    start = nats_server if request.param == "nats" else valkey_server
    async with start() as server:
        yield server.url


@pytest.mark.parametrize("program", PRINTING)
async def test_a_program_prints_what_it_says(program: str, url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, PROGRAMS[program], url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert out.decode() == promised(program)


def ask(port: int, method: str, path: str) -> tuple[int, object]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


async def test_counters_behind_http_count(url: str) -> None:
    await asyncio.to_thread(count_behind_http, "memory://counters" if url == "memory://" else url)


def count_behind_http(url: str) -> None:
    command = [sys.executable, str(PROGRAMS["counter_http"]), "--port", "0", "--url", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            found = re.search(r":(\d+)/counters/name", said)
            assert found, said
            port = int(found[1])
            assert ask(port, "GET", "/counters/visits") == (200, {"name": "visits", "value": 0})
            with ThreadPoolExecutor(8) as callers:
                answers = list(callers.map(lambda _: ask(port, "POST", "/counters/visits"), range(100)))
            assert sorted(answer["value"] for _, answer in answers if isinstance(answer, dict)) == [*range(1, 101)]
            assert ask(port, "GET", "/counters/visits") == (200, {"name": "visits", "value": 100})
            assert ask(port, "GET", "/counters/other") == (200, {"name": "other", "value": 0})
            assert ask(port, "GET", "/")[0] == 404
            assert ask(port, "DELETE", "/counters/visits")[0] == 405
        finally:
            server.send_signal(signal.SIGINT)
            said, errors = server.communicate(timeout=20)
    assert (server.returncode, said, errors) == (0, "stopped\n", "")
