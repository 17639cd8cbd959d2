"""``grpc.aio``: a unary method on bytes, one channel to each node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from bench.contender import Ask, Contender, Load, Prepare

SERVICE, METHOD = "bench.Echo", "Echo"
OPTIONS = [("grpc.max_receive_message_length", 8 * 1024 * 1024)]


class GrpcAio(Contender):
    """Echoes bytes."""

    @asynccontextmanager
    async def serve(self, node: int) -> AsyncIterator[None]:
        """Listen."""

        async def echo(request: bytes, _context: Any) -> bytes:
            self.handled += 1
            return request

        server = grpc.aio.server(options=OPTIONS)
        handlers: dict[str, Any] = {METHOD: grpc.unary_unary_rpc_method_handler(echo)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        server.add_insecure_port(f"127.0.0.1:{self.place.ports[node]}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Prepare]:
        """Connect to every node."""
        async with AsyncExitStack() as stack:
            calls: list[Any] = []
            for port in self.place.ports:
                channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS)
                await stack.enter_async_context(channel)
                await channel.channel_ready()
                calls.append(channel.unary_unary(f"/{SERVICE}/{METHOD}"))
            yield lambda load: _ask(calls, load)


def _ask(calls: list[Any], load: Load) -> Ask:
    payload, nodes = load.payload, len(calls)

    async def request(number: int) -> bytes:
        answer: bytes = await calls[number % nodes](payload)
        return answer

    return request
