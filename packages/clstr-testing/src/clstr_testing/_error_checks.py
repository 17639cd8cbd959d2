"""T10 and T11: what errors say."""

from __future__ import annotations

import asyncio
from typing import Any

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, Gate, envelope
from clstr_testing._outcomes import failure


def refusals() -> list[clstr.ClstrError]:
    """Make errors that a handler may refuse a message with: every type that travels, with facts of every kind."""
    return [
        clstr.OverloadedError("slots", 3),
        clstr.OverloadedError("seconds", 0.25),
        clstr.UnknownMessageError("Nope", "A, B"),
        clstr.UnknownMessageError("käse <&>", ""),
        clstr.InvalidEnvelopeError("data", "is no JSON"),
        clstr.MissingKeyHeaderError(),
        clstr.MissingKeyHeaderError("missing x-clstr-key header: in words of its own"),
        clstr.KeyRequiredError(),
        clstr.ReservedHeaderError("x-clstr-admin"),
        clstr.DrainingError(4),
        clstr.NoShardSubscriberError(2**32 - 1),
        clstr.EnvelopeExpiredError(7, 0.125),
        clstr.PayloadTooLargeError(2**40, 10),
        clstr.CallCycleError("a -> b -> a"),
    ]


class _Stop(BaseException):
    """What no ``except Exception`` catches."""


class MuteError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def raised() -> list[BaseException]:
    """Make what handlers raise: bugs of any kind, with causes, notes and texts of any shape."""
    noted = ValueError("noted")
    noted.add_note("a note that stays at home")
    caused = RuntimeError("the last of three")
    caused.__cause__ = KeyError("the first")
    caused.__cause__.__context__ = OSError(2, "the one before")
    return [
        ValueError("bad value"),
        TimeoutError("slow"),
        KeyError("k"),
        OSError(2, "No such file"),
        ValueError(),
        ValueError("two", "arguments"),
        ValueError("two\nlines\tand a tab"),
        ValueError("käse <&> \U0001f9c0"),
        ValueError("x" * 1024),
        ExceptionGroup("several", [ValueError("one"), KeyError("other")]),
        noted,
        caused,
        type("Überraschung", (Exception,), {})("its type is nobody else's"),
        _Stop("stop"),
        *refusals(),
        clstr.NotOwnerError(0),
        clstr.HandlerTimeoutError(0, 1.0),
        clstr.RequestTimeoutError(0, 1.0),
        clstr.ConnectionLostError("lost"),
        clstr.TransportClosedError(),
        clstr.TransportUnavailableError("away"),
        clstr.HandlerError("Other", "text"),
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

    @proves("T10.1", "T10.2")
    async def test_a_refusal_is_of_one_message_alone(self) -> None:
        """A handler keeps the error with which it refused a message, and raises it for the next one."""
        server, client = await self.peer(), await self.peer()
        refusal: list[clstr.ClstrError] = []

        async def handler(_: clstr.Envelope) -> bytes:
            if not refusal:
                refusal.append(clstr.refuse(clstr.UnknownMessageError("Nope", "")))
            raise refusal[0]

        await server.subscribe([0], handler)
        assert not (await failure(client.request(envelope(), timeout=FAR), clstr.UnknownMessageError)).maybe_executed
        error = await failure(client.request(envelope(), timeout=FAR), clstr.HandlerError)
        assert (error.error_type, error.maybe_executed) == ("UnknownMessageError", True)

    @proves("T10.2")
    async def test_what_a_handler_raises_arrives_as_handler_error(self) -> None:
        """Its type's name and its text, and nothing else of the node: no cause, no note, no line of a traceback."""
        server, client = await self.peer(), await self.peer()
        errors = raised()

        async def handler(message: clstr.Envelope) -> bytes:
            raise errors[int(message.data)]

        await server.subscribe([0], handler)
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the loop is told of what is to stop it
        for number, cause in enumerate(errors):
            error = await failure(client.request(envelope(data=b"%d" % number), timeout=FAR), clstr.HandlerError)
            name, text = type(cause).__name__, str(cause)
            assert (error.error_type, error.error_message) == (name, text)
            assert error.maybe_executed
            assert str(error).startswith(name)
            assert len(str(error)) < 2 * len(f"{name}: {text}") + 10
            assert "Traceback" not in str(error) + repr(vars(error))
            assert not getattr(error, "__notes__", None)
            assert error.__cause__ is None

    @proves("T10.2")
    async def test_an_error_without_a_text_is_a_handler_error(self) -> None:
        """Its ``__str__`` raises; its name still arrives."""
        server, client = await self.peer(), await self.peer()

        async def handler(_: clstr.Envelope) -> bytes:
            raise MuteError

        await server.subscribe([0], handler)
        error = await failure(client.request(envelope(), timeout=FAR), clstr.HandlerError)
        assert error.error_type == "MuteError"

    @proves("T10.2")
    async def test_the_error_of_an_onward_request_is_a_handler_error(self) -> None:
        """Whatever became of the onward request, to the first caller that is no proof of anything."""
        server, client = await self.peer(), await self.peer(max_payload_bytes=2000)

        async def elsewhere(message: clstr.Envelope) -> bytes:
            if message.data == b"raise":
                raise ValueError("no")
            raise clstr.refuse(refusals()[int(message.data)])

        async def handler(message: clstr.Envelope) -> bytes:
            if message.data == b"unowned":
                return await server.request(envelope(99), timeout=FAR)
            if message.data == b"large":
                return await server.request(envelope(1, bytes(server.max_payload_bytes + 1)), timeout=FAR)
            return await server.request(envelope(1, message.data), timeout=FAR)

        await server.subscribe([0], handler)
        await server.subscribe([1], elsewhere)
        onward = {b"%d" % number: type(refusal).__name__ for number, refusal in enumerate(refusals())}
        onward |= {b"unowned": "NoShardSubscriberError", b"large": "PayloadTooLargeError"}
        onward |= {b"raise": "HandlerError"}
        for data, name in onward.items():
            error = await failure(client.request(envelope(data=data), timeout=FAR), clstr.HandlerError)
            assert (error.error_type, error.maybe_executed) == (name, True)

    @proves("T10.2")
    async def test_every_wrong_reply_is_named(self) -> None:
        """A handler returns what is neither bytes nor ``None``: its caller is told the type, and has no reply."""
        server, client = await self.peer(), await self.peer()
        wrong: list[object] = ["text", bytearray(b"x"), memoryview(b"x"), 7, {}, [b"x"], False]

        async def handler(message: clstr.Envelope) -> Any:
            return wrong[int(message.data)]

        await server.subscribe([0], handler)
        for number, reply in enumerate(wrong):
            error = await failure(client.request(envelope(data=b"%d" % number), timeout=FAR), clstr.HandlerError)
            assert type(reply).__name__ in error.error_message
            assert error.maybe_executed

    @proves("T10.2")
    async def test_a_long_message_is_cut_and_a_wrong_reply_is_named(self) -> None:
        """At most 1 KiB of text travels; a handler that returns a ``str`` is told so."""
        server, client = await self.peer(), await self.peer()

        async def handler(message: clstr.Envelope) -> bytes:
            match message.data:
                case b"long":
                    raise ValueError("ä" * 5000)
                case b"over":
                    raise ValueError("x" * 1025)
                case b"name":
                    raise type("N" * 5000, (Exception,), {})("has a long name")
                case b"fact":
                    raise clstr.refuse(clstr.UnknownMessageError("t" * 5000, "k" * 5000))
            return "text"  # type: ignore[return-value]  # the mistake that this is about

        await server.subscribe([0], handler)
        error = await failure(client.request(envelope(data=b"long"), timeout=FAR), clstr.HandlerError)
        assert 900 < len(error.error_message.encode()) <= 1024
        assert error.error_message.startswith("ä" * 400)
        error = await failure(client.request(envelope(data=b"over"), timeout=FAR), clstr.HandlerError)
        assert 900 < len(error.error_message) <= 1024
        error = await failure(client.request(envelope(data=b"name"), timeout=FAR), clstr.HandlerError)
        assert 900 < len(error.error_type) <= 1024
        unknown = await failure(client.request(envelope(data=b"fact"), timeout=FAR), clstr.UnknownMessageError)
        assert max(map(len, (unknown.message_type, unknown.known, str(unknown)))) <= 1024
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

    @proves("T11.1")
    async def test_the_limit_of_a_payload_is_exact(self) -> None:
        """Exactly as many bytes as may pass do, as request and as notify; one more is an error, each time."""
        server, client = await self.peer(max_payload_bytes=1000), await self.peer(max_payload_bytes=1000)
        arrived = Gate(is_open=True)
        await server.subscribe([0], arrived)
        for size in (999, 1000, 1001, 1002, 2000, 100_000) * 3:
            for send in (client.request, client.notify):
                call = send(envelope(data=bytes(size)), timeout=FAR)
                if size <= 1000:
                    await call
                else:
                    error = await failure(call, clstr.PayloadTooLargeError)
                    assert (error.size, error.maybe_executed) == (size, False)
        await client.request(envelope(data=b"last"), timeout=FAR)
        assert arrived.started.keys() == {bytes(999), bytes(1000), b"last"}

    @proves("T11.2")
    async def test_the_limit_of_a_reply_is_exact(self) -> None:
        """The same for replies; nobody is told that the reply to a notify is too large."""
        server, client = await self.peer(max_payload_bytes=1000), await self.peer(max_payload_bytes=1000)

        async def handler(message: clstr.Envelope) -> bytes:
            return bytes(int(message.data))

        await server.subscribe([0], handler)
        for size in (999, 1000, 1001, 1002, 2000, 100_000) * 3:
            request = client.request(envelope(data=b"%d" % size), timeout=FAR)
            if size <= 1000:
                assert await request == bytes(size)
            else:
                error = await failure(request, clstr.PayloadTooLargeError)
                assert (error.size, error.maybe_executed) == (size, True)
