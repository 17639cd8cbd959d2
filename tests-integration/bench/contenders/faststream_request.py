"""FastStream's request, on NATS and on Redis, without the log line that it writes for each message by default."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from faststream.nats import NatsBroker
from faststream.redis import RedisBroker

from bench.contender import Ask, Contender, Load, Prepare

WORKERS = 100  # as many messages at once as a transport of clstr runs
MOST_CONNECTIONS = 1000  # on Redis each request in flight subscribes on one of its own; redis-py allows 100 by default


class FastStream(Contender):
    """Echoes bytes."""

    def broker(self) -> NatsBroker | RedisBroker:
        """Return one that is not connected yet."""
        options: Any = {"logger": None}  # Any: the Redis broker's type does not admit it, the broker does
        if self.place.url.startswith("nats"):
            return NatsBroker(self.place.url, **options)
        return RedisBroker(f"{self.place.url}?max_connections={MOST_CONNECTIONS}", **options)

    @asynccontextmanager
    async def serve(self, node: int) -> AsyncIterator[None]:
        """Subscribe."""

        async def echo(body: bytes) -> bytes:
            self.handled += 1
            return body

        async with self.broker() as broker:
            broker.subscriber(f"echo.{node}", max_workers=WORKERS)(echo)
            await broker.start()
            yield

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Prepare]:
        """Connect."""
        async with self.broker() as broker:
            await broker.start()
            yield lambda load: self._ask(broker, load)

    def _ask(self, broker: Any, load: Load) -> Ask:  # Any: the two brokers' requests differ in a parameter's name
        payload, nodes = load.payload, self.place.nodes

        async def request(number: int) -> bytes:
            reply = await broker.request(payload, f"echo.{number % nodes}", timeout=5)
            body: bytes = reply.body
            return body

        return request
