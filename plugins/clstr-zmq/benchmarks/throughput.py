"""
Requests per second of this transport, beside the same exchange over ``zmq.asyncio``.

    python plugins/clstr-zmq/benchmarks/throughput.py [--callers 256] [--requests 50000] [--uvloop]

Both sides run in one process, on one loop, over TCP on 127.0.0.1. What is sent over ``zmq.asyncio`` is bare bytes with
a number before them: no envelope, no deadline, no limits.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from itertools import count, islice

import zmq
import zmq.asyncio

import clstr

BODY = b"x" * 64
Call = Callable[[], Awaitable[object]]


async def measure(name: str, call: Call, requests: int, callers: int) -> None:
    """Send ``requests`` from ``callers`` at once, and print how many that are in a second."""
    numbers = islice(count(), requests)

    async def caller() -> None:
        for _ in numbers:
            await call()

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    print(f"{name:14} {requests / (time.perf_counter() - start):10,.0f} requests/s")


async def measure_clstr(requests: int, callers: int) -> None:
    """A node and a client, each a peer of its own."""

    async def echo(envelope: clstr.Envelope) -> bytes:
        return envelope.data

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with clstr.connect(f"zmq://?bind=tcp://127.0.0.1:{port}", max_concurrent=callers) as server:
        await server.subscribe([0], echo)
        async with clstr.connect(f"zmq://127.0.0.1:{port}") as client:
            envelope = clstr.Envelope(shard=0, type="echo", data=BODY)
            await measure("clstr-zmq", lambda: client.request(envelope, timeout=60), requests, callers)


async def measure_zmq_asyncio(requests: int, callers: int) -> None:
    """A ROUTER that echoes, and a DEALER whose replies are told apart by a number."""
    waiting: dict[bytes, asyncio.Future[bytes]] = {}
    tokens = count()
    loop = asyncio.get_running_loop()
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
        router.setsockopt(zmq.SNDHWM, 0)
        dealer.setsockopt(zmq.SNDHWM, 0)
        dealer.connect(f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}")

        async def serve() -> None:
            while True:
                await router.send_multipart(await router.recv_multipart())

        async def read() -> None:
            while True:
                token, body = await dealer.recv_multipart()
                waiting.pop(token).set_result(body)

        async def call() -> bytes:
            token = b"%d" % next(tokens)
            reply: asyncio.Future[bytes] = loop.create_future()
            waiting[token] = reply
            await dealer.send_multipart((token, BODY))
            return await reply

        tasks = [loop.create_task(serve()), loop.create_task(read())]
        await measure("zmq.asyncio", call, requests, callers)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run(requests: int, callers: int) -> None:
    """Measure both."""
    await measure_clstr(requests, callers)
    await measure_zmq_asyncio(requests, callers)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="clstr-zmq beside zmq.asyncio.")
    parser.add_argument("--requests", type=int, default=50_000, help="how many (default: %(default)s)")
    parser.add_argument("--callers", type=int, default=256, help="how many at once (default: %(default)s)")
    parser.add_argument("--uvloop", action="store_true", help="on uvloop")
    options = parser.parse_args()
    factory = None
    if options.uvloop:
        import uvloop  # noqa: PLC0415 -- only where it is asked for

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run(options.requests, options.callers))


if __name__ == "__main__":
    main()
