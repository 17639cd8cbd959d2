"""Deliberate defects of a transport. The judge is worth something only if it finds each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

from clstr import ActorHandler
from clstr.errors import ClstrError, ConnectionLostError, RequestTimeoutError
from clstr.spi import Buffer
from clstr.spi._answers import Answers
from clstr.spi._delivery import Delivery
from clstr.spi._dispatcher import Dispatcher
from clstr.spi._pending import AskAgain, Pending, PendingReplies
from clstr.spi._receiver import Receiver
from clstr.spi._sender import Sender

Patch = AbstractContextManager[Any]
LARGE = 100_000  # bytes
EVERY = 10  # so many messages pass between two that a defect hits


def resends() -> Patch:
    """Send again what may have run."""
    read = Sender._read

    def again(self: Sender, outcome: ClstrError | AskAgain, *arguments: Any) -> Any:
        is_doubtful = isinstance(outcome, (ConnectionLostError, RequestTimeoutError))
        return (outcome, 0.0) if is_doubtful else read(self, outcome, *arguments)

    begin = PendingReplies.open

    def impatient(self: PendingReplies, shard: int, size: int, deadline: float, *arguments: Any) -> Pending:
        return begin(self, shard, size, min(deadline, self._loop.time() + 0.2), *arguments)

    return _both(mock.patch.object(Sender, "_read", again), mock.patch.object(PendingReplies, "open", impatient))


def fans_out() -> Patch:
    """Give some messages to the node twice, as to two of several owners."""
    request = Receiver.request
    is_hit = _every()

    def twice(self: Receiver, shard: int, body: Buffer, *arguments: Any) -> None:
        body = bytes(body)
        request(self, shard, body, *arguments)
        if is_hit():
            request(self, shard, body, *arguments)

    return mock.patch.object(Receiver, "request", twice)


def loses_replies() -> Patch:
    """Drop some replies, and tell nobody."""
    send = Answers._send
    is_hit = _every()

    def forget(self: Answers, to: object, body: bytes, *arguments: Any) -> None:
        if not is_hit():
            send(self, to, body, *arguments)

    return mock.patch.object(Answers, "_send", forget)


def loses_large_replies() -> Patch:
    """Drop some replies that are large, and tell nobody."""
    send = Answers._send
    is_hit = _every()

    def forget(self: Answers, to: object, body: bytes, *arguments: Any) -> None:
        if len(body) < LARGE or not is_hit():
            send(self, to, body, *arguments)

    return mock.patch.object(Answers, "_send", forget)


def starts_expired() -> Patch:
    """Run what has waited for longer than its TTL."""
    admit = Dispatcher.admit

    def ignore(self: Dispatcher, delivery: Delivery) -> None:
        delivery.deadline = self._loop.time() + 1e6
        admit(self, delivery)

    return mock.patch.object(Dispatcher, "admit", ignore)


def forgets_state() -> Patch:
    """Release shards without a word to their actors."""

    async def keep(self: ActorHandler, shards: object) -> None:
        """Stop nobody."""

    return mock.patch.object(ActorHandler, "release_shards", keep)


def loses_messages() -> Patch:
    """Drop some messages on arrival, notifies too, and tell nobody."""
    request = Receiver.request
    is_hit = _every()

    def forget(self: Receiver, *arguments: Any) -> None:
        if not is_hit():
            request(self, *arguments)

    return mock.patch.object(Receiver, "request", forget)


def doubts_everything() -> Patch:
    """Say of every error that the message may have run."""
    read = Sender._read

    def doubtful(self: Sender, *arguments: Any) -> Any:
        error, pause = read(self, *arguments)
        if isinstance(error, ClstrError):
            error.maybe_executed = True
        return error, pause

    return mock.patch.object(Sender, "_read", doubtful)


def _every() -> Callable[[], bool]:
    count = 0

    def is_hit() -> bool:
        nonlocal count
        count += 1
        return count % EVERY == 0

    return is_hit


@contextmanager
def _both(one: Patch, other: Patch) -> Iterator[None]:
    with one, other:
        yield


DEFECTS: dict[str, Callable[[], Patch]] = {
    each.__name__: each
    for each in (
        resends,
        fans_out,
        loses_replies,
        loses_large_replies,
        loses_messages,
        doubts_everything,
        starts_expired,
        forgets_state,
    )
}
