"""The fixtures, in test files of somebody else, in both modes of pytest-asyncio."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("clstr_memory")  # the wheel is tested beside clstr-core alone, too

TESTS = """
import asyncio

import clstr
import pytest

pytestmark = pytest.mark.asyncio
seen = []

async def echo(envelope):
    return envelope.data

async def test_a_cluster_is_one_line(clstr_cluster):
    c = await clstr_cluster(echo)
    assert await c.client.request_key("k", "Echo", b"data") == b"data"
    seen.append(c)

async def test_it_was_closed_at_the_end_of_its_test():
    assert len(asyncio.all_tasks()) == 1
    assert not seen[0].nodes

async def test_several_clusters_in_one_test(clstr_cluster):
    one = await clstr_cluster(echo, nodes=1)
    two = await clstr_cluster(handler_of=lambda node_id: echo, nodes=2, num_shards=16, max_concurrent=1)
    assert (len(one.nodes), len(two.nodes), two.num_shards) == (1, 2, 16)

async def test_a_transport_is_private(clstr_transport):
    await clstr_transport.subscribe([0], echo)
    assert await clstr_transport.request(clstr.Envelope(shard=0, type="Echo", data=b"data")) == b"data"
    seen.append(clstr_transport)

async def test_the_transport_was_closed_too():
    with pytest.raises(RuntimeError, match="another event loop|closed"):
        await seen[1].request(clstr.Envelope(shard=0, type="Echo"))
"""


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_the_fixtures_work_in_a_test_file_of_somebody_else(tmp_path: Path, mode: str) -> None:
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function"
    )
    (tmp_path / "test_them.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "clstr_testing._fixtures", f"--asyncio-mode={mode}", "-q"]
    ran = subprocess.run([*command, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "5 passed" in ran.stdout, ran.stdout + ran.stderr
