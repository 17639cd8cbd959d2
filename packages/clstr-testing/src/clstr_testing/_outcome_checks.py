"""T9 to T12: how calls end."""

from __future__ import annotations

import asyncio
import random

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, echo, envelope, settle
from clstr_testing._outcomes import failure


def refusals() -> list[clstr.ClstrError]:
    """Make errors that a handler may refuse a message with."""
    return [
        clstr.OverloadedError("slots", 3),
        clstr.UnknownMessageError("Nope", "A, B"),
        clstr.InvalidEnvelopeError("data", "is no JSON"),
        clstr.MissingKeyHeaderError(),
        clstr.DrainingError(4),
        clstr.CallCycleError("a -> b -> a"),
    ]


class OutcomeChecks(Bench):
    """T9 to T12."""

    @proves("T9.1")
    async def test_a_request_ends_by_its_timeout(self) -> None:
        """The handler never ends; the caller's timeout is over first, or the node's share of it."""
        server, client = await self.peer(), await self.peer()
        with Gate(deaf=True) as gate:
            await server.subscribe([0], gate)
            try:
                await client.request(envelope(), timeout=0.1)
            except (clstr.RequestTimeoutError, clstr.HandlerTimeoutError) as error:
                assert error.maybe_executed
            else:
                raise AssertionError("the request returned")

    @proves("T9.2")
    async def test_nothing_is_kept_of_cancelled_requests(self) -> None:
        """Their places and their bytes are free for others at once."""
        server, client = await self.peer(), await self.peer(max_inflight_requests=5, max_inflight_bytes=5000)
        gate = Gate()
        await server.subscribe(range(5), gate)
        for attempt in range(1, 6):
            data = b"%d" % attempt * 1000
            requests = [asyncio.create_task(client.request(envelope(shard, data), timeout=FAR)) for shard in range(5)]
            await gate.until_started(attempt * 5)
            for request in requests:
                request.cancel()
            outcomes = await asyncio.gather(*requests, return_exceptions=True)
            assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        gate.open()
        assert await client.request(envelope(data=b"x" * 5000), timeout=FAR) == b"x" * 5000

    @proves("T9.3", "T9.2")
    async def test_every_reply_reaches_its_own_request(self) -> None:
        """600 requests, 60 at a time, that end in any order, a third of them cancelled on the way."""
        server, client = await self.peer(), await self.peer()
        chance = random.Random(9)  # noqa: S311 -- a schedule, no secret

        async def handler(message: clstr.Envelope) -> bytes:
            await settle(int(message.data) % 7)
            return message.data

        async def call(number: int) -> None:
            data = b"%d" % number
            request = asyncio.create_task(client.request(envelope(number % 8, data), timeout=FAR))
            is_cancelled = chance.random() < 1 / 3
            if is_cancelled:
                await settle(chance.randrange(20))
                request.cancel()
            [outcome] = await asyncio.gather(request, return_exceptions=True)
            assert outcome == data or (is_cancelled and isinstance(outcome, asyncio.CancelledError)), repr(outcome)

        async def calls(first: int) -> None:
            for number in range(first, 600, 60):
                await call(number)

        await server.subscribe(range(8), handler)
        await asyncio.gather(*(calls(first) for first in range(60)))

    @proves("T10.1")
    async def test_a_refusal_arrives_as_it_was(self) -> None:
        """Type, code, facts, and the proof that nothing ran."""
        server, client = await self.peer(), await self.peer()

        async def handler(message: clstr.Envelope) -> bytes:
            raise clstr.refuse(refusals()[int(message.data)])

        await server.subscribe([0], handler)
        for number, refusal in enumerate(refusals()):
            error = await failure(client.request(envelope(data=b"%d" % number), timeout=FAR), type(refusal))
            assert (error.code, error.details(), str(error)) == (refusal.code, refusal.details(), str(refusal))
            assert not error.maybe_executed

    @proves("T10.2")
    async def test_what_a_handler_raises_arrives_as_handler_error(self) -> None:
        """Every error of clstr's own included: it would speak of another message."""
        server, client = await self.peer(), await self.peer()
        raised = [ValueError("bad value"), TimeoutError("slow"), *refusals(), clstr.NotOwnerError(0)]

        async def handler(message: clstr.Envelope) -> bytes:
            raise raised[int(message.data)]

        await server.subscribe([0], handler)
        for number, cause in enumerate(raised):
            error = await failure(client.request(envelope(data=b"%d" % number), timeout=FAR), clstr.HandlerError)
            assert (error.error_type, error.error_message) == (type(cause).__name__, str(cause))
            assert error.maybe_executed

    @proves("T10.2")
    async def test_the_error_of_an_onward_request_is_a_handler_error(self) -> None:
        """The onward shard is unowned; to the first caller that is no proof of anything."""
        server, client = await self.peer(), await self.peer()

        async def handler(_: clstr.Envelope) -> bytes:
            return await server.request(envelope(99), timeout=FAR)

        await server.subscribe([0], handler)
        error = await failure(client.request(envelope(), timeout=FAR), clstr.HandlerError)
        assert (error.error_type, error.maybe_executed) == ("NoShardSubscriberError", True)

    @proves("T10.2")
    async def test_a_long_message_is_cut_and_a_wrong_reply_is_named(self) -> None:
        """At most 1 KiB of text travels; a handler that returns a ``str`` is told so."""
        server, client = await self.peer(), await self.peer()

        async def handler(message: clstr.Envelope) -> bytes:
            if message.data == b"long":
                raise ValueError("ä" * 5000)
            return "text"  # type: ignore[return-value]  # the mistake that this is about

        await server.subscribe([0], handler)
        error = await failure(client.request(envelope(data=b"long"), timeout=FAR), clstr.HandlerError)
        assert 900 < len(error.error_message.encode()) <= 1024
        error = await failure(client.request(envelope(), timeout=FAR), clstr.HandlerError)
        assert "str" in error.error_message

    @proves("T11.1")
    async def test_a_payload_too_large_is_not_sent(self) -> None:
        """One byte over, and far over, as request and as notify; the connection stays."""
        server, client = await self.peer(), await self.peer()
        gate = Gate(is_open=True)
        await server.subscribe([0], gate)
        for size in (client.max_payload_bytes + 1, 8 * client.max_payload_bytes):
            for send in (client.request, client.notify):
                error = await failure(send(envelope(data=b"x" * size), timeout=FAR), clstr.PayloadTooLargeError)
                assert (error.size, error.max_bytes, error.maybe_executed) == (size, client.max_payload_bytes, False)
        assert await client.request(envelope(data=b"small"), timeout=FAR) == b"small"
        assert gate.started == {b"small": 1}

    @proves("T11.2")
    async def test_a_reply_too_large_becomes_an_error(self) -> None:
        """The caller learns it, and that the handler ran; the connection stays."""
        server, client = await self.peer(), await self.peer()

        async def handler(message: clstr.Envelope) -> bytes:
            return b"x" * (server.max_payload_bytes + 1 if message.data == b"large" else 1)

        await server.subscribe([0], handler)
        error = await failure(client.request(envelope(data=b"large"), timeout=FAR), clstr.PayloadTooLargeError)
        assert (error.size, error.maybe_executed) == (server.max_payload_bytes + 1, True)
        assert await client.request(envelope(), timeout=FAR) == b"x"

    @proves("T12.1")
    async def test_a_notify_runs_once_and_is_not_waited_for(self) -> None:
        """It returns while the handler is stuck: alone, and with as many as a `Batcher` streams in one write."""
        server, client = await self.peer(), await self.peer()
        gate = Gate()
        await server.subscribe(range(10), gate)
        for number in range(10):
            await client.notify(envelope(number, b"%d" % number), timeout=FAR)
        await asyncio.gather(*(client.notify(envelope(0, b"%d" % number), timeout=FAR) for number in range(10, 74)))
        await gate.until_started(74)
        gate.open()
        await client.request(envelope(data=b"last"), timeout=FAR)
        await settle()
        assert set(gate.started.values()) == {1}
        assert len(gate.started) == 75

    @proves("T12.2")
    async def test_the_fate_of_a_notify_is_not_reported(self) -> None:
        """One is refused because the node is busy, one raises: its sender hears of neither."""
        server, client = await self.peer(max_concurrent=1, max_queue=0), await self.peer()
        gate = Gate()
        raised = asyncio.Event()

        async def handler(message: clstr.Envelope) -> bytes:
            if message.data == b"raise":
                raised.set()
                raise ValueError("not reported")
            return await gate(message)

        await server.subscribe([0], handler)
        held = asyncio.create_task(client.request(envelope(data=b"held"), timeout=FAR))
        await gate.until_started(1)
        await client.notify(envelope(data=b"refused"), timeout=FAR)
        await failure(client.request(envelope(data=b"behind it"), timeout=FAR), clstr.OverloadedError)
        gate.open()
        await held
        await settle()
        await client.notify(envelope(data=b"raise"), timeout=FAR)
        await raised.wait()
        await settle()
        assert await client.request(envelope(data=b"well"), timeout=FAR) == b"well"
        assert gate.started == {b"held": 1, b"well": 1}

    @proves("T12.1")
    async def test_a_notify_to_oneself_is_delivered(self) -> None:
        """A peer may own the shard that it notifies."""
        server = await self.peer()
        gate = Gate(is_open=True)
        await server.subscribe([0], gate)
        await server.notify(envelope(data=b"x"), timeout=FAR)
        await gate.until_started(1)
        assert await server.request(envelope(data=b"y"), timeout=FAR) == await echo(envelope(data=b"y"))

    @proves("T12.3")
    async def test_a_notify_follows_a_shard_that_moved(self) -> None:
        """Its sender has learned who held the shard, and nobody has told it that somebody else does now."""
        client, first, second = await self.peer(), await self.peer(), await self.peer()
        gate = Gate(is_open=True)
        subscription = await first.subscribe([0], echo)
        await client.request(envelope(data=b"before"), timeout=FAR)
        await subscription.aclose()
        await second.subscribe([0], gate)
        await client.notify(envelope(data=b"after"), timeout=FAR)
        await gate.until_started(1)
