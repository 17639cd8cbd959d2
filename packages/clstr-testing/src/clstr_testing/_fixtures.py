"""
Pytest fixtures for those who test what they build on clstr. They work in both modes of pytest-asyncio.

Whatever pytest loads with them is loaded for every test run where clstr-testing is installed, hence the late imports.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest_asyncio

if TYPE_CHECKING:
    import clstr
    from clstr_testing._cluster import Cluster, HandlerOf


class StartCluster(Protocol):
    """What the fixture `clstr_cluster` is: `cluster`, awaited instead of entered."""

    async def __call__(
        self,
        handler: clstr.Handler | None = None,
        *,
        handler_of: HandlerOf | None = None,
        nodes: int = 3,
        num_shards: int = 256,
        seed: str = "seed",
        url: str | None = None,
        **options: Any,
    ) -> Cluster:
        """Start a cluster that runs until the end of the test; see `clstr_testing.cluster`."""


@pytest_asyncio.fixture
async def clstr_cluster() -> AsyncIterator[StartCluster]:
    """Yield what starts a cluster, ``await`` it as you would enter `cluster`; at the end of the test all are closed."""
    from clstr_testing._cluster import cluster  # noqa: PLC0415 -- loaded where it is used

    async with AsyncExitStack() as stack:

        async def start(*arguments: Any, **options: Any) -> Cluster:
            return await stack.enter_async_context(cluster(*arguments, **options))

        yield start


@pytest_asyncio.fixture
async def clstr_transport() -> AsyncIterator[clstr.Transport]:
    """A memory transport, private to the test, and closed at the end of it: ``CreateInMemoryTransport``."""
    import clstr  # noqa: PLC0415 -- loaded where it is used

    async with clstr.connect("memory://", drain_timeout=1.0) as transport:
        yield transport
