"""The program docs/examples/carts.py: nodes are killed and stopped under load, and lose nothing acknowledged."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest

from clstr_testing import Server, free_port

pytest.importorskip("fastapi", reason="the front is FastAPI's")
CARTS = Path(__file__).parents[2] / "docs" / "examples" / "carts.py"
USERS = [f"user-{number}" for number in range(8)]
ACKNOWLEDGED = 40  # between one fault and the next


@contextmanager
def running(*command: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python program that says on stderr what it does."""
    environment = {**os.environ, **environment}
    with subprocess.Popen(
        [sys.executable, *command], env=environment, cwd=CARTS.parent, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(text: bytes, process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return
    pytest.fail(b"".join(lines).decode())


class Load:
    """Threads that put apples into carts, each message under an id of its own, and count what is acknowledged."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ids = itertools.count()
        self._is_over = threading.Event()
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._run, args=(user,)) for user in USERS]
        self.acknowledged: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()  # whose answer does not say whether they are in the cart

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def wait(self) -> None:
        """Return when `ACKNOWLEDGED` more messages have been acknowledged."""
        goal = self.acknowledged.total() + ACKNOWLEDGED
        with self._changed:
            assert self._changed.wait_for(lambda: self.acknowledged.total() >= goal, 60)

    def _run(self, user: str) -> None:
        while not self._is_over.is_set():
            status, _ = ask(self._port, "POST", f"/carts/{user}/items/apple", f"m-{next(self._ids)}")
            with self._changed:
                self.acknowledged[user] += status == 200
                self.unknown[user] += status not in {200, 503}
                self._changed.notify_all()


def ask(port: int, method: str, path: str, message_id: str = "") -> tuple[int, dict[str, int]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, headers={"Idempotency-Key": message_id})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("broker", ["nats_server", "valkey_server"])
def test_no_acknowledged_item_is_lost(broker: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    server: Server = request.getfixturevalue(broker)
    settings = {"CLSTR_URL": server.url, "CARTS_DB": str(tmp_path / "carts.sqlite")}
    port = free_port()
    with ExitStack() as stack:

        def start(node_id: str) -> subprocess.Popen[bytes]:
            process = stack.enter_context(running(str(CARTS), node_id, environment=settings))
            wait_for(b"owns", process)
            return process

        nodes = {node_id: start(node_id) for node_id in ("node-0", "node-1", "node-2")}
        uvicorn = ["-m", "uvicorn", "carts:app", "--port", str(port), "--no-access-log"]
        wait_for(b"running on", stack.enter_context(running(*uvicorn, environment=settings)))
        with Load(port) as load:
            for node_id, number in (("node-0", signal.SIGKILL), ("node-1", signal.SIGTERM), ("node-2", signal.SIGKILL)):
                load.wait()
                nodes[node_id].send_signal(number)
                assert nodes[node_id].wait(60) == (0 if number == signal.SIGTERM else -number)
                nodes[node_id] = start(node_id)
            load.wait()
        for user in USERS:
            _, items = ask(port, "GET", f"/carts/{user}")
            least = load.acknowledged[user]
            assert least <= items.get("apple", 0) <= least + load.unknown[user], user
