"""Sending again, inside the deadline, what certainly did not run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from clstr._context import current
from clstr._messages.envelope import Envelope
from clstr.abc import ClientTransport, CloseReport
from clstr.errors import (
    DrainingError,
    NoShardSubscriberError,
    NotOwnerError,
    OverloadedError,
    TransportUnavailableError,
)

T = TypeVar("T")

# What passes by itself: a node restarts, a shard moves, a queue empties. Any other error would only come again.
TRANSIENT = (
    DrainingError,
    NoShardSubscriberError,
    NotOwnerError,
    OverloadedError,
    TransportUnavailableError,
)

FIRST_PAUSE = 0.01  # seconds; each further pause is twice as long
LONGEST_PAUSE = 1.0


class Redelivery(ClientTransport):
    """
    A transport that sends again what was refused for a passing reason, until the caller's timeout.

    Only errors with ``maybe_executed=False`` count, so a message still runs at most once. Pauses grow exponentially
    and are spread by chance ("equal jitter" in M. Brooker, "Exponential Backoff and Jitter", AWS, 2015): clients that
    were refused together do not come back together. At the timeout the last refusal is raised.

    Args:
        transport: What carries the messages.
        chance: Returns a number from 0 to 1.
    """

    def __init__(self, transport: ClientTransport, chance: Callable[[], float] = random.random) -> None:
        self._transport = transport
        self._chance = chance

    @property
    def max_payload_bytes(self) -> int:
        """As the transport's."""
        return self._transport.max_payload_bytes

    async def request(self, envelope: Envelope, *, timeout: float = 5.0) -> bytes:
        """Send until it has run, may have run, or ``timeout`` seconds are over."""
        return await self._repeat(self._transport.request, envelope, timeout)

    async def notify(self, envelope: Envelope, *, timeout: float = 5.0) -> None:
        """Send until it is on its way, or ``timeout`` seconds are over."""
        await self._repeat(self._transport.notify, envelope, timeout)

    async def aclose(self) -> CloseReport:
        """Close the transport."""
        return await self._transport.aclose()

    async def _repeat(self, send: Callable[..., Awaitable[T]], envelope: Envelope, timeout: float) -> T:
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        ceiling = FIRST_PAUSE
        while True:
            try:
                return await send(envelope, timeout=timeout)
            except TRANSIENT as error:
                pause = ceiling * (1 + self._chance()) / 2
                timeout = deadline - clock() - pause
                if error.maybe_executed or timeout <= 0:
                    raise
            await _pause(pause)
            ceiling = min(2 * ceiling, LONGEST_PAUSE)


async def _pause(seconds: float) -> None:
    """Wait; a handler lends its slot meanwhile, as it does while it waits for a reply."""
    inside = current()
    if inside is None:
        await asyncio.sleep(seconds)
        return
    inside.lend()
    try:
        await asyncio.sleep(seconds)
    finally:
        inside.reclaim()
