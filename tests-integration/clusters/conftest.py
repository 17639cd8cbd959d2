"""Clusters to test: each on its own broker, over memory, over a UNIX socket, and over NATS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import clstr
from clstr.spi import Engine, Limits
from clusters.types import Connect
from clusters.unix_hub import Hub
from clusters.unix_link import UnixLink
from clusters.urls import TRANSPORTS, cluster_url


@pytest.fixture(params=["unix", *TRANSPORTS])
async def connect(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Connect]:
    """Open one more transport to the same broker; all are closed afterwards."""
    async with AsyncExitStack() as stack:
        path = tmp_path / "hub"
        if request.param == "unix":
            url = ""
            await stack.enter_async_context(Hub(path))
        else:
            url = await stack.enter_async_context(cluster_url(request.param))

        async def open_one(**limits: Any) -> clstr.Transport:
            if request.param == "unix":
                transport: clstr.Transport = await Engine(UnixLink(path), limits=Limits(**limits)).open()
            else:
                transport = await clstr.connect(url, **limits)
            stack.push_async_callback(transport.aclose)
            return transport

        yield open_one
