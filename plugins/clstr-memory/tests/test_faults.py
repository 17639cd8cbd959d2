"""Faults by parameter and by hand."""

from __future__ import annotations

import asyncio
import logging

import pytest

import clstr
import clstr_memory


async def echo(envelope: clstr.Envelope) -> bytes:
    return envelope.data


class Downs(logging.Handler):
    """Counts how often a link was down."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "is down" in record.getMessage()


async def downs(url: str, *, requests: int = 100) -> list[int]:
    """Send requests one after another, and say how often the link had been down when each was answered."""
    found, logger = [], logging.Logger("faulty")  # noqa: LOG001 -- one for each call, unregistered
    logger.addHandler(handler := Downs())
    async with (
        clstr.connect("memory://faulty") as server,
        clstr.connect(url, reconnect_wait=60, logger=logger) as client,
    ):
        await server.subscribe([0], echo)
        await client.subscribe([1], echo)
        for number in range(requests):
            envelope = clstr.Envelope(shard=0, type="t", data=b"%d" % number)
            assert await client.request(envelope) == b"%d" % number
            found.append(handler.count)
    return found


async def test_the_same_seed_gives_the_same_faults() -> None:
    first = await downs("memory://faulty?disconnect=0.3&seed=5")
    assert first == await downs("memory://faulty?disconnect=0.3&seed=5")
    assert first != await downs("memory://faulty?disconnect=0.3&seed=6")


async def test_what_had_not_left_waits_until_a_broken_connection_is_there_again() -> None:
    assert (await downs("memory://faulty?disconnect=0.3&seed=5"))[-1] > 10


async def test_a_dropped_reply_ends_the_request_by_its_timeout() -> None:
    async with clstr.connect("memory://drop?drop_reply=1") as server, clstr.connect("memory://drop") as client:
        ran = []

        async def handler(envelope: clstr.Envelope) -> bytes:
            ran.append(envelope)
            return b""

        await server.subscribe([0], handler)
        with pytest.raises(clstr.RequestTimeoutError) as caught:
            await client.request(clstr.Envelope(shard=0, type="t"), timeout=0.05)
        assert caught.value.maybe_executed
        assert len(ran) == 1


async def test_delayed_messages_overtake_those_of_other_peers_alone() -> None:
    order: list[bytes] = []

    async def handler(envelope: clstr.Envelope) -> bytes:
        order.append(envelope.data)
        return b""

    async with clstr.connect("memory://delay?delay=0.01&seed=1") as one, clstr.connect("memory://delay") as other:
        await one.subscribe([0], handler)
        sent = [b"%02d" % number for number in range(50)]
        calls = [
            transport.request(clstr.Envelope(shard=0, type="t", data=name + data))
            for data in sent
            for name, transport in ((b"one ", one), (b"other ", other))
        ]
        await asyncio.gather(*calls)
    assert [data for data in order if data.startswith(b"one ")] == [b"one " + data for data in sent]
    assert order.index(b"one 10") > order.index(b"other 49")


async def test_a_cut_bus_takes_nobody_and_comes_back_as_it_was() -> None:
    async with clstr.connect("memory://cut", reconnect_wait=0) as transport:
        await transport.subscribe([0], echo)
        clstr_memory.cut("cut")
        envelope = clstr.Envelope(shard=0, type="t", data=b"x")
        with pytest.raises(clstr.TransportUnavailableError, match="the memory bus is cut"):
            await transport.request(envelope)
        with pytest.raises(clstr.TransportUnavailableError):
            await transport.subscribe([1], echo)
        with pytest.raises(clstr.TransportUnavailableError):
            await clstr.connect("memory://cut")
        clstr_memory.restore("cut")
        assert await transport.request(envelope) == b"x"


@pytest.mark.parametrize(
    "call",
    [clstr_memory.cut, clstr_memory.restore, lambda name: clstr_memory.inject(name, 0, b"")],
    ids=["cut", "restore", "inject"],
)
async def test_a_bus_that_nobody_uses_cannot_be_harmed(call: object) -> None:
    assert callable(call)
    with pytest.raises(LookupError, match="nobody is connected to memory://nobody"):
        call("nobody")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://?drop_reply=2", "drop_reply must be between 0 and 1"),
        ("memory://?disconnect=-1", "disconnect must be between 0 and 1"),
        ("memory://?delay=-1", "delay must be a finite number"),
        ("memory://?delay=inf", "delay must be a finite number"),
        ("memory://?seed=x", "seed"),
    ],
)
async def test_a_fault_out_of_range_is_named(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        await clstr.connect(url)
