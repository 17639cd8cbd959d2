"""T10 and T11: what errors say."""

from __future__ import annotations

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, envelope
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


class ErrorChecks(Bench):
    """T10 and T11."""

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
