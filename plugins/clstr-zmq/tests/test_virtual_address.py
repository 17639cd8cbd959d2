"""Seeds behind one address that leads each connection to another of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import clstr

Connect = Callable[..., Awaitable[clstr.Transport]]
NewPort = Callable[[], int]


class Balancer:
    """
    Forwards each connection to the next of ``targets``, and to the last one for ever.

    Attributes:
        port: Its own.
        targets: Ports.
    """

    def __init__(self, *targets: int) -> None:
        self.port = 0
        self.targets = list(targets)
        self.led: list[int] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Balancer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self.targets.pop(0) if len(self.targets) > 1 else self.targets[0]
        self.led.append(target)
        there = await asyncio.open_connection("127.0.0.1", target)
        for pump in (self._pump(reader, there[1]), self._pump(there[0], writer)):
            self._tasks.add(asyncio.ensure_future(pump))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()


async def echo(message: clstr.Envelope) -> bytes:
    return message.data


async def answered(client: clstr.Transport, shard: int) -> None:
    """Send until there is an answer."""
    async with asyncio.timeout(20):
        while True:
            try:
                assert await client.request(clstr.Envelope(shard=shard, type="t", data=b"x"), timeout=60) == b"x"
                return
            except (clstr.NoShardSubscriberError, clstr.TransportUnavailableError, clstr.ConnectionLostError):
                await asyncio.sleep(0.01)


async def test_peers_that_were_led_to_themselves_find_each_other(connect: Connect, new_port: NewPort) -> None:
    one, two = new_port(), new_port()
    async with Balancer(one, two, one).run() as balancer:
        first = await connect(f"zmq://127.0.0.1:{balancer.port}?bind=tcp://127.0.0.1:{one}")
        second = await connect(f"zmq://127.0.0.1:{balancer.port}?bind=tcp://127.0.0.1:{two}")
        await first.subscribe([1], echo)
        await second.subscribe([2], echo)
        await answered(first, 2)
        await answered(second, 1)


async def test_a_peer_that_was_led_to_itself_says_at_once_that_a_shard_is_unowned(
    connect: Connect, new_port: NewPort
) -> None:
    port = new_port()
    async with Balancer(port).run() as balancer:
        alone = await connect(f"zmq://127.0.0.1:{balancer.port}?bind=tcp://127.0.0.1:{port}", reconnect_wait=60.0)
        async with asyncio.timeout(20):
            try:
                await alone.request(clstr.Envelope(shard=0, type="t"), timeout=60)
            except clstr.NoShardSubscriberError:
                return
        raise AssertionError("a shard that nobody holds was answered")


async def test_two_groups_behind_one_address_become_one(connect: Connect, new_port: NewPort) -> None:
    """A peer that is connected to one of them, along that address, still looks where else it leads."""
    one, two = new_port(), new_port()
    first = await connect(f"zmq://?bind=tcp://127.0.0.1:{one}")
    second = await connect(f"zmq://?bind=tcp://127.0.0.1:{two}")
    await first.subscribe([1], echo)
    await second.subscribe([2], echo)
    async with Balancer(one, one, two, one).run() as balancer:
        third = await connect(f"zmq://127.0.0.1:{balancer.port}?bind=tcp://127.0.0.1:*")
        await third.subscribe([3], echo)
        await answered(third, 1)
        await answered(third, 2)
        await answered(first, 2)
        await answered(second, 1)
        await answered(second, 3)


async def test_the_address_takes_over_when_the_peer_behind_it_has_gone(connect: Connect, new_port: NewPort) -> None:
    """At once: a restart behind the same address is found without a pause of half a minute."""
    one, two = new_port(), new_port()
    first = await connect(f"zmq://?bind=tcp://127.0.0.1:{one}")
    async with Balancer(one).run() as balancer:
        client = await connect(f"zmq://127.0.0.1:{balancer.port}")
        await first.subscribe([1], echo)
        await answered(client, 1)
        balancer.targets[:] = [two]
        second = await connect(f"zmq://?bind=tcp://127.0.0.1:{two}")
        await second.subscribe([1], echo)
        await first.aclose()
        await answered(client, 1)
