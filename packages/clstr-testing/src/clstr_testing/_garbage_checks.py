"""T15: what no peer would send."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

import pytest

import clstr
from clstr.spi import Engine
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, echo, envelope
from clstr_testing._outcomes import failure

GARBAGE = (
    b"",
    b"\0",
    b"{",
    b"\xff" * 100,
    b"[" * 10_000,
    b'{"shard":"x","type":1,"data":2}',
    b'{"shard":99,"type":"t","data":""}',
    b'{"shard":0,"type":"\\u0000","data":""}',
    b'{"shard":0,"type":"t","data":"","headers":{"X-Clstr-Admin":"1"}}',
    b'{"shard":0,"type":"t","data":"","v":99}',
    b"\x95\x00\xa1t\xc4\x01x",
)
NO_REPLIES = (
    b"",
    b"\0",
    b"{",
    b"\xff" * 100,
    b'{"stream":"AUDIT","seq":1}',
    b'{"error":{"code":503,"description":"full"}}',
    b'{"data":"eA==","status":"ok"}',
    b"\x92\xc4\x01x\xa0",
)


class GarbageChecks(Bench):
    """T15."""

    @proves("T15.1", needs=frozenset({"inject"}))
    async def test_garbage_never_stops_the_receiver(self) -> None:
        """Bodies that no peer would send arrive for a shard that is held; the next message is answered, nothing ran."""
        server, client = await self.peer(), await self.peer()
        gate = Gate(is_open=True)
        await server.subscribe([0], gate)
        inject: Any = getattr(self, "inject", None)
        for body in GARBAGE:
            await inject(0, body)
            assert await client.request(envelope(data=b"fine"), timeout=FAR) == b"fine"
        assert gate.started == {b"fine": len(GARBAGE)}

    @proves("T15.2")
    async def test_a_handler_that_cancels_itself_stops_nothing(self) -> None:
        """Its caller gets an error, the next one an answer."""
        server, client = await self.peer(max_concurrent=2), await self.peer()

        async def handler(message: clstr.Envelope) -> bytes:
            if message.data == b"cancel":
                raise asyncio.CancelledError
            return message.data

        await server.subscribe([0], handler)
        for _ in range(5):
            error = await failure(client.request(envelope(data=b"cancel"), timeout=FAR), clstr.HandlerError)
            assert error.error_type == "CancelledError"
            assert await client.request(envelope(data=b"x"), timeout=FAR) == b"x"

    @proves("T15.3")
    async def test_what_is_no_reply_does_not_end_a_request(self) -> None:
        """Before each answer of the node its link carries bytes that no node writes, to the same address."""
        server, client = await self.peer(), await self.peer()
        await server.subscribe([0], echo)
        if not isinstance(server, Engine):
            pytest.skip("not checked: the transport is no clstr.spi.Engine over a link")
        reply = server.link.reply

        def reply_twice(to: object, body: bytes) -> bool:
            reply(to, body)
            return reply(to, body)

        with mock.patch.object(server.link, "reply", reply_twice):
            for _ in range(5):
                await client.request(envelope(data=b"x"), timeout=FAR)
        if isinstance(client, Engine) and not client.counters.late_replies:
            pytest.skip("not checked: the broker lets one answer through for each request, so no other can come")

        def reply_after_others(to: object, body: bytes) -> bool:
            for other in NO_REPLIES:
                reply(to, other)
            return reply(to, body)

        with mock.patch.object(server.link, "reply", reply_after_others):
            for number in range(5):
                assert await client.request(envelope(data=b"%d" % number), timeout=FAR) == b"%d" % number
