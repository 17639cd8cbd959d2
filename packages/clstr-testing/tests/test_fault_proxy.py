"""The proxy does what networks do, when it is told to and not otherwise."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar, cast

import pytest

from clstr_testing._fault_direction import PIECE_BYTES
from clstr_testing._fault_proxy import FaultProxy
from clstr_testing._leaks import no_leaks

T = TypeVar("T")
MUCH = 32 << 20  # more than all buffers between two sockets hold


async def soon(awaitable: Awaitable[T]) -> T:
    """Wait for what happens at once."""
    async with asyncio.timeout(10):
        return await awaitable


class End:
    """One end of a connection, as its program sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def receive(self, size: int) -> bytes:
        return await soon(self.reader.readexactly(size))

    async def receive_all(self) -> bytes:
        return await soon(self.reader.read())

    def reset(self) -> None:
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Bench:
    """A server, a proxy in front of it, and clients."""

    def __init__(self, proxy: FaultProxy, accepted: asyncio.Queue[End]) -> None:
        self.proxy, self.accepted = proxy, accepted
        self.ends: list[End] = []

    async def client(self) -> End:
        end = End(*await soon(asyncio.open_connection(self.proxy.host, self.proxy.port)))
        self.ends.append(end)
        return end

    async def server(self) -> End:
        end = await soon(self.accepted.get())
        self.ends.append(end)
        return end

    async def pair(self) -> tuple[End, End]:
        client = await self.client()
        return client, await self.server()


@asynccontextmanager
async def benches() -> AsyncIterator[Bench]:
    accepted: asyncio.Queue[End] = asyncio.Queue()
    listening = await asyncio.start_server(lambda reader, writer: accepted.put_nowait(End(reader, writer)), "127.0.0.1")
    port = listening.sockets[0].getsockname()[1]
    try:
        async with FaultProxy("127.0.0.1", port) as proxy:
            bench = Bench(proxy, accepted)
            yield bench
    finally:
        listening.close()
        while not accepted.empty():
            await bench.server()
        for end in bench.ends:
            end.writer.transport.abort()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with no_leaks(), benches() as bench:
        yield bench


async def turn(sender: End, receiver: End, times: int = 50) -> None:
    """Let the loop turn: what else could happen meanwhile has happened."""
    for number in range(times):
        sender.send(bytes([number]))
        assert await receiver.receive(1) == bytes([number])


async def test_without_faults_bytes_go_both_ways_and_are_counted(bench: Bench) -> None:
    client, server = await bench.pair()
    client.send(b"question")
    assert await server.receive(8) == b"question"
    server.send(b"answer")
    assert await client.receive(6) == b"answer"
    await soon(bench.proxy.until(lambda: bench.proxy.to_client.bytes_forwarded == 6))
    assert (bench.proxy.to_server.bytes_forwarded, bench.proxy.to_server.bytes_held) == (8, 0)
    assert (bench.proxy.connections, bench.proxy.connections_accepted) == (1, 1)


async def test_the_end_of_one_stream_leaves_the_other_open(bench: Bench) -> None:
    client, server = await bench.pair()
    client.send(b"last")
    client.writer.write_eof()
    assert await server.receive_all() == b"last"
    server.send(b"heard")
    server.writer.write_eof()
    assert await client.receive_all() == b"heard"
    await soon(bench.proxy.until(lambda: bench.proxy.connections == 0))


async def test_a_stalled_direction_holds_bytes_and_the_other_goes_on(bench: Bench) -> None:
    client, server = await bench.pair()
    bench.proxy.to_server.stall()
    client.send(b"held")
    await soon(bench.proxy.until(lambda: bench.proxy.to_server.bytes_held == 4))
    await turn(server, client)
    assert bench.proxy.to_server.bytes_forwarded == 0
    bench.proxy.to_server.resume()
    assert await server.receive(4) == b"held"


async def test_a_stalled_direction_stops_reading(bench: Bench) -> None:
    """The sender must feel it: otherwise the proxy would be a buffer without a bound."""
    client, server = await bench.pair()
    bench.proxy.to_server.stall()
    client.send(bytes(MUCH))
    drained = asyncio.ensure_future(client.writer.drain())
    await soon(bench.proxy.until(lambda: bench.proxy.to_server.bytes_held > 0))
    await turn(server, client)
    assert bench.proxy.to_server.bytes_held <= PIECE_BYTES
    assert not drained.done()
    bench.proxy.to_server.resume()
    assert await server.receive(MUCH) == bytes(MUCH)
    await soon(drained)


async def test_a_stalled_direction_holds_the_end_of_a_stream(bench: Bench) -> None:
    client, server = await bench.pair()
    bench.proxy.to_server.stall()
    client.writer.write_eof()
    await turn(server, client)
    assert not server.reader.at_eof()
    bench.proxy.to_server.resume()
    assert await server.receive_all() == b""


async def test_a_stalled_direction_holds_a_reset(bench: Bench) -> None:
    client, server = await bench.pair()
    bench.proxy.to_client.stall()
    server.reset()
    await turn(*await bench.pair())
    assert bench.proxy.connections == 2
    bench.proxy.to_client.resume()
    with pytest.raises(ConnectionResetError):
        await client.receive(1)


async def test_delay_makes_each_piece_wait(bench: Bench) -> None:
    client, server = await bench.pair()
    bench.proxy.to_client.delay = 0.02
    before = asyncio.get_running_loop().time()
    server.send(b"late")
    assert await client.receive(4) == b"late"
    assert asyncio.get_running_loop().time() - before >= 0.018  # uvloop's clock has milliseconds


async def test_a_long_delay_ends_with_the_proxy(bench: Bench) -> None:
    client, server = await bench.pair()
    bench.proxy.to_server.delay = 600.0
    client.send(b"late")
    await soon(bench.proxy.until(lambda: bench.proxy.to_server.bytes_held == 4))
    await turn(server, client)
    assert bench.proxy.to_server.bytes_forwarded == 0


async def test_one_byte_at_a_time_reaches_the_receiver_in_pieces(bench: Bench) -> None:
    client, server = await bench.pair()
    bench.proxy.to_server.piece_bytes = 1
    client.send(bytes(range(100)))
    pieces: list[bytes] = []
    while len(b"".join(pieces)) < 100:
        pieces.append(await soon(server.reader.read(100)))
    assert b"".join(pieces) == bytes(range(100))
    assert len(pieces) > 50  # the loop may let two meet


@pytest.mark.parametrize(("writes", "count"), [([10], 4), ([4], 4), ([3, 3, 3], 7)], ids=["within", "at end", "third"])
async def test_a_cut_lets_exactly_so_many_bytes_through(bench: Bench, writes: list[int], count: int) -> None:
    client, server = await bench.pair()
    bench.proxy.to_server.cut_after(count)
    for size in writes:
        client.send(bytes(size))
    assert await server.receive_all() == bytes(count)
    await soon(bench.proxy.until(lambda: bench.proxy.connections == 0))
    await turn(*await bench.pair())


async def test_a_cut_after_nothing_closes_the_connection_that_sends_next(bench: Bench) -> None:
    client, server = await bench.pair()
    bench.proxy.to_client.cut_after(0)
    await turn(client, server)
    server.send(b"x")
    assert await client.receive_all() == b""


async def test_a_half_close_ends_one_stream_alone(bench: Bench) -> None:
    client, server = await bench.pair()
    bench.proxy.to_server.half_close()
    bench.proxy.to_server.half_close()
    assert await server.receive_all() == b""
    client.send(b"dropped")
    await turn(server, client)
    assert bench.proxy.to_server.bytes_forwarded == 0
    client.writer.write_eof()
    server.writer.write_eof()
    await soon(bench.proxy.until(lambda: bench.proxy.connections == 0))


async def test_a_half_close_reaches_a_connection_that_is_being_made(bench: Bench) -> None:
    bench.proxy.black_hole()
    client = await bench.client()
    await soon(bench.proxy.until(lambda: bench.proxy.connections == 1))
    await asyncio.sleep(0)
    bench.proxy.to_server.half_close()
    bench.proxy.heal()
    server = await bench.server()
    assert await server.receive_all() == b""
    await turn(server, client)


async def test_a_half_close_ends_a_stream_whose_receiver_does_not_read(bench: Bench) -> None:
    client, server = await bench.pair()
    transport = cast("asyncio.Transport", server.writer.transport)
    transport.pause_reading()
    client.send(bytes(MUCH))
    await soon(bench.proxy.until(lambda: bench.proxy.to_server.bytes_held > 0))
    await turn(server, client, 200)
    bench.proxy.to_server.half_close()
    transport.resume_reading()
    assert len(await server.receive_all()) < MUCH
    await turn(server, client)


async def test_a_reset_breaks_every_connection_on_both_sides(bench: Bench) -> None:
    pairs = [await bench.pair(), await bench.pair()]
    await soon(bench.proxy.reset())
    assert bench.proxy.connections == 0
    for end in (end for pair in pairs for end in pair):
        with pytest.raises(ConnectionResetError):
            await end.receive(1)
    await turn(*await bench.pair())


@pytest.mark.parametrize("breaks_first", ["client", "server"])
async def test_a_reset_of_one_side_reaches_the_other(bench: Bench, breaks_first: str) -> None:
    client, server = await bench.pair()
    first, second = (client, server) if breaks_first == "client" else (server, client)
    first.reset()
    with pytest.raises(ConnectionResetError):
        await second.receive(1)


async def test_a_receiver_that_goes_away_ends_the_connection(bench: Bench) -> None:
    client, server = await bench.pair()
    client.writer.transport.abort()
    with pytest.raises(ConnectionError):
        await send_for_ever(server)


async def send_for_ever(end: End) -> None:
    while True:
        end.send(bytes(PIECE_BYTES))
        await soon(end.writer.drain())


async def test_a_black_hole_accepts_and_says_nothing(bench: Bench) -> None:
    client, server = await bench.pair()
    bench.proxy.black_hole()
    client.send(b"to server")
    server.send(b"to client")
    late = await bench.client()
    late.send(b"from a new one")
    await soon(bench.proxy.until(lambda: bench.proxy.to_server.bytes_held == 9 and bench.proxy.connections == 2))
    assert bench.accepted.empty()
    assert bench.proxy.to_server.bytes_forwarded == bench.proxy.to_client.bytes_forwarded == 0
    bench.proxy.heal()
    assert await server.receive(9) == b"to server"
    assert await client.receive(9) == b"to client"
    assert await (await bench.server()).receive(14) == b"from a new one"


async def test_new_connections_are_refused_until_they_are_accepted_again(bench: Bench) -> None:
    client, server = await bench.pair()
    bench.proxy.refuse()
    bench.proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await bench.client()
    await turn(client, server)
    bench.proxy.accept()
    bench.proxy.accept()
    await turn(*await bench.pair())


async def test_heal_takes_every_fault_back(bench: Bench) -> None:
    client, server = await bench.pair()
    bench.proxy.black_hole()
    for direction in (bench.proxy.to_server, bench.proxy.to_client):
        direction.delay, direction.piece_bytes = 600.0, 1
        direction.cut_after(1)
    bench.proxy.refuse()
    bench.proxy.heal()
    await turn(client, server)
    await turn(server, client)
    await turn(*await bench.pair())


async def test_a_server_that_is_away_resets_the_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    async with no_leaks(), FaultProxy("127.0.0.1", port) as proxy:
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        with pytest.raises(ConnectionResetError):
            await soon(reader.read())
        writer.transport.abort()


async def stalled(bench: Bench) -> None:
    client, _ = await bench.pair()
    bench.proxy.black_hole()
    client.send(b"held")
    await soon(bench.proxy.until(lambda: bench.proxy.to_server.bytes_held == 4))


async def refusing(bench: Bench) -> None:
    await bench.pair()
    bench.proxy.refuse()


@pytest.mark.parametrize("state", [stalled, refusing])
async def test_leaving_closes_everything(state: Callable[[Bench], Awaitable[None]]) -> None:
    async with no_leaks():
        async with benches() as bench:
            await state(bench)
        assert bench.proxy.connections == 0
        with pytest.raises(ConnectionRefusedError):
            await bench.client()


async def test_a_connection_that_is_gone_before_it_is_accepted_harms_nothing(bench: Bench) -> None:
    with socket.socket() as nobody:
        nobody.setblocking(False)
        nobody.bind(("127.0.0.1", 0))
        nobody.listen()
        bench.proxy._accept_one(nobody)
    assert bench.proxy.connections_accepted == 0
    await turn(*await bench.pair())


@pytest.mark.parametrize("turns", range(8))
async def test_leaving_at_any_moment_of_a_new_connection_closes_it(turns: int) -> None:
    """A task that is cancelled before its first step has no chance to close its socket."""
    async with no_leaks(), benches() as bench:
        with socket.create_connection((bench.proxy.host, bench.proxy.port)):
            for _ in range(turns):
                await asyncio.sleep(0)
            await bench.proxy.__aexit__(None, None, None)
