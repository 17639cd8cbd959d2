"""What a plugin implements (`Link`), and what the engine gives it (`Sink`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol

from clstr._messages.wire import Buffer
from clstr.errors import ClstrError

Route = Hashable
"""Where the bytes of a message went: a peer, or ``None`` for "the broker"."""


class Sink(Protocol):
    """
    The engine's side of a link.

    Every method is synchronous, fast, and never raises: a link calls them from its reader and needs no guard.
    """

    def request(self, shard: int, body: Buffer, to: object, read_at: float | None = None) -> None:
        """
        A message for ``shard`` arrived. Its handler may run inside of this call, and block.

        Args:
            shard: The message's.
            body: The message.
            to: Handed back to `Link.reply`; ``None`` is nowhere to answer to.
            read_at: When its bytes were read: loop time in seconds. Its TTL counts from then (T8). All messages of one
                read have the same, however long the handlers of the first ones block. ``None`` is now.
        """

    def answer(self, token: int, body: Buffer, route: Route = None) -> None:
        """
        The reply to ``token`` arrived. An unknown token is counted as late; what is no reply does not end the request.

        Args:
            token: What `Link.send` was given.
            body: The reply.
            route: Where it came from, if the link knows that for certain; from elsewhere than the request went to, it
                is garbage, and so it is before the engine knows the route. Never what the sender claims to be.
        """

    def routed(self, token: int, route: Route) -> None:
        """``token`` went along ``route``: for links that learn it only after `Link.send` has returned."""

    def accepted(self, token: int) -> None:
        """The notify ``token`` is on its way to an owner that is live now (T12)."""

    def refused(self, token: int, error: ClstrError, *, again_after: float | None = None) -> None:
        """
        ``token`` certainly did not run: a no-responders answer, a publish count of zero.

        Args:
            token: What `Link.send` was given.
            error: Why; what the caller gets.
            again_after: Seconds after which the message is sent once more, if this was its first attempt and its
                deadline allows it: for what is worth asking twice. ``None`` is not.
        """

    def failed(self, token: int, error: ClstrError) -> None:
        """``token`` ended with ``error``, whose ``maybe_executed`` is the link's to set."""

    def dropped(self, answers: int) -> None:
        """
        Answers that `Link.reply` had taken reached nobody, or those to a receiver that is gone.

        Args:
            answers: How many.
        """

    def lost(self, route: Route) -> None:
        """``route`` is gone: its requests in flight end with `ConnectionLostError`."""

    def up(self) -> None:
        """
        The link is usable again, or reaches more than before: what `Link.send` had no way for is tried again.

        It counts as up when `Link.open` has returned.
        """

    def writable(self) -> None:
        """There is room again after `Link.reply` has returned ``False``: the answers that it did not take are due."""

    def down(self, error: Exception, *, fatal: bool = False) -> None:
        """The link is gone, and every request in flight with it. ``fatal``: it will not come back."""

    def garbage(self, why: str) -> None:
        """Something arrived that is not ours; it was dropped."""


class Link(ABC):
    """
    What is peculiar to one broker. Everything else is the engine's.

    Every method is called on the loop. A link keeps itself connected after `open`, and tells the sink when it is not.

    Attributes:
        max_message_bytes: Bytes of the largest body that the broker carries, known after `open`; ``None`` is no limit.
            The link may change it at any time.
        size_setting: What to raise for larger bodies, as users know it; empty if nothing can be.
        answered_shards: The shards that have answered a request of this peer, for links whose `why_unanswered` needs
            them: such a link sets it to an empty set before `open`, and the engine adds to it. ``None`` is not needed.
        needs_confirmation: Whether somebody else receives the messages for shards too, so that what the broker accepts
            proves no owner: a notify is then on its way only when a node has confirmed it. The link may change it at
            any time.
    """

    max_message_bytes: int | None = None
    size_setting: str = ""
    answered_shards: set[int] | None = None
    needs_confirmation: bool = False

    @abstractmethod
    async def open(self, sink: Sink) -> None:
        """
        Connect. The link is usable on return.

        Raises:
            AuthenticationError: The broker refused the credentials.
            TransportUnavailableError: The broker cannot be reached.
        """

    @abstractmethod
    async def hold(self, shards: Sequence[int]) -> None:
        """
        Receive messages for ``shards``; T4 is true of them on return. The link restores what it holds by itself.

        Calls for one shard come one after the other. May be cancelled; `drop` follows then.

        Raises:
            TransportUnavailableError: The link went down meanwhile; nothing is held.
            AccessDeniedError: The broker refuses the right.
        """

    @abstractmethod
    async def drop(self, shards: Sequence[int]) -> None:
        """
        Receive no more messages for ``shards``.

        On return no message for them is on its way to this peer, as far as the broker can tell, or the link is down.
        Shards that are not held are left alone. Must not raise; may be cancelled.
        """

    def reply_address(self, to: object, reply_to: str) -> object:  # noqa: ARG002 -- for links whose envelopes carry one
        """
        Choose where the answer to an arrived message goes; ``None`` is nowhere.

        Args:
            to: What the link gave to `Sink.request`.
            reply_to: The printable address in the envelope, possibly empty. It comes from a stranger: check it.
        """
        return to

    def reply_to(self, shard: int, token: int) -> str:  # noqa: ARG002 -- the same
        """Return the printable address for the answer to ``token``, which goes to ``shard``; empty is none."""
        return ""

    @abstractmethod
    def send(self, shard: int, token: int, body: bytes, *, oneway: bool) -> Route:
        """
        Send a message to one owner of ``shard``. Never blocks.

        For a ``oneway`` message the link calls `Sink.accepted` or `Sink.refused` as soon as it knows, at the earliest
        inside of this call.

        A link that finds the receiver dead raises; it does not call `Sink.lost` from here.

        Raises:
            NoShardSubscriberError, OverloadedError, PayloadTooLargeError: Nothing left this process.
            TransportUnavailableError: Nothing left, and it is not known whether ``shard`` has an owner: there is no way
                to those that may. The engine calls again after `Sink.up` or `Sink.down`, for as long as a request waits
                for a lost link.
        """

    def misrouted(self, shard: int, route: Route) -> None:  # noqa: B027 -- for links that remember owners
        """
        Learn that whoever is at ``route`` refused a message, because it does not own ``shard`` or is closing (T16).

        It comes before the message is sent again, if it is.

        Args:
            shard: The message's.
            route: Where it went, as far as the link has told.
        """

    def describe_foreign(self, body: Buffer) -> str:  # noqa: ARG002 -- for links that know what else answers there
        """
        Say what wrote ``body``, which arrived as the answer to a request and is no reply, and how to stop that.

        The text goes into the log and into `RequestTimeoutError`: it must not repeat what may be a payload. Empty is
        unknown.
        """
        return ""

    def why_unanswered(self, shard: int) -> str:  # noqa: ARG002 -- for links that can tell
        """
        Say what is known of why a request to ``shard`` got no answer in time; empty is nothing.

        The text goes into `RequestTimeoutError`. The link may begin to find out, for the next one.
        """
        return ""

    @abstractmethod
    def reply(self, to: object, body: bytes) -> bool:
        """
        Send an answer. Never blocks, never raises.

        Returns:
            ``False`` if the link does not take it now, because it is down or has too much to send: the engine keeps the
            answer, and offers it again after `Sink.up` and `Sink.writable` for as long as its deadline lasts. ``True``
            if the link took it, or knows that its receiver is gone; then it calls `Sink.dropped` too.
        """

    def destination(self, to: object) -> Hashable:  # noqa: ARG002 -- for links whose receivers can be told apart
        """
        Return what stands for the peer that an answer to ``to`` goes to.

        The answers that a peer does not take keep back further messages of that peer; with one name for all, they keep
        back everybody's.

        Args:
            to: What the link gave to `Sink.request`, or `reply_address` chose.
        """
        return None

    def stats(self) -> Mapping[str, float]:
        """Return what this link counts beyond the engine, by name, for `clstr.abc.TransportStats.link`."""
        return {}

    @abstractmethod
    async def flush(self) -> None:
        """Return when what was sent is out, or the link is down."""

    @abstractmethod
    async def aclose(self) -> None:
        """
        Release everything. May be called twice, and after a failed `open`.

        It is cancelled after 0.4 seconds, and must have released its sockets all the same.
        """
