"""T1: what arrives, and what comes back."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from hashlib import blake2b
from itertools import product

import clstr
from clstr_testing._check import proves
from clstr_testing._fates import FATES, NOWHERE, Fates, fated
from clstr_testing._handlers import FAR, Gate, block, echo, envelope, settle
from clstr_testing._link_bench import LINK, LinkBench
from clstr_testing._outcomes import failure
from clstr_testing._samples import BYTES, SHARDS, binary, envelopes, large_sizes, small_sizes


def digest(data: bytes) -> bytes:
    """Return what stands for ``data`` where it need not come back."""
    return blake2b(data, digest_size=16).digest()


class MessageChecks(LinkBench):
    """T1."""

    @proves("T1.1")
    async def test_any_bytes_come_back_as_they_were(self) -> None:
        """Bytes that are empty, binary, invalid as text, or look like frames; each byte alone, first and last."""
        server, client = await self.peer(), await self.peer()
        kinds: set[type] = set()

        async def handler(message: clstr.Envelope) -> bytes:
            kinds.add(type(message.data))
            return await echo(message)

        await server.subscribe([0], handler)
        replies = await asyncio.gather(*(client.request(envelope(data=data), timeout=FAR) for data in BYTES))
        assert replies == [*BYTES]
        assert kinds | {type(reply) for reply in replies} == {bytes}

    @proves("T1.1")
    async def test_data_of_any_size_comes_back_as_it_was(self) -> None:
        """Every small size, and large ones about which something may change: as requests and, apart, as replies."""
        server, client = await self.peer(), await self.peer()

        async def handler(message: clstr.Envelope) -> bytes:
            assert type(message.data) is bytes
            return binary(int(message.type)) if message.type else digest(message.data)

        async def call(size: int) -> None:
            data = binary(size)
            assert await client.request(envelope(data=data, type=""), timeout=FAR) == digest(data), size
            reply = await client.request(envelope(type=str(size)), timeout=FAR)
            assert type(reply) is bytes
            assert reply == data, size

        await server.subscribe([0], handler)
        await asyncio.gather(*map(call, small_sizes()))
        for size in large_sizes(min(client.max_payload_bytes, server.max_payload_bytes)):
            await call(size)

    @proves("T1.1")
    async def test_the_data_of_a_notify_arrives_as_it_was(self) -> None:
        """All that is tried with requests."""
        server, client = await self.peer(), await self.peer()
        arrived: asyncio.Queue[bytes] = asyncio.Queue()

        async def handler(message: clstr.Envelope) -> None:
            assert type(message.data) is bytes
            arrived.put_nowait(message.data)

        await server.subscribe([0], handler)
        sent = [*BYTES, *map(binary, small_sizes())]
        for data in sent:
            await client.notify(envelope(data=data), timeout=FAR)
        assert Counter([await arrived.get() for _ in sent]) == Counter(sent)
        for data in map(binary, large_sizes(client.max_payload_bytes)):
            await client.notify(envelope(data=data), timeout=FAR)
            assert await arrived.get() == data

    @proves("T1.1")
    async def test_the_handler_gets_the_envelope_that_was_sent(self) -> None:
        """Shard, type, data and headers arrive unchanged, of a request and of a notify."""
        server, client = await self.peer(), await self.peer()
        arrived: asyncio.Queue[clstr.Envelope] = asyncio.Queue()

        async def handler(message: clstr.Envelope) -> None:
            arrived.put_nowait(message)

        sent = [*envelopes(), *(envelope(shard, b"\0") for shard in SHARDS)]
        await server.subscribe({message.shard for message in sent}, handler)
        for send in (client.request, client.notify):
            for message in sent:
                await send(message, timeout=FAR)
                got = await arrived.get()
                assert (got.shard, got.type, got.data) == (message.shard, message.type, message.data)
                assert type(got.data) is bytes
                assert dict(got.headers) == message.headers
                assert got.key == message.headers.get("x-clstr-key")

    @proves("T1.2")
    async def test_none_becomes_empty_bytes(self) -> None:
        """A handler may return nothing, at once and after it has waited, whatever it was asked."""
        server, client = await self.peer(), await self.peer()

        async def handler(message: clstr.Envelope) -> None:
            await settle(message.shard)

        await server.subscribe(range(4), handler)
        for data in (b"", b"x", b"x" * 5_000):
            requests = [client.request(envelope(n % 4, data), timeout=FAR) for n in range(20)]
            assert await asyncio.gather(*requests) == [b""] * 20

    @proves("T1.3")
    async def test_the_largest_payload_and_reply_pass(self) -> None:
        """``max_payload_bytes`` counts data alone: the headers and the type at their bounds come on top."""
        server, client = await self.peer(), await self.peer()
        await server.subscribe([0], echo)
        size = min(client.max_payload_bytes, server.max_payload_bytes)
        headers = {f"h{number:02}": "<" * 100 for number in range(64)}
        message = clstr.Envelope(shard=0, type="<" * 256, data=b"\xff" * size, headers=headers)
        assert await client.request(message, timeout=FAR) == message.data

    @proves("T1.3")
    async def test_the_largest_notify_passes(self) -> None:
        """With the headers and the type at their bounds, as for a request."""
        server, client = await self.peer(), await self.peer()
        gate = Gate(is_open=True)
        await server.subscribe([0], gate)
        headers = {f"h{number:02}": "<" * 100 for number in range(64)}
        message = clstr.Envelope(shard=0, type="<" * 256, data=b"\xff" * client.max_payload_bytes, headers=headers)
        await client.notify(message, timeout=FAR)
        await gate.until_started(1)
        assert gate.started[message.data] == 1

    @proves("T1.3")
    async def test_the_bound_of_the_payload_is_the_one_that_was_set(self) -> None:
        """A thousand bytes, if the option says so, and not one more."""
        server, client = await self.peer(max_payload_bytes=1000), await self.peer(max_payload_bytes=1000)
        await server.subscribe([0], echo)
        assert (client.max_payload_bytes, server.max_payload_bytes) == (1000, 1000)
        assert await client.request(envelope(data=binary(1000)), timeout=FAR) == binary(1000)
        for send in (client.request, client.notify):
            await failure(send(envelope(data=binary(1001)), timeout=FAR), clstr.PayloadTooLargeError)

    @proves("T1.4")
    async def test_bytes_in_flight_are_bounded(self) -> None:
        """What would exceed ``max_inflight_bytes`` is refused before it is sent, and room comes back with replies."""
        server, client = await self.peer(), await self.peer(max_inflight_bytes=1000)
        gate = Gate()
        await server.subscribe([0, 1], gate)
        first = asyncio.create_task(client.request(envelope(data=b"a" * 600), timeout=FAR))
        await gate.until_started(1)
        for size in (600, 401):
            for _ in range(3):
                error = await failure(client.request(envelope(1, b"b" * size), timeout=FAR), clstr.OverloadedError)
                assert (error.limit, error.bound, error.maybe_executed) == ("max_inflight_bytes", 1000, False)
        second = asyncio.create_task(client.request(envelope(1, b"c" * 400), timeout=FAR))
        await gate.until_started(2)
        gate.open()
        await asyncio.gather(first, second)
        await client.request(envelope(data=b"d" * 1000), timeout=FAR)
        await settle()
        assert gate.started == {b"a" * 600: 1, b"c" * 400: 1, b"d" * 1000: 1}

    @proves("T1.5")
    async def test_requests_in_flight_are_bounded(self) -> None:
        """What would exceed ``max_inflight_requests`` is refused before it is sent, whatever shard it is for."""
        servers, client = [await self.peer(), await self.peer()], await self.peer(max_inflight_requests=3)
        gate = Gate()
        for shard, server in enumerate(servers):
            await server.subscribe([shard], gate)
        requests = [asyncio.create_task(client.request(envelope(n % 2, b"some"), timeout=FAR)) for n in range(3)]
        await gate.until_started(3)
        for shard in (0, 1, 0, 1):
            error = await failure(client.request(envelope(shard, b"more"), timeout=FAR), clstr.OverloadedError)
            assert (error.limit, error.bound, error.maybe_executed) == ("max_inflight_requests", 3, False)
        gate.open()
        await asyncio.gather(*requests)
        await asyncio.gather(*(client.request(envelope(n % 2, b"then"), timeout=FAR) for n in range(3)))
        await settle()
        assert gate.started == {b"some": 3, b"then": 3}

    @proves("T1.4")
    async def test_bytes_in_flight_come_back_however_a_request_ends(self) -> None:
        """There are bytes for one request, and each of them needs all: not one may leave anything behind."""
        await self._whatever_happens(max_inflight_bytes=100)

    @proves("T1.5")
    async def test_places_in_flight_come_back_however_a_request_ends(self) -> None:
        """There is a place for one request."""
        await self._whatever_happens(max_inflight_requests=1)

    async def _whatever_happens(self, **limits: int) -> None:
        """Let requests end in every way, each followed by one that needs all the room that ``limits`` leave."""
        server, client = await self.peer(), await self.peer(**limits)
        await server.subscribe([0], Fates(server))
        whole = binary(100)
        ends = (
            *(fated(fate, whole) for fate in FATES),
            envelope(NOWHERE, whole),
            envelope(data=bytes(client.max_payload_bytes + 1)),
            envelope(data=whole, type="\0"),
            clstr.Envelope(shard=0, type="answer", data=whole, headers={"x-clstr-admin": "1"}),
            clstr.Envelope(shard=0, type="answer", data=whole, ttl_ms=1, created_at_ms=1),
        )
        for message, send in product(ends * 2, (client.request, client.notify)):
            with suppress(clstr.ClstrError):  # which one it is, other checks ask
                await send(message, timeout=1.0)
            assert await client.request(envelope(data=whole), timeout=FAR) == whole, message.type

    @proves("T1.4")
    async def test_bytes_in_flight_come_back_after_a_timeout(self) -> None:
        """The caller's time is over before the node can say anything: the loop that both live on stands still."""
        await self._times_out(max_inflight_bytes=100)

    @proves("T1.5")
    async def test_places_in_flight_come_back_after_a_timeout(self) -> None:
        """In the same way."""
        await self._times_out(max_inflight_requests=1)

    async def _times_out(self, **limits: int) -> None:
        server, client = await self.peer(), await self.peer(**limits)
        gate, whole = Gate(), binary(100)
        await server.subscribe([0], gate)
        await server.subscribe([1], echo)
        for attempt in range(1, 3):
            request = asyncio.create_task(client.request(envelope(data=whole), timeout=0.1))
            await gate.until_started(attempt)
            block(0.2)
            await failure(request, clstr.RequestTimeoutError)
            assert await client.request(envelope(1, whole), timeout=FAR) == whole

    @proves("T1.4", needs=LINK)
    async def test_bytes_in_flight_come_back_when_the_link_is_lost(self) -> None:
        """A request in flight is lost with its link; after it there is room again."""
        await self._loses_its_link(max_inflight_bytes=100)

    @proves("T1.5", needs=LINK)
    async def test_places_in_flight_come_back_when_the_link_is_lost(self) -> None:
        """In the same way."""
        await self._loses_its_link(max_inflight_requests=1)

    async def _loses_its_link(self, **limits: int) -> None:
        server, client = await self.peer(), await self.peer(reconnect_wait=FAR, **limits)
        gate, whole = Gate(), binary(100)
        await server.subscribe([0], gate)
        request = asyncio.create_task(client.request(envelope(data=whole), timeout=FAR))
        await gate.until_started(1)
        await self.hook("cut")
        await failure(request, clstr.ConnectionLostError)
        gate.open()
        await self.hook("restore")
        await self._answered(client, whole)
