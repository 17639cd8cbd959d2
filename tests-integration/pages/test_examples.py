"""The programs in docs/examples: each prints what it says that it prints, on every transport that is there."""

from __future__ import annotations

import ast
import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import pytest

import clstr
from clstr_testing import free_port, nats_server
from clusters.urls import cluster_url

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PROGRAMS = {path.stem: path for path in sorted(EXAMPLES.glob("*.py"))}
# Have tests of their own: test_programs.py, test_carts.py, and below.
ELSEWHERE = {"demo", "counter_http", "beside_go", "service", "carts"}
GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def promised(program: str) -> str:
    """Return what its docstring says that it prints."""
    docstring = ast.get_docstring(ast.parse(PROGRAMS[program].read_text(encoding="utf-8")), clean=False) or ""
    return dedent(docstring.partition("It prints:\n\n")[2])


PRINTING = [program for program in PROGRAMS if program not in ELSEWHERE]


def test_no_program_is_forgotten() -> None:
    assert all(promised(program) for program in PRINTING)
    pages = [page.read_text(encoding="utf-8") for page in GUIDES.glob("*.md")]
    shown = re.findall(r'--8<-- "examples/(\w+)\.py"', "".join(pages))
    assert sorted([*shown, "demo"]) == sorted(PROGRAMS)


@pytest.fixture(params=["memory", "nats", "redis", "zmq"])
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    async with cluster_url(request.param) as found:
        yield found


@pytest.mark.parametrize("program", PRINTING)
async def test_a_program_prints_what_it_says(program: str, url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, PROGRAMS[program], url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert out.decode() == promised(program)


async def test_the_program_beside_go_prints_what_it_says() -> None:
    """It starts a server of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, PROGRAMS["beside_go"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    assert out.decode() == promised("beside_go")


def test_the_bytes_of_go_are_recorded_ones() -> None:
    """They are among those that the transport itself is tested with."""
    plugin = Path(__file__).parents[2] / "plugins" / "clstr-nats"
    recorded = json.loads((plugin / "tests" / "data" / "wire.json").read_text(encoding="utf-8"))
    tree = ast.parse(PROGRAMS["beside_go"].read_text(encoding="utf-8"))
    constants = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id[:3] == "GO_"
    }
    assert constants.pop("GO_REQUEST").decode() in {each["wire"] for each in recorded["envelopes"]}
    assert {each.decode() for each in constants.pop("GO_REPLIES")} <= {each["wire"] for each in recorded["replies"]}
    assert constants == {}


async def is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


async def test_the_service_serves_says_so_and_ends_when_told() -> None:
    port = free_port()
    async with nats_server() as server, asyncio.timeout(30):
        environment = {"CLSTR_URL": server.url, "NODE_ID": "node-0", "NODE_COUNT": "1", "HEALTH_PORT": str(port)}
        process = await asyncio.create_subprocess_exec(
            sys.executable, PROGRAMS["service"], env={**os.environ, **environment}, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        async with clstr.connect(server.url) as transport:
            client = clstr.Client(transport, num_shards=256, timeout=20, retry_undelivered=True)
            answer = await client.request_key("ada", "Greet", b'{"name":"Ada"}')
        assert answer == b'{"text":"hello, Ada, from node-0"}'
        while b"serves 256 shards" not in await process.stderr.readline():
            assert not process.stderr.at_eof()
        assert await is_open(port)
        process.terminate()
        rest = await process.stderr.read()
        assert await process.wait() == 0, rest.decode()
        assert b"Traceback" not in rest
        assert not await is_open(port)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"NODE_COUNT": "1"}, "ValueError: set CLSTR_URL, NODE_ID: "),
        (
            {"CLSTR_URL": "memory://", "NODE_ID": "node-0", "NODE_COUNT": "two"},
            "ValueError: NODE_COUNT must be a number",
        ),
        ({"CLSTR_URL": "memory://", "NODE_ID": "node-5", "NODE_COUNT": "2"}, "ValueError: node 'node-5' is not in"),
        ({"CLSTR_URL": "kafka://", "NODE_ID": "node-0", "NODE_COUNT": "1"}, "UnknownSchemeError: no installed"),
    ],
    ids=["missing", "no number", "not among them", "no plugin"],
)
async def test_a_service_that_cannot_start_says_why_in_one_line(settings: dict[str, str], message: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in {"NODE_ID", "CLSTR_URL", "NODE_COUNT"}}
    process = await asyncio.create_subprocess_exec(
        sys.executable, PROGRAMS["service"], env={**kept, **settings}, stderr=subprocess.PIPE
    )
    _, err = await process.communicate()
    assert process.returncode == 1
    assert err.decode().startswith(message)
    assert err.count(b"\n") == 1


def ask(port: int, method: str, path: str) -> tuple[int, object]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


async def test_counters_behind_http_count(url: str) -> None:
    await asyncio.to_thread(count_behind_http, url)


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
