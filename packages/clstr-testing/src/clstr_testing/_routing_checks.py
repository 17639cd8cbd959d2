"""T1 to T5: where messages go, and when."""

from __future__ import annotations

import asyncio
from collections import Counter

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, echo, envelope, settle
from clstr_testing._outcomes import failure


class RoutingChecks(Bench):
    """T1 to T5."""

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

    @proves("T2.1", "T16.1")
    async def test_each_message_goes_to_one_of_several_peers(self) -> None:
        """Three peers hold the shard; each of 60 messages runs once."""
        servers, client = [await self.peer() for _ in range(3)], await self.peer()
        gate = Gate(is_open=True)
        for server in servers:
            await server.subscribe([0], gate)
        messages = [str(number).encode() for number in range(60)]
        replies = await asyncio.gather(*(client.request(envelope(data=data), timeout=FAR) for data in messages))
        await settle()
        assert replies == messages
        assert gate.started == Counter(messages)

    @proves("T2.2", "T16.1")
    async def test_each_message_goes_to_one_of_several_subscriptions_of_a_peer(self) -> None:
        """Two handlers hold the shard on one transport; when one leaves the other stays."""
        server, client = await self.peer(), await self.peer()
        gates = Gate(is_open=True), Gate(is_open=True)
        subscriptions = [await server.subscribe([0], gate) for gate in gates]
        messages = [str(number).encode() for number in range(40)]
        await asyncio.gather(*(client.request(envelope(data=data), timeout=FAR) for data in messages))
        await settle()
        assert gates[0].started + gates[1].started == Counter(messages)
        await subscriptions[0].aclose()
        assert await client.request(envelope(data=b"still"), timeout=FAR) == b"still"
        assert gates[1].started[b"still"] == 1

    @proves("T3.1")
    async def test_a_request_to_an_unowned_shard_fails_at_once(self) -> None:
        """Nobody holds shard 1, although somebody holds shard 0; a shard that was let go of is unowned again."""
        server, client = await self.peer(), await self.peer()
        subscription = await server.subscribe([0], echo)
        error = await failure(client.request(envelope(1), timeout=FAR), clstr.NoShardSubscriberError)
        assert (error.shard, error.maybe_executed) == (1, False)
        await client.request(envelope(0), timeout=FAR)
        await subscription.aclose()
        await failure(client.request(envelope(0), timeout=FAR), clstr.NoShardSubscriberError)

    @proves("T3.2")
    async def test_a_notify_to_an_unowned_shard_fails_at_once(self) -> None:
        """The same for notify, from a peer that hosts nodes too."""
        server = await self.peer()
        await server.subscribe([0], echo)
        error = await failure(server.notify(envelope(1), timeout=FAR), clstr.NoShardSubscriberError)
        assert (error.shard, error.maybe_executed) == (1, False)

    @proves("T4.1")
    async def test_messages_are_delivered_as_soon_as_subscribe_has_returned(self) -> None:
        """Shards come and go, one by one; each is usable by another peer the moment its call returns."""
        server, client = await self.peer(), await self.peer()
        subscription = await server.subscribe([], echo)
        for shard in range(100):
            await subscription.add([shard])
            assert await client.request(envelope(shard, b"x"), timeout=FAR) == b"x"
        assert subscription.shards == frozenset(range(100))

    @proves("T4.1")
    async def test_many_shards_in_one_call(self) -> None:
        """4,096 shards at once, each delivered."""
        server, client = await self.peer(), await self.peer()
        await server.subscribe(range(4096), echo)
        for shard in (*range(0, 4096, 97), 4095):
            assert await client.request(envelope(shard, b"x"), timeout=FAR) == b"x"

    @proves("T5.1")
    async def test_nothing_starts_after_a_subscription_is_closed(self) -> None:
        """Under load; the requests that come too late are refused, and none of them ran."""
        server, client = await self.peer(), await self.peer()
        gate = Gate(is_open=True)
        subscription = await server.subscribe([0], gate)

        async def caller(name: int) -> clstr.ClstrError:
            number = 0
            while True:
                data = b"%d/%d" % (name, number)
                number += 1
                try:
                    await client.request(envelope(data=data), timeout=FAR)
                except clstr.ClstrError as error:
                    assert gate.started[data] == 0
                    return error

        callers = [asyncio.create_task(caller(name)) for name in range(20)]
        await gate.until_started(200)
        await subscription.aclose()
        started = gate.started.total()
        errors = await asyncio.gather(*callers)
        await settle()
        assert gate.started.total() == started
        assert not any(error.maybe_executed for error in errors)

    @proves("T5.2")
    async def test_closing_a_subscription_waits_for_its_handlers(self) -> None:
        """A handler that has started finishes, and its caller gets the reply; other shards are not waited for."""
        server, client = await self.peer(drain_timeout=FAR), await self.peer()
        gates = Gate(), Gate()

        async def handler(message: clstr.Envelope) -> bytes:
            return await gates[message.shard](message)

        subscription = await server.subscribe([0, 1], handler)
        requests = [asyncio.create_task(client.request(envelope(shard, b"x"), timeout=FAR)) for shard in (0, 1)]
        for gate in gates:
            await gate.until_started(1)
        closing = asyncio.create_task(subscription.remove([0]))
        await settle()
        assert not closing.done()
        gates[0].open()
        await closing
        assert [gate.running for gate in gates] == [0, 1]
        assert subscription.shards == {1}
        gates[1].open()
        assert await asyncio.gather(*requests) == [b"x", b"x"]

    @proves("T5.2")
    async def test_closing_a_subscription_waits_for_handlers_that_wait_for_a_reply(self) -> None:
        """A handler that has lent its slot has started too."""
        server, other, client = await self.peer(drain_timeout=FAR), await self.peer(), await self.peer()
        elsewhere = Gate()
        await other.subscribe([1], elsewhere)

        async def handler(_: clstr.Envelope) -> bytes:
            return await server.request(envelope(1, b"onward"), timeout=FAR)

        subscription = await server.subscribe([0], handler)
        request = asyncio.create_task(client.request(envelope(), timeout=FAR))
        await elsewhere.until_started(1)
        closing = asyncio.create_task(subscription.aclose())
        await settle()
        assert not closing.done()
        elsewhere.open()
        await closing
        assert await request == b"onward"

    @proves("T5.2")
    async def test_closing_a_subscription_twice_at_once_waits_twice(self) -> None:
        """The second call does not return before the first: its caller relies on the same promise."""
        server, client = await self.peer(drain_timeout=FAR), await self.peer()
        gate = Gate()
        subscription = await server.subscribe([0], gate)
        request = asyncio.create_task(client.request(envelope(data=b"x"), timeout=FAR))
        await gate.until_started(1)
        closings = [asyncio.create_task(subscription.aclose()) for _ in range(2)]
        await settle()
        assert not any(closing.done() for closing in closings)
        gate.open()
        await asyncio.gather(*closings)
        assert await request == b"x"

    @proves("T5.3")
    async def test_closing_a_subscription_gives_up_after_drain_timeout(self) -> None:
        """A handler that does not end holds it up for ``drain_timeout`` only."""
        server, client = await self.peer(drain_timeout=0.05), await self.peer()
        gate = Gate()
        subscription = await server.subscribe([0], gate)
        request = asyncio.create_task(client.request(envelope(data=b"x"), timeout=FAR))
        await gate.until_started(1)
        await subscription.aclose()
        assert gate.running == 1
        gate.open()
        assert await request == b"x"

    @proves("T5.5")
    async def test_closing_a_subscription_reports_what_still_runs(self) -> None:
        """By shard and type: whoever takes the shard next has to know; what has ended is not reported."""
        server, client = await self.peer(drain_timeout=0.05), await self.peer()
        gate = Gate()
        subscription = await server.subscribe([0, 1], gate)
        request = asyncio.create_task(client.request(envelope(data=b"x"), timeout=FAR))
        await gate.until_started(1)
        assert await subscription.remove([1]) == clstr.ReleaseReport()
        report = await subscription.aclose()
        assert len(report.running) == 1
        assert "shard 0" in report.running[0]
        gate.open()
        assert await request == b"x"
        assert await subscription.aclose() == clstr.ReleaseReport()

    @proves("T5.1")
    async def test_what_waits_when_closing_gives_up_never_starts(self) -> None:
        """A message waits for a slot when ``drain_timeout`` is over: it is refused."""
        server, client = await self.peer(drain_timeout=0.05, max_concurrent=1), await self.peer()
        gate = Gate()
        subscription = await server.subscribe([0], gate)
        first = asyncio.create_task(client.request(envelope(data=b"first"), timeout=FAR))
        await gate.until_started(1)
        second = asyncio.create_task(client.request(envelope(data=b"second"), timeout=FAR))
        await settle()
        await subscription.aclose()
        gate.open()
        assert await first == b"first"
        try:
            await second
        except (clstr.DrainingError, clstr.NotOwnerError, clstr.NoShardSubscriberError) as error:
            assert not error.maybe_executed
        else:
            raise AssertionError("a message started after its subscription was closed")
        assert gate.started == {b"first": 1}

    @proves("T5.4")
    async def test_a_handler_may_close_its_own_subscription(self) -> None:
        """It does not wait for itself, and still answers."""
        server, client = await self.peer(drain_timeout=FAR), await self.peer()

        async def handler(_: clstr.Envelope) -> bytes:
            await subscription.aclose()
            return b"closed"

        subscription = await server.subscribe([0], handler)
        assert await client.request(envelope(), timeout=FAR) == b"closed"
        await failure(client.request(envelope(), timeout=FAR), clstr.NoShardSubscriberError)
