"""T1 and T13: answers on their way to a client with little room, and from a node whose link is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from unittest import mock

import pytest

import clstr
from clstr.spi import Engine
from clstr_testing._check import proves
from clstr_testing._handlers import FAR, Gate, envelope, settle
from clstr_testing._link_bench import LinkBench
from clstr_testing._outcomes import failure

WINDOW_BYTES = 1024 * 1024
LARGE_BYTES = WINDOW_BYTES // 4 - 4  # the answers of many requests do not fit the window, of some they do
MANY = 40
ROOM_BYTES = 1024  # what each request may bring back whatever is on its way


class AnswerChecks(LinkBench):
    """T1.6 and T13.5."""

    @proves("T1.6")
    async def test_large_answers_come_a_window_at_a_time(self) -> None:
        """Two nodes finish forty answers at once: their links carry no more of them than the client has room for."""
        servers, client = [await self.peer() for _ in range(2)], await self.peer(max_inflight_bytes=WINDOW_BYTES)
        under_way = _UnderWay()
        with ExitStack() as stack:
            for server in servers:
                if not isinstance(server, Engine):
                    pytest.skip("not checked: the transport is no clstr.spi.Engine over a link")
                stack.enter_context(mock.patch.object(server.link, "reply", under_way.counted(server.link.reply)))
            for first in (0, MANY):  # the second time the client knows how large these answers are
                await self._ask_at_once(servers, client, under_way, range(first, first + MANY))
        assert under_way.peak <= WINDOW_BYTES + MANY * ROOM_BYTES

    async def _ask_at_once(
        self, servers: list[clstr.Transport], client: clstr.Transport, under_way: _UnderWay, shards: range
    ) -> None:
        gate = Gate()

        async def handler(message: clstr.Envelope) -> bytes:
            return await gate(message) * (LARGE_BYTES // len(message.data))

        async def ask(shard: int) -> None:
            message = envelope(shard, b"%4d" % shard)
            reply = await client.request(message, timeout=FAR)
            assert reply == message.data * (LARGE_BYTES // len(message.data))
            under_way.arrived()

        for number, server in enumerate(servers):
            await server.subscribe(shards[number :: len(servers)], handler)
        async with asyncio.TaskGroup() as group:
            for shard in shards:
                group.create_task(ask(shard))
            await gate.until_started(MANY)
            gate.open()

    @proves("T13.5", needs=frozenset({"cut_peer", "restore"}))
    async def test_an_answer_that_is_ready_during_an_outage_of_its_node_arrives(self) -> None:
        """After the outage; where the caller's link breaks with the node's, its error comes at once instead."""
        server, client = await self.peer(reconnect_wait=0.01), await self.peer()
        gate = Gate()
        await server.subscribe([0], gate)
        request = asyncio.create_task(client.request(envelope(data=b"x"), timeout=FAR))
        await gate.until_started(1)
        await self.hook("cut_peer", server)
        lost = asyncio.create_task(self._until_lost(server, shard=1))
        await asyncio.wait([request, lost], return_when=asyncio.FIRST_COMPLETED)
        lost.cancel()
        gate.open()
        await settle()
        if request.done():
            error = await failure(request, clstr.ConnectionLostError)
            assert error.maybe_executed
            await self.hook("restore")
        else:
            await self.hook("restore")
            assert await request == b"x"


class _UnderWay:
    """
    The data bytes of large answers between their nodes' links and their callers.

    Attributes:
        peak: The most at one time.
    """

    def __init__(self) -> None:
        self._now = 0
        self.peak = 0

    def counted(self, reply: Callable[[object, bytes], bool]) -> Callable[[object, bytes], bool]:
        """Count what ``reply`` takes."""

        def counting(to: object, body: bytes) -> bool:
            is_taken = reply(to, body)
            if is_taken and len(body) >= LARGE_BYTES:
                self._now += LARGE_BYTES
                self.peak = max(self.peak, self._now)
            return is_taken

        return counting

    def arrived(self) -> None:
        """Count one answer that has reached its caller."""
        self._now -= LARGE_BYTES
