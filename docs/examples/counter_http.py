"""
Counters behind HTTP: the front asks by name, the node that owns the name counts.

    python docs/examples/counter_http.py [--url URL] [--port 8000]

    $ curl -X POST http://127.0.0.1:8000/counters/visits
    {"name":"visits","value":1}
    $ curl http://127.0.0.1:8000/counters/visits
    {"name":"visits","value":1}

Any ASGI server can run `Front`, in as many processes as needed; here uvicorn does, beside two nodes. Ctrl-C ends it in
good order: requests are answered, nodes drained, transports closed; the exit code is 0.
"""

import argparse
import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import uvicorn

import clstr

NODES = ["node-1", "node-2"]
NUM_SHARDS = 64
PREFIX = "/counters/"
Message = MutableMapping[str, Any]  # Any: ASGI's own dictionaries


class Value(msgspec.Struct):
    """The reply to both messages."""

    name: str
    value: int


class Increment(msgspec.Struct, clstr.Message[Value]):
    """Count one."""


class Read(msgspec.Struct, clstr.Message[Value]):
    """How many are there?"""


class Counter(clstr.Actor):
    """The counter whose name is the key."""

    value = 0

    @clstr.handles(Increment)
    async def increment(self, message: Increment, context: clstr.Context) -> Value:
        """Count; no lock is needed, since one message is handled at a time."""
        self.value += 1
        return Value(self.key, self.value)

    @clstr.handles(Read)
    async def read(self, message: Read, context: clstr.Context) -> Value:
        """Tell."""
        return Value(self.key, self.value)


class Front:
    """An ASGI application: GET reads a counter, POST increments it."""

    def __init__(self, client: clstr.Client) -> None:
        """Ask through ``client``."""
        self._client = client

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"this application speaks http, not {scope['type']}")
        status, body = await self._answer(scope["method"], scope["path"])
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": msgspec.json.encode(body) + b"\n"})

    async def _answer(self, method: str, path: str) -> tuple[int, Value | dict[str, str]]:
        name = path.removeprefix(PREFIX)
        if not path.startswith(PREFIX) or not name or not name.isprintable():
            return 404, {"error": f"counters are at {PREFIX}name"}
        counter = self._client.key(name)
        try:
            match method:
                case "GET":
                    return 200, await counter.request(Read())
                case "POST":
                    return 200, await counter.request(Increment())
                case _:
                    return 405, {"error": "GET reads a counter, POST increments it"}
        except clstr.InvalidEnvelopeError as error:  # a name of many kilobytes
            return 400, {"error": str(error)}
        except clstr.ClstrError as error:
            # 503 invites to try again, which is right only if it certainly was not counted.
            return 504 if error.maybe_executed else 503, {"error": str(error)}


async def serve(url: str, port: int) -> None:
    """Run two nodes and the front until the program is stopped."""
    async with AsyncExitStack() as stack:
        for node_id in NODES:
            transport = await stack.enter_async_context(clstr.connect(url))
            handler = clstr.ActorHandler(Counter)
            node = clstr.Node(transport, handler, node_id=node_id, nodes=NODES, num_shards=NUM_SHARDS)
            await stack.enter_async_context(node)
        transport = await stack.enter_async_context(clstr.connect(url))
        front = Front(clstr.Client(transport, num_shards=NUM_SHARDS, timeout=2.0))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", port)))
        server = uvicorn.Server(uvicorn.Config(front, log_level="warning", lifespan="off"))
        print(f"counters at http://127.0.0.1:{listener.getsockname()[1]}{PREFIX}name", flush=True)
        for ending in (signal.SIGINT, signal.SIGTERM):
            # uvicorn takes them while it serves, and raises them again at its end: that must not keep the rest from
            # closing.
            signal.signal(ending, signal.SIG_IGN)
        await server.serve(sockets=[listener])
    print("stopped", flush=True)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="Counters behind HTTP.")
    parser.add_argument("--url", default="memory://counters", help="any transport's URL (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    options = parser.parse_args()
    asyncio.run(serve(options.url, options.port))


if __name__ == "__main__":
    main()
