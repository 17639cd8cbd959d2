"""Bare nats-py: its own request and respond."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench.contender import Ask, Contender, Load, Prepare


class NatsRequest(Contender):
    """Echoes bytes."""

    @asynccontextmanager
    async def serve(self, node: int) -> AsyncIterator[None]:
        """Subscribe to a subject of its own."""

        async def echo(message: Msg) -> None:
            self.handled += 1
            if message.reply:
                await message.respond(message.data)

        connection = await nats.connect(self.place.url)
        try:
            await connection.subscribe(f"echo.{node}", cb=echo)
            await connection.flush()
            yield
        finally:
            await connection.close()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Prepare]:
        """Connect."""
        connection = await nats.connect(self.place.url)
        try:
            yield lambda load: self._ask(connection, load)
        finally:
            await connection.close()

    def _ask(self, connection: Client, load: Load) -> Ask:
        payload, nodes = load.payload, self.place.nodes

        async def request(number: int) -> bytes:
            return (await connection.request(f"echo.{number % nodes}", payload, timeout=5)).data

        async def notify(number: int) -> None:
            await connection.publish(f"echo.{number % nodes}", payload)
            await connection.flush()  # how one learns that the server has it

        return notify if load.oneway else request
