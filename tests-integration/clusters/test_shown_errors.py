"""What a caller is told of an exception: `Node(errors=...)`, over real links."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

import clstr
from clstr.errors import HandlerError, UnknownMessageError
from clstr.spi import refuse
from clusters.types import Connect

Shown = Literal["text", "type", "hidden"]
SECRET = "PLANTED password in an exception"
EXPECTED: dict[Shown, tuple[str, str]] = {
    "text": ("LookupError", SECRET),
    "type": ("LookupError", ""),
    "hidden": ("", "the handler failed, and its node does not tell how: see the node's log"),
}


async def handler(envelope: clstr.Envelope) -> bytes:
    if envelope.type == "cancel":
        raise asyncio.CancelledError(SECRET)
    if envelope.type == "refuse":
        raise refuse(UnknownMessageError(envelope.type, "t"))
    if envelope.type == "return":
        return SECRET  # type: ignore[return-value]  # that is the point
    raise LookupError(SECRET)


@pytest.mark.parametrize("errors", EXPECTED)
async def test_a_caller_is_told_as_much_of_an_exception_as_the_node_says(
    connect: Connect, errors: Shown, caplog: pytest.LogCaptureFixture
) -> None:
    server, transport = await connect(), await connect()
    async with clstr.Node(server, handler, shards=[1], errors=errors):
        with pytest.raises(HandlerError) as caught:
            await transport.request(clstr.Envelope(shard=1, type="t"))
        assert (caught.value.error_type, caught.value.error_message) == EXPECTED[errors]
        assert caught.value.maybe_executed
        told = [str(caught.value)]
        for kind in ("cancel", "return"):
            with pytest.raises(HandlerError) as caught:
                await transport.request(clstr.Envelope(shard=1, type=kind))
            told.append(f"{caught.value!r} {caught.value.details()}")
        assert (SECRET in str(told)) == (errors == "text")
        assert ("LookupError" in str(told)) == (errors != "hidden")
        with pytest.raises(UnknownMessageError, match="refuse"):  # meant for the caller
            await transport.request(clstr.Envelope(shard=1, type="refuse"))
    assert SECRET in caplog.text  # the node's own log has it, whatever callers are told


async def test_through_another_node_no_more_is_told(connect: Connect) -> None:
    """The first node passes on what the second one says, as its own handler's error."""
    first, second, transport = await connect(), await connect(), await connect()

    async def onward(_: clstr.Envelope) -> bytes:
        return await first.request(clstr.Envelope(shard=2, type="t"))

    async with (
        clstr.Node(second, handler, shards=[2], errors="hidden"),
        clstr.Node(first, onward, shards=[1]),
    ):
        with pytest.raises(HandlerError) as caught:
            await transport.request(clstr.Envelope(shard=1, type="t"))
    assert SECRET not in f"{caught.value!r} {caught.value.details()}"
    assert caught.value.error_type == "HandlerError"


async def test_another_word_is_refused(connect: Connect) -> None:
    with pytest.raises(ValueError, match="errors must be one of text, type, hidden, not 'none'"):
        clstr.Node(await connect(), handler, shards=[1], errors="none")  # type: ignore[arg-type]  # that is the point
