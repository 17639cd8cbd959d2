"""A link that does what a test says, and a hub that joins several of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clstr._messages.envelope import Envelope
from clstr._messages.error_wire import decode_error, encode_error
from clstr._messages.wire import MSGPACK, Codec, RequestFrame, decode_reply, decode_request, sniff
from clstr.abc import Handler
from clstr.errors import ClstrError, NoShardSubscriberError
from clstr.spi import Link, Route, Sink
from clstr.spi._engine import Engine

Behaviour = Callable[[], Awaitable[None]]
Answer = bytes | ClstrError
OpenEngine = Callable[..., Awaitable[Engine]]


@dataclass(frozen=True, slots=True)
class Sent:
    """What the engine handed to `FakeLink.send`."""

    shard: int
    token: int
    oneway: bool
    frame: RequestFrame


class FakeLink(Link):
    """Records what the engine asks of it; ``script`` says by method name what happens instead of nothing."""

    def __init__(self, max_message_bytes: int | None = None) -> None:
        self.max_message_bytes = max_message_bytes
        self.sink: Sink
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self.script: dict[str, Behaviour] = {}
        self.sent: list[Sent] = []
        self.send_error: Exception | None = None
        self.route: Route = None
        self.replies: list[tuple[object, Answer]] = []
        self.bodies: list[bytes] = []
        self.can_reply = True
        self.misroutes: list[tuple[int, Route, int]] = []  # with how many messages had been sent by then

    async def _do(self, name: str, shards: Sequence[int] = ()) -> None:
        self.calls.append((name, tuple(shards)))
        if name in self.script:
            await self.script[name]()

    async def open(self, sink: Sink) -> None:
        self.sink = sink
        await self._do("open")

    async def hold(self, shards: Sequence[int]) -> None:
        await self._do("hold", shards)

    async def drop(self, shards: Sequence[int]) -> None:
        await self._do("drop", shards)

    async def flush(self) -> None:
        await self._do("flush")

    async def aclose(self) -> None:
        await self._do("aclose")

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        self.sent.append(Sent(shard, token, oneway, decode_request(body, sniff(body))))
        if self.send_error is not None:
            raise self.send_error
        return self.route

    def misrouted(self, shard: int, route: Route) -> None:
        self.misroutes.append((shard, route, len(self.sent)))

    def reply(self, to: object, body: bytes) -> bool:
        if self.can_reply:
            self.replies.append((to, read_answer(body)))
            self.bodies.append(body)
        return self.can_reply

    # The peer's side, played by the test.

    def deliver(
        self, type_: str = "t", data: bytes = b"", *, to: object = "", **fields: Any
    ) -> None:  # Any: of a frame
        """Let a message for us arrive; its answer goes to its type's name, unless ``to`` is given."""
        codec: Codec = fields.pop("codec", MSGPACK)
        shard: int = fields.pop("shard", 1)
        read_at: float | None = fields.pop("read_at", None)
        body = codec.encode(codec.new_request(shard=shard, type=type_, data=data, **fields))
        self.sink.request(shard, body, type_ if to == "" else to, read_at)

    def answer(self, sent: Sent, answer: Answer = b"") -> None:
        """Let the answer to ``sent`` arrive; what an error says of its execution travels."""
        self.sink.answer(sent.token, encode_answer(answer))

    def answer_to(self, to: object) -> Answer | None:
        """Return the one answer to ``to``, if there is one."""
        answers = [answer for each, answer in self.replies if each == to]
        assert len(answers) <= 1, f"{to!r} was answered {len(answers)} times"
        return answers[0] if answers else None


def encode_answer(answer: Answer) -> bytes:
    if isinstance(answer, ClstrError):
        return encode_error(MSGPACK, answer)
    return MSGPACK.encode(MSGPACK.new_reply(answer))


def read_answer(body: bytes) -> Answer:
    frame = decode_reply(body)
    return decode_error(frame) if frame.err or frame.code else frame.data or b""


class Hub:
    """Joins links in one loop; each message goes to one holder of its shard, in turn."""

    def __init__(self, latency: float = 0.0) -> None:
        self.holders: dict[int, list[HubLink]] = {}
        self._latency = latency

    def carry(self, deliver: Callable[..., None], *args: object) -> None:
        """Call ``deliver`` on the other side."""
        loop = asyncio.get_running_loop()
        if self._latency:
            loop.call_later(self._latency, deliver, *args)
        else:
            loop.call_soon(deliver, *args)


class HubLink(FakeLink):
    """One peer on a hub."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self._hub = hub

    async def hold(self, shards: Sequence[int]) -> None:
        await super().hold(shards)
        for shard in shards:
            self._hub.holders.setdefault(shard, []).append(self)

    async def drop(self, shards: Sequence[int]) -> None:
        for shard in shards:
            self._hub.holders[shard].remove(self)
        await super().drop(shards)

    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        holders = self._hub.holders.get(shard)
        if not holders:
            raise NoShardSubscriberError(shard)
        holders.append(peer := holders.pop(0))
        self._hub.carry(peer.sink.request, shard, body, (self, token))
        if oneway:
            self.sink.accepted(token)
        return peer

    def reply(self, to: object, body: bytes) -> bool:
        if isinstance(to, tuple):
            peer, token = to
            self._hub.carry(peer.sink.answer, token, body)
            return True
        return super().reply(to, body)


class Worker:
    """A handler whose runs wait for the test, each under its message's type."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.running = 0
        self.peak = 0
        self._results: dict[str, asyncio.Future[bytes]] = {}

    async def __call__(self, envelope: Envelope) -> bytes:
        self.started.append(envelope.type)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            return await self.result_of(envelope.type)
        except asyncio.CancelledError:
            self.cancelled.append(envelope.type)
            raise
        finally:
            self.running -= 1

    def result_of(self, type_: str) -> asyncio.Future[bytes]:
        return self._results.setdefault(type_, asyncio.get_running_loop().create_future())

    async def finish(self, *types: str, result: bytes = b"done") -> None:
        """Let the runs of ``types`` return, and the engine notice."""
        for type_ in types:
            self.result_of(type_).set_result(result)
        await ticks()


class Stubborn:
    """A handler, or a link's method, that ignores cancellation until the test lets go."""

    def __init__(self) -> None:
        self.is_running = asyncio.Event()
        self.let_go = asyncio.Event()

    async def __call__(self, *_: object) -> bytes:
        self.is_running.set()
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                continue
        return b"late"


async def hang() -> None:
    """Wait for ever, but obey cancellation."""
    await asyncio.Event().wait()


def failing(error: Exception) -> Behaviour:
    """Make a behaviour that raises ``error``."""

    async def fail() -> None:
        raise error

    return fail


async def ticks(count: int = 30) -> None:
    """Let the loop run everything that is ready, and what that makes ready."""
    for _ in range(count):
        await asyncio.sleep(0)


async def echo(envelope: Envelope) -> bytes:
    """Answer with the message's data."""
    return envelope.data


def message(shard: int = 1, data: bytes = b"", **fields: Any) -> Envelope:  # Any: the fields of an Envelope
    """Make an envelope."""
    return Envelope(shard=shard, type=fields.pop("type", "t"), data=data, **fields)


def linked(engine: Engine) -> FakeLink:
    """Return the fake under ``engine``."""
    assert isinstance(engine.link, FakeLink)
    return engine.link


async def request_from(engine: Engine, handler: Handler, type_: str = "t", **fields: Any) -> Answer:  # Any: as above
    """Let ``handler`` run for one message that arrives, and return the answer to it."""
    subscription = await engine.subscribe([1], handler)
    linked(engine).deliver(type_, **fields)
    await ticks()
    await subscription.aclose()
    answer = linked(engine).answer_to(type_)
    assert answer is not None
    return answer


def leftovers(engine: Engine) -> dict[str, int]:
    """Count what a closed engine must not have kept, as far as there is any."""
    counts = {
        "pending": len(engine.pending),
        "bytes": engine.pending.inflight_bytes,
        "deadlines": len(engine.deadlines),
        "active": engine.dispatcher.active,
        "suspended": engine.dispatcher.suspended,
        "waiting": engine.dispatcher.waiting,
        "running": len(engine.dispatcher.running()),
    }
    return {name: count for name, count in counts.items() if count}


def armed_timers() -> list[asyncio.TimerHandle]:
    """List the timers that would still run; uvloop does not tell."""
    scheduled: list[asyncio.TimerHandle] = getattr(asyncio.get_running_loop(), "_scheduled", [])
    return [timer for timer in scheduled if not timer.cancelled()]
