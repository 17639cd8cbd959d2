"""Clusters to test: each on its own broker, over memory, over a UNIX socket, and over NATS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import clstr
from clstr.spi import Engine, Limits
from clstr_testing import nats_server
from cluster_types import Connect
from unix_hub import Hub
from unix_link import UnixLink


@pytest.fixture(params=["memory", "unix", "nats"])
async def connect(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Connect]:
    """Open one more transport to the same broker; all are closed afterwards."""
    async with AsyncExitStack() as stack:
        name = uuid4().hex
        path = tmp_path / "hub"
        url = f"memory://{name}"
        if request.param == "unix":
            await stack.enter_async_context(Hub(path))
        elif request.param == "nats":
            url = (await stack.enter_async_context(nats_server())).url

        async def open_one(**limits: Any) -> clstr.Transport:
            if request.param == "unix":
                transport: clstr.Transport = await Engine(UnixLink(path), limits=Limits(**limits)).open()
            else:
                transport = await clstr.connect(url, **limits)
            stack.push_async_callback(transport.aclose)
            return transport

        yield open_one
