"""Answers that are larger than their caller has room for: the node keeps each until the caller asks for it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import secrets
from collections.abc import Callable, Hashable

from clstr._messages.wire import Codec
from clstr.errors import TransportUnavailableError
from clstr.spi._answer_budget import AnswerBudget
from clstr.spi._deadlines import Deadlines
from clstr.spi._link import Link

HELD = "held"  # the code of the reply that stands for such an answer
ANSWER_TYPE = "clstr.answer"  # the type of the request whose reply the answer is

# Private shards are in the upper half of what a shard may be: no cluster has two thousand million shards of its own.
# Two of a thousand nodes draw the same one with a probability of 1 in 4,000; the ticket tells them apart then.
FIRST_PRIVATE_SHARD = 2**31
REFUSED_PAUSE = 10.0  # seconds until a shard that the broker refused is asked for again: rights seldom change
TICKET_BYTES = 16  # nobody can guess it


class _Held:
    """One answer that waits for its caller."""

    __slots__ = ("body", "codec", "deadline", "destination", "owner", "size", "tick", "ticket", "to")

    def __init__(
        self, owner: HeldAnswers, to: object, body: bytes, *, size: int, codec: Codec, destination: Hashable
    ) -> None:
        self.owner: HeldAnswers = owner
        self.to: object = to
        self.body: bytes = body
        self.size: int = size
        self.codec: Codec = codec
        self.destination: Hashable = destination
        self.ticket: str = secrets.token_hex(TICKET_BYTES)
        self.deadline: float = 0.0
        self.tick: int = 0

    def expire(self) -> None:
        """Its deadline is over: nobody asks for it any more."""
        self.owner.give_up(self)


class HeldAnswers:
    """
    Keeps answers that their callers have no room for, at a private shard that the link holds from the first of them on.

    Args:
        link: What holds the shard.
        send: Sends a body to an address, until a deadline in loop time.
        deadlines: Where each waits for its deadline.
        budget: What counts their bytes.
        dropped: Called with the number of answers that nobody asked for in time.
        logger: Told if the link refuses the shard.

    Attributes:
        shard: Where they are asked for.
    """

    def __init__(
        self,
        link: Link,
        send: Callable[[object, bytes, float], None],
        deadlines: Deadlines,
        budget: AnswerBudget,
        *,
        dropped: Callable[[int], None],
        logger: logging.Logger,
    ) -> None:
        self._link = link
        self._send = send
        self._deadlines = deadlines
        self._budget = budget
        self._dropped = dropped
        self._logger = logger
        self._by_ticket: dict[str, _Held] = {}
        self._unannounced: list[_Held] = []
        self._holding: asyncio.Task[None] | None = None
        self._is_ready = False
        self._hold_again_at = float("-inf")
        self._is_closed = False
        self.shard: int = FIRST_PRIVATE_SHARD + secrets.randbelow(FIRST_PRIVATE_SHARD)

    def __len__(self) -> int:
        return len(self._by_ticket)

    def keep(self, to: object, body: bytes, *, size: int, codec: Codec, deadline: float) -> None:
        """
        Keep an answer until ``deadline``, in loop time, and tell its caller where it is.

        Args:
            to: Its caller's address, for the link.
            body: The answer as it is sent.
            size: Its data bytes.
            codec: The caller's.
            deadline: When its caller has given up.
        """
        if self._is_closed:
            self._dropped(1)
            return
        loop = asyncio.get_running_loop()
        if not self._is_ready and loop.time() < self._hold_again_at:
            self._send(to, body, deadline)
            return
        held = _Held(self, to, body, size=size, codec=codec, destination=self._link.destination(to))
        held.deadline = deadline
        held.tick = self._deadlines.add(deadline, held)
        self._by_ticket[held.ticket] = held
        self._budget.add(held.destination, len(body))
        if self._is_ready:
            self._announce(held)
            return
        self._unannounced.append(held)
        if self._holding is None:
            self._holding = loop.create_task(self._hold_shard(), context=contextvars.Context())

    def take(self, ticket: bytes, to: object) -> bool:
        """Send the answer of ``ticket`` to ``to``; return ``False`` if there is none: it was sent, or is too old."""
        held = self._by_ticket.get(ticket.decode("ascii", "replace"))
        if held is None:
            return False
        self._forget(held)
        self._send(to, held.body, held.deadline)
        return True

    def give_up(self, held: _Held) -> None:
        """Drop an answer, and count it."""
        self._forget(held)
        self._dropped(1)

    def close(self) -> None:
        """Give up what is left, and keep nothing more."""
        self._is_closed = True
        if self._holding is not None:
            self._holding.cancel()
        for held in list(self._by_ticket.values()):
            self.give_up(held)

    async def _hold_shard(self) -> None:
        try:
            await self._link.hold([self.shard])
            self._is_ready = True
        except TransportUnavailableError as error:
            self._logger.debug("the link is down, so no shard can be held for answers: %s", error)
        except Exception as error:  # noqa: BLE001 -- whatever the link raises: the callers must not pay for it
            self._hold_again_at = asyncio.get_running_loop().time() + REFUSED_PAUSE
            self._logger.warning(
                "large answers are sent at once, whatever their callers have room for: the broker refuses shard %d, "
                "which this node needs to keep them (%s); the next attempt is in %g s",
                self.shard,
                error,
                REFUSED_PAUSE,
            )
        finally:
            self._holding = None
        unannounced, self._unannounced = self._unannounced, []
        for held in unannounced:
            if held.ticket not in self._by_ticket:
                continue
            if self._is_ready:
                self._announce(held)
            else:
                self._forget(held)
                self._send(held.to, held.body, held.deadline)

    def _announce(self, held: _Held) -> None:
        details = {"size": held.size, "at": self.shard, "ticket": held.ticket}
        notice = held.codec.new_reply(err="the answer is held", code=HELD, details=details, executed=True)
        self._send(held.to, held.codec.encode(notice), held.deadline)

    def _forget(self, held: _Held) -> None:
        del self._by_ticket[held.ticket]
        self._deadlines.discard(held.tick, held)
        self._budget.remove(held.destination, len(held.body))
