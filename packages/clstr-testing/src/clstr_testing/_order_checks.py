"""T17: the order of one caller's messages for one key."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Iterable

import clstr
from clstr_testing._check import Bench, proves
from clstr_testing._handlers import FAR, settle

KEYS = 6
SHARDS = 3
STAY = 40  # of 46 messages so many go to the key of the one before: neighbours that change places are mostly of one key
SIZES = (10, 10, 10, 10, 10, 2_000, 100_000)  # the last does not fit one read, one piece or one batch of any link
TTLS_MS = (0, 0, 45_000, 30_000)
TIMEOUTS = FAR, FAR / 2, FAR / 3  # seconds; a transport that serves the most urgent first would reorder
PATTERNS: tuple[Callable[[int], bool], ...] = (
    lambda _: False,
    lambda _: True,
    lambda number: number % 2 == 0,
    lambda number: number % 7 == 3,
)
"""Which of a caller's messages are notifies: none, all, every other, a few."""


class Starts:
    """
    A handler that notes which messages start, for each caller and key. What it does takes a while, and may fail.

    Attributes:
        numbers: The numbers of the messages in the order in which they started, by caller and key.
    """

    def __init__(self) -> None:
        self.numbers: defaultdict[tuple[str, str | None], list[int]] = defaultdict(list)

    async def __call__(self, message: clstr.Envelope) -> bytes:
        caller, number, fate, _ = message.data.split(b"/")
        numbers = self.numbers[caller.decode(), message.key]
        if int(number) not in numbers:  # one that is sent again has started before
            numbers.append(int(number))
        await settle(int(number) % 3 + 1)
        if fate == b"raise":
            raise ValueError("no")
        if fate == b"refuse":
            raise clstr.refuse(clstr.UnknownMessageError("check", ""))
        return message.data[:10]

    def assert_ordered(self) -> None:
        """Fail if a message started before one that its caller had sent earlier for the same key."""
        for (caller, key), numbers in self.numbers.items():
            assert numbers == sorted(numbers), f"messages of caller {caller} for {key} started in the order {numbers}"


class OrderChecks(Bench):
    """T17."""

    async def _send(
        self,
        transport: clstr.Transport,
        numbers: Iterable[int],
        is_notify: Callable[[int], bool],
        *,
        caller: str = "a",
        fates: tuple[bytes, ...] = (b"",),
    ) -> list[asyncio.Task[object]]:
        """Send a message for each number, all in one tick; they differ in all that a transport may look at."""
        chance, key = random.Random(f"{caller}{numbers}"), 0  # noqa: S311 -- a schedule, no secret
        tasks: list[asyncio.Task[object]] = []
        for number in numbers:
            key = chance.choice((key,) * STAY + (*range(KEYS),))
            size = min(chance.choice(SIZES), transport.max_payload_bytes)
            data = b"%s/%d/%s/" % (caller.encode(), number, chance.choice(fates))
            message = clstr.Envelope(
                shard=key % SHARDS,
                type=chance.choice(("check", "other")),
                data=data.ljust(size, b"x"),
                headers={"x-clstr-key": f"key {key}"},
                ttl_ms=chance.choice(TTLS_MS),
            )
            send = transport.notify if is_notify(number) else transport.request
            tasks.append(asyncio.ensure_future(send(message, timeout=chance.choice(TIMEOUTS))))
        await asyncio.sleep(0)
        return tasks

    async def _look(self, starts: Starts, transport: clstr.Transport, number: int, *, caller: str = "a") -> None:
        """Look at the order once a last request for each key has started: whatever was sent before has by then."""
        last = [
            clstr.Envelope(
                shard=key % SHARDS,
                type="check",
                data=b"%s/%d//" % (caller.encode(), number),
                headers={"x-clstr-key": f"key {key}"},
            )
            for key in range(KEYS)
        ]
        await asyncio.gather(*(transport.request(each, timeout=FAR) for each in last), return_exceptions=True)
        await settle()
        starts.assert_ordered()

    @proves("T17.1")
    async def test_messages_of_a_key_start_in_the_order_of_their_sending(self) -> None:
        """Requests, notifies and both; large and small; with and without a TTL; all at once, and as many may run."""
        server, client = await self.peer(), await self.peer()
        starts = Starts()
        await server.subscribe(range(SHARDS), starts)
        for turn, is_notify in enumerate(PATTERNS, 1):
            sent = await self._send(client, range(turn * 1000, turn * 1000 + 60), is_notify)
            await asyncio.gather(*sent, return_exceptions=True)
            await self._look(starts, client, turn * 1000 + 999)

    @proves("T17.1")
    async def test_messages_that_wait_for_a_slot_keep_their_order(self) -> None:
        """One handler runs at a time, so that all others wait."""
        server, client = await self.peer(max_concurrent=1), await self.peer()
        starts = Starts()
        await server.subscribe(range(SHARDS), starts)
        for turn, is_notify in enumerate(PATTERNS, 1):
            sent = await self._send(client, range(turn * 1000, turn * 1000 + 60), is_notify)
            await asyncio.gather(*sent, return_exceptions=True)
            await self._look(starts, client, turn * 1000 + 999)

    @proves("T17.1")
    async def test_messages_sent_one_after_another_keep_their_order(self) -> None:
        """A notify that has returned comes before what is sent then, whatever that is."""
        server, client = await self.peer(max_concurrent=2), await self.peer()
        starts = Starts()
        await server.subscribe(range(SHARDS), starts)
        for turn, is_notify in enumerate(PATTERNS, 1):
            for number in range(turn * 1000, turn * 1000 + 20):
                [sent] = await self._send(client, [number], is_notify)
                await asyncio.wait([sent], timeout=FAR if is_notify(number) else 0)
            await self._look(starts, client, turn * 1000 + 999)

    @proves("T17.1")
    async def test_each_of_several_callers_has_its_order(self) -> None:
        """Two transports and the one that hosts the handler call at once."""
        server, clients = await self.peer(max_concurrent=2), [await self.peer(), await self.peer()]
        starts = Starts()
        await server.subscribe(range(SHARDS), starts)
        sent = [
            task
            for caller, transport in zip("abc", (*clients, server), strict=True)
            for task in await self._send(transport, range(60), PATTERNS[3], caller=caller)
        ]
        await asyncio.gather(*sent, return_exceptions=True)
        await self._look(starts, server, 999, caller="c")

    @proves("T17.2")
    async def test_failures_reorder_nothing_else(self) -> None:
        """Handlers raise and refuse, and callers give up, before and after their messages have started."""
        server, client = await self.peer(max_concurrent=3), await self.peer()
        starts = Starts()
        await server.subscribe(range(SHARDS), starts)
        for turn in range(4):
            numbers = range(turn * 1000, turn * 1000 + 60)
            sent = await self._send(client, numbers, PATTERNS[3], fates=(b"", b"raise", b"refuse"))
            await settle(turn)
            for request in sent[::9]:
                request.cancel()
            await asyncio.gather(*sent, return_exceptions=True)
            starts.assert_ordered()

    @proves("T17.2")
    async def test_a_full_queue_reorders_nothing_else(self) -> None:
        """Many are refused because too many wait; what starts keeps its order, and so does what comes then."""
        server, client = await self.peer(max_concurrent=1, max_queue=15), await self.peer()
        starts = Starts()
        await server.subscribe(range(SHARDS), starts)
        for turn in range(4):
            sent = await self._send(client, range(turn * 1000, turn * 1000 + 40), PATTERNS[0])
            await asyncio.gather(*sent, return_exceptions=True)
            starts.assert_ordered()

    @proves("T17.2")
    async def test_order_is_kept_between_the_moves_of_a_shard(self) -> None:
        """Two peers hold the shards in turn; nothing is sent while they move."""
        servers, client = [await self.peer(max_concurrent=1) for _ in range(2)], await self.peer()
        starts = Starts()
        holders = [await server.subscribe([], starts) for server in servers]
        for turn in range(4):
            await holders[turn % 2].add(range(SHARDS))
            sent = await self._send(client, range(turn * 1000, turn * 1000 + 30), PATTERNS[2])
            await asyncio.gather(*sent, return_exceptions=True)
            await self._look(starts, client, turn * 1000 + 999)
            await holders[turn % 2].remove(range(SHARDS))
