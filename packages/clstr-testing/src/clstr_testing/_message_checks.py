"""T1: what arrives, and what comes back."""

from __future__ import annotations

import asyncio

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, echo, envelope
from clstr_testing._outcomes import failure


class MessageChecks(Bench):
    """T1."""

    @proves("T1.1")
    async def test_any_bytes_come_back_as_they_were(self) -> None:
        """Bytes that are empty, binary, invalid as text, or look like frames."""
        server, client = await self.peer(), await self.peer()
        await server.subscribe([0], echo)
        for data in (
            b"",
            bytes(range(256)),
            b"\xff\xfe",
            b"null",
            b"{}",
            b'{"err":"no","code":"draining"}',
            b"\x95\xc0",
        ):
            reply = await client.request(envelope(data=data), timeout=FAR)
            assert type(reply) is bytes
            assert reply == data

    @proves("T1.1")
    async def test_the_handler_gets_the_envelope_that_was_sent(self) -> None:
        """Shard, type, data and headers arrive unchanged."""
        server, client = await self.peer(), await self.peer()
        arrived: list[clstr.Envelope] = []

        async def handler(message: clstr.Envelope) -> None:
            arrived.append(message)

        await server.subscribe([7], handler)
        headers = {"x-clstr-key": "käse/1", "trace-id": "a b", "h": ""}
        await client.request(clstr.Envelope(shard=7, type="a.B<c>&", data=b"\0", headers=headers), timeout=FAR)
        [message] = arrived
        assert (message.shard, message.type, message.data) == (7, "a.B<c>&", b"\0")
        assert dict(message.headers) == headers

    @proves("T1.2")
    async def test_none_becomes_empty_bytes(self) -> None:
        """A handler may return nothing."""
        server, client = await self.peer(), await self.peer()

        async def handler(_: clstr.Envelope) -> None:
            return None

        await server.subscribe([0], handler)
        assert await client.request(envelope(data=b"x"), timeout=FAR) == b""

    @proves("T1.3")
    async def test_the_largest_payload_and_reply_pass(self) -> None:
        """``max_payload_bytes`` counts data alone: the headers and the type at their bounds come on top."""
        server, client = await self.peer(), await self.peer()
        await server.subscribe([0], echo)
        size = min(client.max_payload_bytes, server.max_payload_bytes)
        headers = {f"h{number:02}": "<" * 100 for number in range(64)}
        message = clstr.Envelope(shard=0, type="<" * 256, data=b"\xff" * size, headers=headers)
        assert await client.request(message, timeout=FAR) == message.data

    @proves("T1.4")
    async def test_bytes_in_flight_are_bounded(self) -> None:
        """What would exceed ``max_inflight_bytes`` is refused before it is sent, and room comes back with replies."""
        server, client = await self.peer(), await self.peer(max_inflight_bytes=1000)
        gate = Gate()
        await server.subscribe([0], gate)
        first = asyncio.create_task(client.request(envelope(data=b"a" * 600), timeout=FAR))
        await gate.until_started(1)
        error = await failure(client.request(envelope(data=b"b" * 600), timeout=FAR), clstr.OverloadedError)
        assert error.limit == "max_inflight_bytes"
        assert not error.maybe_executed
        gate.open()
        await first
        await client.request(envelope(data=b"c" * 600), timeout=FAR)
        assert gate.started == {b"a" * 600: 1, b"c" * 600: 1}
