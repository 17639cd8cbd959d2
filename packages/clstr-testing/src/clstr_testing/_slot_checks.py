"""T6: the slots that handlers run in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._fates import FATES, NESTED_FATES, Fates, fated
from clstr_testing._handlers import FAR, Gate, envelope, settle
from clstr_testing._link_bench import PAUSE
from clstr_testing._outcomes import first_done


class SlotChecks(Bench):
    """T6: the slots."""

    @proves("T6.1")
    async def test_as_many_handlers_run_as_may_also_within_a_shard(self) -> None:
        """Ten messages for one shard and three slots: three run, never more, and all are answered."""
        server, client = await self.peer(max_concurrent=3), await self.peer()
        gate = Gate()
        await server.subscribe([0], gate)
        requests = [asyncio.create_task(client.request(envelope(data=b"%d" % n), timeout=FAR)) for n in range(10)]
        await gate.until_started(3)
        await settle()
        assert gate.running == 3
        gate.open()
        await asyncio.gather(*requests)
        assert gate.peak == 3

    @proves("T6.4")
    async def test_nested_requests_do_not_deadlock(self) -> None:
        """Two slots, depth three, two requests at once in each handler, 50 callers: all are answered."""
        server, client = await self.peer(max_concurrent=2), await self.peer()

        async def handler(message: clstr.Envelope) -> bytes:
            depth = int(message.data)
            if depth == 0:
                return b"1"
            onward = envelope(1 - message.shard, b"%d" % (depth - 1))
            replies = await asyncio.gather(*(server.request(onward, timeout=FAR) for _ in range(2)))
            return b"%d" % sum(map(int, replies))

        await server.subscribe([0, 1], handler)
        replies = await asyncio.gather(*(client.request(envelope(0, b"3"), timeout=FAR) for _ in range(50)))
        assert set(replies) == {b"8"}

    @proves("T6.4")
    async def test_a_lent_slot_comes_back_without_waiting(self) -> None:
        """While the first handler awaits another peer, another takes its slot; it ends all the same."""
        server, other, client = await self.peer(max_concurrent=1), await self.peer(), await self.peer()
        keeper, elsewhere = Gate(), Gate()
        await other.subscribe([2], elsewhere)

        async def first(_: clstr.Envelope) -> bytes:
            return await server.request(envelope(2, b"nested"), timeout=FAR)

        await server.subscribe([0], first)
        await server.subscribe([1], keeper)
        one = asyncio.create_task(client.request(envelope(0), timeout=FAR))
        await elsewhere.until_started(1)
        two = asyncio.create_task(client.request(envelope(1, b"keeper"), timeout=FAR))
        await keeper.until_started(1)
        elsewhere.open()
        assert await one == b"nested"
        assert not two.done()
        keeper.open()
        assert await two == b"keeper"

    @proves("T6.5")
    async def test_nested_requests_have_a_queue_of_their_own_and_start_first(self) -> None:
        """A full queue of messages from outside keeps no nested one out, and those start before what waited longer."""
        server, client = await self.peer(max_concurrent=1, max_queue=2), await self.peer()
        gate, begun, nest, queued = Gate(), asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def handler(message: clstr.Envelope) -> bytes:
            if message.data != b"parent":
                return await gate(message)
            begun.set()
            await nest.wait()
            await asyncio.gather(*(child(number) for number in range(4)))
            return b""

        async def child(number: int) -> None:
            try:
                await server.request(envelope(data=b"nested %d" % number), timeout=FAR)
            except clstr.OverloadedError:
                queued.set()  # so the others wait by now

        await server.subscribe([0], handler)
        parent = asyncio.create_task(client.request(envelope(data=b"parent"), timeout=FAR))
        await begun.wait()
        requests = [asyncio.create_task(client.request(envelope(data=b"outer %d" % n), timeout=FAR)) for n in range(3)]
        await first_done(requests, 1)  # refused: so the other two wait by now
        nest.set()
        await queued.wait()
        gate.open()
        await parent
        await asyncio.gather(*requests, return_exceptions=True)
        last_nested = max(index for index, data in enumerate(gate.order) if data.startswith(b"nested"))
        waiting_outer = [index for index, data in enumerate(gate.order) if data.startswith(b"outer")][1:]
        assert len(gate.order) >= 4
        assert all(index > last_nested for index in waiting_outer)

    @proves("T6.1")
    async def test_as_many_handlers_run_as_may_over_all_shards(self) -> None:
        """Of two subscriptions and four shards, requests and notifies: three run, never more, and no fewer."""
        server, client = await self.peer(max_concurrent=3), await self.peer()
        gate = Gate()
        await server.subscribe([0, 1], gate)
        await server.subscribe([2, 3], gate)
        for number in range(20):
            await client.notify(envelope(number % 4, b"%d" % number), timeout=FAR)
        requests = [asyncio.create_task(client.request(envelope(n % 4, b"%d" % n), timeout=FAR)) for n in range(20, 40)]
        await gate.until_started(3)
        await settle()
        assert gate.running == 3
        gate.open()
        await asyncio.gather(*requests)
        await gate.until_started(40)
        assert (gate.peak, gate.started.total()) == (3, 40)

    @proves("T6.1")
    async def test_a_hundred_handlers_run_unless_an_option_says_otherwise(self) -> None:
        """That is the default."""
        server, client = await self.peer(), await self.peer()
        gate = Gate()
        await server.subscribe([0], gate)
        requests = [asyncio.create_task(client.request(envelope(data=b"%d" % n), timeout=FAR)) for n in range(120)]
        await gate.until_started(100)
        await settle()
        gate.open()
        await asyncio.gather(*requests)
        assert gate.peak == 100

    @proves("T6.1")
    async def test_slots_come_back_however_a_handler_ends(self) -> None:
        """After each of these ends two handlers run at once again, no more and no fewer."""
        await self._slots_come_back(FATES)

    @proves("T6.4")
    async def test_slots_come_back_however_a_nested_request_ends(self) -> None:
        """The handlers' own requests fail, are given up, or are answered."""
        await self._slots_come_back(NESTED_FATES)

    @proves("T6.4")
    async def test_a_handler_has_its_slot_back_however_its_request_has_ended(self) -> None:
        """Two slots: while two handlers are past their own requests, no third one starts."""
        server, client = await self.peer(max_concurrent=2), await self.peer()
        fates, gates = Fates(server), {fate: Gate() for fate in NESTED_FATES if fate != "asks in vain"}

        async def handler(message: clstr.Envelope) -> bytes | None:
            answer = await fates(message)
            return await gates[message.type](message) if message.type in gates else answer

        await server.subscribe([0], handler)
        for fate, gate in gates.items():
            requests = []
            for number in range(1, 5):
                requests.append(asyncio.create_task(client.request(fated(fate), timeout=FAR)))
                await gate.until_started(min(number, 2))
            await settle()
            assert gate.running == 2, fate
            gate.open()
            await asyncio.gather(*requests)

    async def _slots_come_back(self, fates: Sequence[str]) -> None:
        server, client = await self.peer(max_concurrent=2), await self.peer()
        await server.subscribe([0], Fates(server))
        for fate in fates:
            for send in (client.request, client.notify):
                for _ in range(3):
                    with suppress(clstr.ClstrError):  # which one it is, other checks ask
                        await send(fated(fate), timeout=FAR)
            await self._two_run(server, client)

    async def _two_run(self, server: clstr.Transport, client: clstr.Transport) -> None:
        gate = Gate()
        subscription = await server.subscribe([1], gate)
        requests = [asyncio.create_task(client.request(envelope(1, b"%d" % n), timeout=FAR)) for n in range(5)]
        await gate.until_started(2)
        await settle()
        assert gate.running == 2
        gate.open()
        await asyncio.gather(*requests)
        assert gate.peak == 2
        await subscription.aclose()

    @proves("T6.5")
    async def test_a_nested_request_that_comes_back_is_nested(self) -> None:
        """A handler asks another peer, whose handler asks back: it finds a place, and starts first."""
        server, other, client = await self.peer(max_concurrent=1, max_queue=2), await self.peer(), await self.peer()
        gate, elsewhere = Gate(), Gate()

        async def handler(message: clstr.Envelope) -> bytes:
            if message.data == b"parent":
                return await server.request(envelope(1, b"onward"), timeout=FAR)
            return await gate(message)

        async def ask_back(message: clstr.Envelope) -> bytes:
            await elsewhere(message)
            return await other.request(envelope(data=b"nested"), timeout=FAR)

        await server.subscribe([0], handler)
        await other.subscribe([1], ask_back)
        parent = asyncio.create_task(client.request(envelope(data=b"parent"), timeout=FAR))
        await elsewhere.until_started(1)
        outer = [asyncio.create_task(client.request(envelope(data=b"outer"), timeout=FAR)) for _ in range(4)]
        await first_done(outer, 1)
        elsewhere.open()
        await asyncio.sleep(PAUSE)
        gate.open()
        assert await parent == b"nested"
        await asyncio.gather(*outer, return_exceptions=True)
        assert gate.order == [b"outer", b"nested", b"outer", b"outer"]
