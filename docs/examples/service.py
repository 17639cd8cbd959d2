"""
A node for production: settings from the environment, a port that is open while it serves, an orderly end on SIGTERM.

    CLSTR_URL=nats://127.0.0.1:4222 NODE_ID=node-0 NODE_COUNT=3 python docs/examples/service.py

NODE_ID
    A name, ``-`` and a number below NODE_COUNT: ``node-0``. Every node is called alike but for the number.
HEALTH_PORT
    Unless it is 0: this port accepts connections while the node serves its shards.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

import clstr

NUM_SHARDS = 256
DRAIN_TIMEOUT = 20.0  # seconds; whatever stops the process must wait for longer
WAIT = 60.0  # seconds: the broker may be started after the node
logger = logging.getLogger("service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the environment says."""

    url: str
    node_id: str
    nodes: list[str]
    health_port: int

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the variables; one that is missing or malformed is a `ValueError` that names it."""
        missing = [name for name in ("CLSTR_URL", "NODE_ID", "NODE_COUNT") if not environment.get(name)]
        if missing:
            raise ValueError(f"set {', '.join(missing)}: the beginning of this program says what they mean")
        name, _, _ = environment["NODE_ID"].rpartition("-")
        return cls(
            url=environment["CLSTR_URL"],
            node_id=environment["NODE_ID"],
            nodes=[f"{name}-{number}" for number in range(_number(environment, "NODE_COUNT"))],
            health_port=_number(environment, "HEALTH_PORT"),
        )


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "0")
    if not text.isdecimal():
        raise ValueError(f"{name} must be a number, not {text!r}")
    return int(text)


class Greeting(msgspec.Struct):
    """The reply."""

    text: str


class Greet(msgspec.Struct, clstr.Message[Greeting]):
    """The request."""

    name: str


router = clstr.Router()


@router.on(Greet)
async def greet(message: Greet, context: clstr.Context) -> Greeting:
    """Your code begins here."""
    return Greeting(f"hello, {message.name}, from {context.node_id}")


async def be_healthy(node: clstr.Node, port: int) -> None:
    """Accept connections from when the node serves; what is asked does not matter."""

    def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    await node.ready.wait()
    server = await asyncio.start_server(close, port=port) if port else None
    logger.info("%s serves %d shards", node.node_id, len(node.shards))
    if server is not None:
        async with server:
            await server.serve_forever()


async def serve(settings: Settings) -> None:
    """Run the node until SIGTERM or SIGINT, then let it finish what it has begun."""
    async with clstr.connect(settings.url, wait=WAIT, drain_timeout=DRAIN_TIMEOUT) as transport:
        node = clstr.Node(transport, router, node_id=settings.node_id, nodes=settings.nodes, num_shards=NUM_SHARDS)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, node.stop)
        health = asyncio.create_task(be_healthy(node, settings.health_port))
        try:
            await node.run()  # raises if the connection is lost for good: let the supervisor start us again
        finally:
            health.cancel()
            await asyncio.wait([health])


def main() -> None:
    """Run, and end in one line if that cannot be: a traceback would only hide it."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(serve(Settings.read(os.environ)))
    except (clstr.ClstrError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
