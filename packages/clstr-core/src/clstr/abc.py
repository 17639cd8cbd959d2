"""
The transport contract: what every transport promises, whatever carries its messages.

The lines are numbered T1 to T17, and the conformance suite checks each of them. *Refusal* means: an answer that
proves that the message never ran, so its error says ``maybe_executed=False``.

T1  ``request`` returns the handler's bytes, whatever they are (``None`` becomes ``b""``), up to
    ``max_payload_bytes``: the smaller of the option of that name and what the broker carries. The handler gets the
    envelope as it was sent. Of one transport, ``max_inflight_requests`` requests and ``max_inflight_bytes`` of their
    data await a reply; more is `OverloadedError`, and nothing was sent. Answers that are on their way to it stay within
    ``max_inflight_bytes`` too; nodes keep what it has no room for until it asks.
T2  If several subscriptions hold a shard, each message goes to exactly one of them.
T3  A shard that nobody holds is `NoShardSubscriberError` without waiting for the deadline, for ``notify`` too. An
    owner that is frozen counts as holding until the transport's published detection time.
T4  When ``subscribe`` returns, messages for its shards are delivered.
T5  Messages that arrive while ``Subscription.aclose`` runs may still start; after it has returned none does. It waits
    for its started handlers, at most ``drain_timeout``, and neither for the handler that calls it nor for those that
    await its answer. It reports which handlers still run; what they have not reached by then, they do not reach: a
    keyed handler refuses them with `NotOwnerError`.
T6  At most ``max_concurrent`` handlers run, also within a shard; ``max_queue`` messages and ``max_queue_bytes`` wait;
    more get `OverloadedError` at once. A handler that awaits a clstr request lends its slot, and need not wait to get
    it back. Requests made inside a handler wait in a queue of their own and start first.
T7  A handler has the smaller of ``handler_timeout`` and what is left of the TTL. Then it is cancelled and the caller
    gets `HandlerTimeoutError`; its slot is free when its task has really ended. One that waits for its turn at a key
    all the while has not run: the message is refused, with `EnvelopeExpiredError` or `OverloadedError`.
T8  ``timeout`` is how long the caller waits, ``ttl`` how long a node may start *and* run the message. The receiver
    counts from reading it: messages that were read together have the same time, however long the handlers of the first
    ones block the loop. Transit is not counted, nor the wait in the system's sockets. An expired message never starts:
    `EnvelopeExpiredError`.
T9  A request always ends: by ``timeout`` at the latest, with `RequestTimeoutError` (granularity 10 ms, upwards). When
    a cancelled await has raised, nothing of it is kept. A reply never reaches another request.
T10 A refusal keeps its type, code and facts. Everything else that leaves a handler arrives as `HandlerError`.
T11 Too large is an error: `PayloadTooLargeError` before sending, and for a reply too large with
    ``maybe_executed=True``.
T12 ``notify`` returns when the message is on its way to an owner that was live then. What becomes of it later is
    counted and logged at the node, not reported.
T13 When the link is lost, requests in flight on it fail with `ConnectionLostError`. New ones wait for the link inside
    their deadline, at most ``reconnect_wait``, then `TransportUnavailableError`. Subscriptions come back by themselves.
    An answer that is ready while its node has lost the link is sent after that, while its deadline lasts.
T14 ``aclose`` is idempotent, safe from several tasks and from inside a handler. New calls fail with
    `TransportClosedError` as soon as it begins, requests of draining handlers go on; late arrivals are refused. It
    returns within ``drain_timeout`` + 2 s, and leaves nothing but handlers that ignored cancellation.
T15 Garbage from the wire is counted and dropped, or answered with an error; it never stops the receiver. What
    arrives at a reply's address and is no reply of a node does not end the request.
T16 At most once: nothing is sent again unless a refusal shows that it never ran. After a fourth `NotOwnerError` the
    caller gets it.
T17 Messages of one caller for one key start in the order in which they were sent, on one transport and between moves of
    the shard. A refusal, a retry or a lost link may reorder them, and shows as the error of a call. Requests that a
    handler makes start before its notifies (T6).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from clstr._messages.envelope import Envelope

Handler = Callable[[Envelope], Awaitable[bytes | None]]
"""Answers an envelope: the bytes of the reply, or ``None`` for an empty one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseReport:
    """
    What ``aclose`` left behind.

    Attributes:
        abandoned: One line per handler that ignored cancellation and still runs: its shard and message type.
        cancelled: Handlers that were cancelled because ``drain_timeout`` was over.
        refused: Messages that waited for a slot and were refused because ``drain_timeout`` was over.
    """

    abandoned: tuple[str, ...] = ()
    cancelled: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseReport:
    """
    What letting go of shards left behind.

    Attributes:
        running: Messages of the shards, by shard and type, whose handlers still ran when ``drain_timeout`` was over.
            They may still write state that they have reached already, until they end or their time is over: another
            owner has to expect that. Empty if the shards are free.
    """

    running: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportStats:
    """
    What a transport has counted since it was opened, and what it holds at this moment.

    Attributes:
        sent: How many requests and notifies left, each attempt by itself.
        received: How many requests and notifies arrived, refused ones included.
        refused: How many messages were refused before they ran, by the error's code: ``{"overloaded": 3}``.
        handler_timeouts: How many handlers were cancelled at their deadline.
        notify_failures: How many notifies were refused or failed in their handler: their sender learns nothing (T12).
        rerouted: How many messages were sent again because their receiver did not own the shard (T16).
        late_replies: How many replies came for requests that had ended before.
        dropped_replies: How many replies reached nobody, or could not be sent before their deadline.
        foreign_replies: How many messages at the address of a reply were none (T15).
        foreign_requests: How many messages of another cluster were refused.
        garbage: How many messages arrived and could not be read.
        handlers: How many handlers run now and hold a slot.
        queue_depth: How many messages wait for a slot now.
        queue_bytes: The bytes of these messages.
        requests_in_flight: How many requests and notifies wait for their outcome now.
        bytes_in_flight: The data bytes of these.
        answer_bytes: Bytes of answers that wait to leave now.
        is_up: Whether the link is usable now.
        reconnects: How many times the link came up again.
        loop_stalls: How many times the event loop was late by half a second or more while there was work.
        longest_loop_lag: How late it was at most, in seconds.
        link: Further counters of the link, by name; which ones there are depends on the transport.
    """

    sent: int = 0
    received: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    handler_timeouts: int = 0
    notify_failures: int = 0
    rerouted: int = 0
    late_replies: int = 0
    dropped_replies: int = 0
    foreign_replies: int = 0
    foreign_requests: int = 0
    garbage: int = 0
    handlers: int = 0
    queue_depth: int = 0
    queue_bytes: int = 0
    requests_in_flight: int = 0
    bytes_in_flight: int = 0
    answer_bytes: int = 0
    is_up: bool = True
    reconnects: int = 0
    loop_stalls: int = 0
    longest_loop_lag: float = 0.0
    link: Mapping[str, float] = field(default_factory=dict)


class ClientTransport(ABC):
    """The half of a transport that sends."""

    @property
    @abstractmethod
    def max_payload_bytes(self) -> int:
        """The data bytes that one request or reply may have (T1)."""

    @abstractmethod
    async def request(self, envelope: Envelope, *, timeout: float = 5.0) -> bytes:
        """
        Send ``envelope`` to the owner of its shard and wait for the reply.

        Cancelling the call drops the reply; the handler may still run.

        Args:
            envelope: Must not be expired.
            timeout: Seconds, finite and above 0, counted from the call; waiting for a lost link included.

        Raises:
            NoShardSubscriberError: Nobody owns the shard.
            RequestTimeoutError: No reply within ``timeout`` seconds.
            HandlerError: The handler raised.
            ClstrError: Any other line of the contract above.
        """

    @abstractmethod
    async def notify(self, envelope: Envelope, *, timeout: float = 5.0) -> None:
        """
        Send ``envelope`` to the owner of its shard; return when it is on its way to a live one (T12).

        Args:
            envelope: Must not be expired.
            timeout: Seconds, finite and above 0, in which it must be on its way.

        Raises:
            NoShardSubscriberError: Nobody owns the shard.
            RequestTimeoutError: It was not known to be on its way within ``timeout`` seconds.
        """

    @abstractmethod
    async def aclose(self) -> CloseReport:
        """Drain and close (T14). Later calls return the same report."""


class Subscription(ABC):
    """What one handler holds: a set of shards that can grow and shrink."""

    @property
    @abstractmethod
    def shards(self) -> frozenset[int]:
        """The shards held now."""

    @abstractmethod
    async def add(self, shards: Iterable[int]) -> None:
        """Hold ``shards`` too: T4 is true of them on return. Shards that are held already are left alone."""

    @abstractmethod
    async def remove(self, shards: Iterable[int]) -> ReleaseReport:
        """Let go of ``shards``: T5 is true of them on return. Shards that are not held are left alone."""

    @abstractmethod
    async def aclose(self) -> ReleaseReport:
        """Let go of every shard (T5). May be called twice."""


class ServerTransport(ABC):
    """The half of a transport that receives."""

    @abstractmethod
    async def subscribe(self, shards: Iterable[int], handler: Handler) -> Subscription:
        """
        Hold ``shards`` and run ``handler`` for each of their messages.

        Raises:
            TransportUnavailableError: The link is down and did not come back in ``reconnect_wait`` seconds.
            AccessDeniedError: The broker refuses the right to receive.
        """

    async def subscribe_shard(self, shard: int, handler: Handler) -> Subscription:
        """Hold one shard; see `subscribe`."""
        return await self.subscribe([shard], handler)

    @abstractmethod
    async def wait_closed(self) -> None:
        """Return when `aclose` has begun; raise what ended the link if it is lost for good."""

    @abstractmethod
    async def aclose(self) -> CloseReport:
        """Drain and close (T14). Later calls return the same report."""


class Transport(ClientTransport, ServerTransport):
    """Both halves: what `clstr.connect` returns."""

    def join_cluster(self, name: str) -> None:
        """
        Be in the cluster ``name``: requests carry it, and those that carry another name, or none, are refused.

        `clstr.connect` calls it, if it was given a name, before anything is sent or held.

        Raises:
            ValueError: The transport does not tell clusters apart, or cannot be in one of that name.
        """
        raise ValueError(f"{type(self).__name__} does not tell clusters apart: leave out cluster={name!r}")

    @abstractmethod
    def stats(self) -> TransportStats:
        """Return what this transport has counted, and what it holds now; also after `aclose`."""


__all__ = [
    "ClientTransport",
    "CloseReport",
    "Handler",
    "ReleaseReport",
    "ServerTransport",
    "Subscription",
    "Transport",
    "TransportStats",
]
