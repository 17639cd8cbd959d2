"""A URL for each transport, by which peers find each other: its broker is started, or its first peer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import clstr
from clstr_testing import free_port, nats_server, valkey_server

TRANSPORTS = ("memory", "nats", "redis", "zmq")
SERVERS = {"nats": nats_server, "redis": valkey_server}


@asynccontextmanager
async def cluster_url(transport: str) -> AsyncIterator[str]:
    """Provide the URL of a new cluster over ``transport``; each peer connects to it as it stands."""
    if transport in SERVERS:
        async with SERVERS[transport]() as server:
            yield server.url
    elif transport == "zmq":
        port = free_port()
        async with clstr.connect(f"zmq://?bind=tcp://127.0.0.1:{port}"):
            yield f"zmq://127.0.0.1:{port}?bind=tcp://127.0.0.1:*"
    else:
        yield f"memory://{uuid4().hex}"
