"""The fixtures for brokers, in test files of somebody else."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from clstr_testing._brokers import VALKEY

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def no_leftovers() -> None:
    """
    Collect what earlier tests left before pytest runs inside of pytest.

    CPython 3.11 fails with "AST constructor recursion depth mismatch" where the garbage collector logs a traceback
    while pytest parses a module (https://github.com/python/cpython/issues/106905).
    """
    gc.collect()


IMPORT = """
import sys
import clstr_testing._pytest_plugin

ours = ("clstr", "clstr_testing", "nats", "redis", "valkey")
print(*sorted(name for name in sys.modules if name.split(".")[0] in ours))
"""
USES = """
import asyncio, os, socket
import pytest

seen = set()

@pytest.fixture
def client(nats_server):
    with socket.create_connection((nats_server.host, nats_server.port), timeout=10) as client:
        yield client

def test_in_a_function(nats_server, valkey_server):
    os.kill(nats_server.pid, 0)
    os.kill(valkey_server.pid, 0)
    seen.add((nats_server.pid, valkey_server.pid))

@pytest.mark.asyncio
async def test_in_a_coroutine(nats_server, valkey_server):
    seen.add((nats_server.pid, valkey_server.pid))
    reader, writer = await asyncio.open_connection(valkey_server.host, valkey_server.port)
    writer.write(b"PING\\r\\n")
    assert await reader.readline() == b"+PONG\\r\\n"
    writer.close()
    await writer.wait_closed()

@pytest.mark.asyncio
async def test_on_another_loop_it_can_be_restarted(valkey_server):
    await valkey_server.restart()
    os.kill(valkey_server.pid, 0)

def test_through_another_fixture(client):
    assert client.recv(4) == b"INFO"

def test_they_are_shared():
    assert len(seen) == 1

def test_afterwards(request):
    Path = __import__("pathlib").Path
    Path("pids").write_text(" ".join(str(pid) for pair in seen for pid in pair))
"""
FAILS = """
import pytest

@pytest.fixture
def indirect(nats_server):
    return nats_server

@pytest.fixture
def broken(nats_server):
    raise LookupError

def test_passes(nats_server):
    pass

def test_fails(indirect):
    assert 0

def test_fails_before_it_begins(nats_server, broken):
    pass

def test_fails_without_a_server():
    assert 0
"""


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run tests in this process: then their use of the plugin counts as covered, and it is imported already."""
    pytester.makeini(
        """
        [pytest]
        asyncio_default_fixture_loop_scope = function
        filterwarnings =
            error
            ignore::pytest.PytestAssertRewriteWarning
        """
    )
    return pytester.runpytest_inprocess(*arguments)


def test_loading_the_plugin_loads_no_clstr_and_no_driver() -> None:
    """Every test run in an environment with clstr-testing pays for it."""
    command = [sys.executable, "-c", IMPORT]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert set(result.stdout.split()) <= {"clstr_testing", "clstr_testing._fixtures", "clstr_testing._pytest_plugin"}


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_servers_are_shared_by_all_kinds_of_tests_and_end_with_the_session(
    pytester: pytest.Pytester, mode: str
) -> None:
    pytester.makepyfile(USES)
    run(pytester, f"--asyncio-mode={mode}").assert_outcomes(passed=6)
    first, *_ = (pytester.path / "pids").read_text(encoding="utf-8").split()
    result = subprocess.run(["/bin/kill", "-0", first], capture_output=True, check=False)
    assert result.returncode != 0, "the server still runs"


def test_a_failing_test_shows_the_logs_of_its_servers(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILS)
    result = run(pytester)
    result.assert_outcomes(passed=1, failed=2, errors=1)
    text = result.stdout.str()
    error, first, second = (text.index(f"_ {name} _") for name in HEADINGS)
    for part in (text[error:first], text[first:second]):
        assert "Log of nats_server" in part
        assert "Server is ready" in part
    assert "Log of" not in text[second:]


HEADINGS = ("ERROR at setup of test_fails_before_it_begins", "test_fails", "test_fails_without_a_server")


def test_a_run_without_servers_reports_failures_as_ever(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_fails(): assert 0")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*Log of*")


def test_a_server_that_is_not_installed_is_an_error_that_says_how_to_get_it(pytester: pytest.Pytester) -> None:
    """A skip would let a whole run pass that tested nothing."""
    pytester.makeconftest(
        """
        import pytest
        from clstr_testing import _brokers

        @pytest.fixture(scope="session", autouse=True)
        def nothing_is_installed():
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PATH", "")
                patch.setattr(_brokers.Broker, "_in_wheel", lambda self: None)
                yield
        """
    )
    pytester.makepyfile("def test_one(nats_server): pass", test_two="def test_two(valkey_server): pass")
    result = run(pytester)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines_random(
        [
            '*nats-server is not installed: pip install "clstr-testing[[]nats]"',
            '*valkey-server is not installed: pip install "clstr-testing[[]redis]"',
        ]
    )


REDIS = "def test_redis(redis_server): assert redis_server.url.startswith('redis://')"


def test_redis_tests_are_skipped_where_it_is_not_installed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(pytester.path))
    pytester.makepyfile(REDIS)
    result = run(pytester, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines("*redis-server is not installed: install Redis with *")


def test_redis_tests_run_where_it_is_installed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    (pytester.path / "redis-server").symlink_to(VALKEY.program())
    monkeypatch.setenv("PATH", str(pytester.path), prepend=":")
    pytester.makepyfile(REDIS)
    run(pytester).assert_outcomes(passed=1)
