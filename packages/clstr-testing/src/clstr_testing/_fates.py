"""A handler that ends in every way."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import clstr
from clstr_testing._handlers import FAR, envelope

NOWHERE = 4_000_000_000
"""A shard that no check holds."""
FATES = ("answer", "nothing", "raise", "cancel", "wrong", "refuse", "large", "slow")
NESTED_FATES = ("asks nobody", "asks twice", "gives up", "is cancelled", "asks in vain", "asks at once")


class Fates:
    """Ends as the message's type says, one of `FATES` or `NESTED_FATES`; it answers with the data, if at all."""

    def __init__(self, server: clstr.Transport) -> None:
        self._server = server

    async def __call__(self, message: clstr.Envelope) -> bytes | None:
        """Answer, or not."""
        match message.type:
            case "nothing":
                return None
            case "raise":
                raise ValueError("no")
            case "cancel":
                raise asyncio.CancelledError
            case "refuse":
                raise clstr.refuse(clstr.UnknownMessageError("refuse", "answer"))
            case "slow":
                await asyncio.Event().wait()
            case "large":
                return bytes(self._server.max_payload_bytes + 1)
            case "wrong":
                return "text"  # type: ignore[return-value]  # a handler's mistake
        if message.type in NESTED_FATES:
            await self._ask(message)
        return message.data

    async def _ask(self, message: clstr.Envelope) -> None:
        """Make requests inside of the handler, which end as the message's type says."""
        answer = envelope(message.shard, b"nested", type="answer")
        match message.type:
            case "asks nobody":
                with suppress(clstr.NoShardSubscriberError):
                    await self._server.request(envelope(NOWHERE), timeout=FAR)
            case "asks twice":
                for _ in range(2):
                    await self._server.request(answer, timeout=FAR)
            case "asks at once":
                await asyncio.gather(*(self._server.request(answer, timeout=FAR) for _ in range(2)))
            case "gives up":
                with suppress(clstr.RequestTimeoutError, clstr.HandlerTimeoutError, clstr.EnvelopeExpiredError):
                    await self._server.request(envelope(message.shard, type="slow"), timeout=0.02)
            case "is cancelled":
                slow = asyncio.ensure_future(self._server.request(envelope(message.shard, type="slow", ttl_ms=20)))
                await asyncio.sleep(0)
                slow.cancel()
                await asyncio.gather(slow, return_exceptions=True)
            case _:
                await self._server.request(envelope(NOWHERE), timeout=FAR)


def fated(fate: str, data: bytes = b"x") -> clstr.Envelope:
    """Make a message for shard 0 that ends in this way, soon."""
    return envelope(data=data, type=fate, ttl_ms=20 if fate == "slow" else 0)
