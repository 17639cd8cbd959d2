"""
What pytest loads wherever clstr-testing is installed: fixtures for real brokers, and their logs in failure reports.

It imports nothing of ours until a fixture is used: most test runs that load it have nothing to do with brokers.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Generator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TYPE_CHECKING

import pytest

from clstr_testing._fixtures import clstr_cluster as clstr_cluster
from clstr_testing._fixtures import clstr_transport as clstr_transport

if TYPE_CHECKING:
    from clstr_testing._servers import Server


@pytest.fixture(scope="session", name="nats_server")
def shared_nats_server() -> Iterator[Server]:
    """A NATS server that all tests share; a test that stops or pauses one starts its own."""
    from clstr_testing._servers import nats_server  # noqa: PLC0415 -- loaded where it is used

    with _running(nats_server()) as server:
        yield server


@pytest.fixture(scope="session", name="valkey_server")
def shared_valkey_server() -> Iterator[Server]:
    """A Valkey server that all tests share; a test that stops or pauses one starts its own."""
    from clstr_testing._servers import valkey_server  # noqa: PLC0415 -- loaded where it is used

    with _running(valkey_server()) as server:
        yield server


@pytest.fixture(scope="session", name="redis_server")
def shared_redis_server() -> Iterator[Server]:
    """A Redis server that all tests share; where Redis is not installed, they are skipped."""
    from clstr_testing._brokers import REDIS, ServerNotFoundError  # noqa: PLC0415 -- loaded where it is used
    from clstr_testing._servers import redis_server  # noqa: PLC0415 -- loaded where it is used

    try:
        REDIS.program()
    except ServerNotFoundError as error:
        pytest.skip(str(error))
    with _running(redis_server()) as server:
        yield server


@contextmanager
def _running(server: AbstractAsyncContextManager[Server]) -> Iterator[Server]:
    """Enter and leave ``server`` on a loop of its own: it outlives the loops of the tests."""
    loop = asyncio.new_event_loop()
    try:
        started = loop.run_until_complete(server.__aenter__())
        try:
            yield started
        finally:
            loop.run_until_complete(server.__aexit__(None, None, None))
    finally:
        loop.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a test that fails the logs of the servers that it uses."""
    report = yield
    servers = sys.modules.get("clstr_testing._servers")
    if report.failed and servers is not None:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, servers.Server):
                report.sections.append((f"Log of {name}", value.log_tail()))
    return report
