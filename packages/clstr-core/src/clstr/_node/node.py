"""The node: it owns shards and runs a handler for their messages."""

from __future__ import annotations

import asyncio
import logging
import secrets
import string
from collections.abc import Awaitable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

from clstr._context import current, refuse, set_current_node_id
from clstr._messages.envelope import KEY_HEADER, Envelope
from clstr._messages.hints import check_async
from clstr._messages.node_info import NODE_INFO_TYPE, NodeInfo, encode_node_info
from clstr._node.handler_metrics import HandlerMetrics, is_refusal
from clstr._node.loop_lag_meter import LoopLagMeter
from clstr._node.metrics import Metrics
from clstr._node.middleware import Middleware, check_middleware, wrap
from clstr._node.namesake import refuse_namesake
from clstr._node.releases import Releases
from clstr._rate_limited_log import RateLimitedLog
from clstr._routing.hashing import check_node_id, shard_for_key, shards_for_node
from clstr._routing.shards import check_shard
from clstr.abc import ClientTransport, Handler, ReleaseReport, ServerTransport, Subscription
from clstr.errors import InvalidEnvelopeError, NotOwnerError

_ID_ALPHABET = string.ascii_letters + string.digits + "_-"
_ID_LENGTH = 6
ERRORS = ("text", "type", "hidden")


class Node:
    """
    Owns shards and runs ``handler`` for their messages, until it is stopped. Go: ``Node``.

        async with clstr.Node(transport, handler, node_id="node-1", nodes=["node-1", "node-2"], num_shards=64):
            ...  # it serves until the block ends

    or ``await node.run()``, which serves until it is stopped. Either way it drains at the end: messages that have
    started, or wait for a slot, are finished. A node runs once.

    It answers the message ``clstr.node.info`` itself. It refuses messages for shards that it does not own and, if it
    knows ``num_shards``, messages whose key maps to another shard: their client was told another ``num_shards`` or
    ``seed``. What a handler raises is logged at ``clstr.node``, with the text that its exception has; payloads and
    header values are never logged by clstr itself.

    Args:
        transport: What brings the messages; the node does not close it.
        handler: Answers an envelope: an async function that returns bytes, or ``None`` for an empty reply. If it keeps
            state, as an `ActorHandler` does, it has a method ``async def release_shards(shards)`` too, which the node
            awaits when the last message for ``shards``, a frozenset, has ended, and before it counts them as released.
            Who wraps such a handler in a function of his own must forward that; `Router` and middleware need not be
            told.
        shards: The shards to own, in any order, repetitions allowed; none are to be acquired later. Instead of
            ``nodes``.
        nodes: The ids of every node in the cluster, ``node_id`` among them: the node owns its share of
            ``num_shards``, see `shards_for_node`. Instead of ``shards``.
        node_id: The node's name, printable; by default ``node-`` and six random characters. If it is given, a live node
            of that name that holds one of the shards keeps this one from starting: `NodeIdInUseError`.
        num_shards: The cluster's number of shards, 1 to 2**32 - 1. Needed with ``nodes``; ``None`` is not known.
        seed: The cluster's seed. Clients and nodes must agree on it, as on ``num_shards``.
        logger: By default that called ``clstr.node``.
        metrics: Receives measurements.
        errors: What a caller is told of an exception of the handler or of middleware: ``"text"``, its type's name and
            its text of at most 1 KiB; ``"type"``, the name alone; ``"hidden"``, nothing but that the handler failed.
            What the handler refuses with `clstr.spi.refuse` travels as it is, and the node's log has all of it.
        middleware: Functions around the handler, the first outermost; see `Middleware`. Node info and refusals of the
            node itself do not pass them.

    Raises:
        TypeError: An argument has the wrong type, or is missing, or one too many is given.
        ValueError: A shard, ``num_shards``, a node id or ``seed`` is out of its bounds, or ``node_id`` is not in
            ``nodes``.

    Attributes:
        ready: Set while the node serves: every shard is subscribed to, and it is not draining.
    """

    def __init__(
        self,
        transport: ServerTransport,
        handler: Handler,
        *,
        shards: Iterable[int] | None = None,
        nodes: Iterable[str] | None = None,
        node_id: str | None = None,
        num_shards: int | None = None,
        seed: str = "",
        logger: logging.Logger | None = None,
        metrics: Metrics | None = None,
        middleware: Iterable[Middleware] = (),
        errors: Literal["text", "type", "hidden"] = "text",
    ) -> None:
        _check_parts(transport, handler, metrics)
        if errors not in ERRORS:
            raise ValueError(f"errors must be one of {', '.join(ERRORS)}, not {errors!r}")
        self._errors = errors
        self._transport = transport
        around = check_middleware(middleware)
        self._handler = wrap(partial(_call_if_held, handler), around) if around else handler
        self._release_state = getattr(handler, "release_shards", _keep_nothing)
        self._num_shards = num_shards
        self._seed = seed
        self._owned = _initial_shards(shards, nodes, node_id, num_shards, seed)
        self._has_given_id = node_id is not None
        self._node_id = _new_id() if node_id is None else node_id
        check_node_id(self._node_id)
        self._logger = logger or logging.getLogger("clstr.node")
        self._failures = RateLimitedLog(self._logger)
        self._metrics = Metrics() if metrics is None else metrics
        self._lag_meter = None if metrics is None else LoopLagMeter(partial(metrics.loop_lag, self._node_id))
        self._handler_metrics = None if metrics is None else HandlerMetrics(metrics, self._node_id)
        self._subscription: Subscription | None = None
        self._stopping = asyncio.Event()
        self._unreleased: set[int] = set()  # shards of which the handler may keep state
        self._releases = Releases(self._logger)
        self._is_started = False
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.ready: asyncio.Event = asyncio.Event()

    def __repr__(self) -> str:
        return f"Node({self._node_id!r}, {len(self._owned)} shards)"

    @property
    def node_id(self) -> str:
        """The node's id."""
        return self._node_id

    @property
    def shards(self) -> frozenset[int]:
        """The shards that the node owns; before its start those that it will own, after its end none."""
        return frozenset(self._owned)

    async def run(self) -> None:
        """
        Serve until the node is stopped, then drain. Go: ``Node.Run``, which did not block.

        Returns after `stop` or `aclose`, or when the transport is closed. When the task is cancelled, the node drains
        first; a second cancellation ends the draining.

        Raises:
            ClstrError: The start failed, and nothing is subscribed to; or the link was lost for good.
            RuntimeError: The node was started already, or is closed.
        """
        async with self:
            await self._until_stopped()

    async def __aenter__(self) -> Self:
        self._check_new()
        self._is_started = True
        self._loop = asyncio.get_running_loop()
        try:
            if self._has_given_id and isinstance(self._transport, ClientTransport):
                await refuse_namesake(self._transport, self._node_id, self._owned, self._logger)
            self._subscription = await self._transport.subscribe(sorted(self._owned), self._handle)
        except BaseException:
            self._is_started = False
            raise
        try:
            self._begin()
        except BaseException:
            await self.aclose()
            raise
        return self

    def _begin(self) -> None:
        if self._is_closed:
            raise RuntimeError(f"node {self._node_id} was closed while it started")
        self._count_shards()
        if self._lag_meter is not None:
            self._lag_meter.start()
        self._logger.info("node %s owns %d shards", self._node_id, len(self._owned), extra=self._extra())
        self.ready.set()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.aclose()
        except Exception:
            if exc is None:
                raise
            self._logger.exception("node %s did not close cleanly", self._node_id, extra=self._extra())

    def stop(self) -> None:
        """Let `run` drain and return. Returns at once; may be called twice, and from inside a handler."""
        self._stopping.set()

    async def aclose(self) -> ReleaseReport:
        """
        Stop and drain: on return no message starts, and those that did have ended. May be called twice.

        It waits as long as the transport's ``drain_timeout`` at most, and never for the handler that calls it. Then it
        lets a handler that keeps state release that of every shard, and waits for every `release` under way. That time
        comes on top of ``drain_timeout`` and has no bound of its own: an `ActorHandler` and a `KeyHandler` run
        ``max_stops`` of their stops at once, and each takes 30 seconds at most. To end it, cancel this: what is not
        stored then is logged. Close the node before its transport, since `on_stop` may send.

        Returns:
            Which handlers still ran after ``drain_timeout``; empty if it was not started, or is closed already.

        Raises:
            StateNotStoredError: The handler could not store the state of some keys. The node is closed all the same.
            RuntimeError: The node runs on another event loop.
        """
        self._check_loop()
        self._is_closed = True
        self._stopping.set()
        self.ready.clear()
        try:
            return await self._give_everything_up()
        finally:
            if self._lag_meter is not None:
                self._lag_meter.stop()
            self._releases.cancel()
            self._disown()

    async def _give_everything_up(self) -> ReleaseReport:
        if self._subscription is None:
            return ReleaseReport()
        self._unreleased |= self._owned
        report = await self._drained(self._subscription.aclose())
        await self._releases.wait_for_all()
        await self._release(frozenset(self._unreleased))
        return report

    async def acquire(self, shards: Iterable[int]) -> None:
        """
        Own ``shards`` too: on return their messages arrive here. Those that it owns already are left alone.

        If a `release` of one of them is under way, or failed, what the handler keeps for it is released first: state
        from before another node owned the shard must not answer again.

        Raises:
            RuntimeError: The node does not run.
            TypeError: One is not an int.
            ValueError: One is out of its bounds.
            ClstrError: The transport failed; of the new shards, none is owned.
            Exception: What the handler raised when it was to release what it still keeps.
        """
        self._running()
        wanted = _check_shards(shards, self._num_shards)
        await self._releases.wait_for(wanted)
        stale = wanted & (self._unreleased - self._owned)
        if stale:
            await self._releases.run(stale, self._release(stale))
        subscription = self._running()  # it may have been closed meanwhile
        self._owned |= wanted
        try:
            await subscription.add(sorted(wanted))
        finally:
            self._owned -= wanted - subscription.shards
            self._count_shards()

    async def release(self, shards: Iterable[int]) -> ReleaseReport:
        """
        Give ``shards`` up: on return none of their messages starts here, and those that did have ended.

        It waits for those as long as the transport's ``drain_timeout``, and not for the handler that calls it. What
        still runs then is reported, and logged. If it is only in middleware, or has not reached its key's state yet,
        its message is refused with `NotOwnerError` as soon as it comes there. Then the handler releases what it keeps
        for the shards; `aclose` says how long that may take. Shards that the node does not own are left alone.

        A release that has begun is finished: if this is cancelled, it goes on by itself, and `acquire` of the same
        shards and `aclose` wait for it.

        Returns:
            Which handlers still ran after ``drain_timeout``.

        Raises:
            StateNotStoredError: The handler could not store the state of some keys: decide what becomes of them before
                another node acquires the shards. This one receives nothing for them any more.
            RuntimeError: The node does not run.
            TypeError: One is not an int.
            ValueError: One is out of its bounds.
            ClstrError: The transport failed.
            Exception: What the handler raised; the next `release` or `acquire`, or `aclose`, asks it again.
        """
        subscription, unwanted = self._running(), _check_shards(shards, self._num_shards)
        return await self._releases.run(unwanted, self._give_up(subscription, unwanted))

    async def _give_up(self, subscription: Subscription, unwanted: frozenset[int]) -> ReleaseReport:
        left_over = frozenset(self._unreleased - self._owned)  # their releases failed
        self._unreleased |= unwanted & self._owned
        try:
            report = await subscription.remove(sorted(unwanted))
            await self._release(unwanted | left_over)
        finally:
            self._owned -= unwanted - subscription.shards
            self._count_shards()
        return report

    async def _drained(self, draining: Awaitable[ReleaseReport]) -> ReleaseReport:
        """Await the draining; if that is cancelled, say that the handler keeps its state."""
        try:
            return await draining
        except asyncio.CancelledError:
            if self._unreleased and self._release_state is not _keep_nothing:
                text = "node %s was cancelled while it drained: what its handler keeps for %d shards was not released"
                self._logger.error(text, self._node_id, len(self._unreleased), extra=self._extra())  # noqa: TRY400 -- no failure
            raise

    async def _release(self, shards: frozenset[int]) -> None:
        """Let the handler release its state of ``shards``, which no message uses any more."""
        await self._release_state(shards)
        self._unreleased -= shards

    # Life.

    def _check_new(self) -> None:
        if self._is_closed:
            raise RuntimeError(f"node {self._node_id} is closed: make a new one")
        if self._is_started:
            raise RuntimeError(f"node {self._node_id} was started already: a node runs once")

    def _check_loop(self) -> None:
        """Refuse to close half: on another loop the subscription could not be let go of."""
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise RuntimeError(f"node {self._node_id} runs on another event loop: close it there")

    def _running(self) -> Subscription:
        if self._subscription is None or self._is_closed:
            raise RuntimeError(f"node {self._node_id} does not run: `async with node:`, or await node.ready.wait()")
        return self._subscription

    async def _until_stopped(self) -> None:
        watch = asyncio.create_task(self._transport.wait_closed())
        watch.add_done_callback(lambda _: self._stopping.set())
        try:
            await self._stopping.wait()
        finally:
            watch.cancel()
            await asyncio.wait((watch,))
            lost = None if watch.cancelled() else watch.exception()
        if lost is not None:
            raise lost

    def _disown(self) -> None:
        if self._owned:
            self._owned.clear()
            self._count_shards()

    def _count_shards(self) -> None:
        self._metrics.shards_owned(self._node_id, len(self._owned))

    # Messages.

    def _handle(self, envelope: Envelope) -> Awaitable[bytes | None]:
        if self._errors != "text":
            message = current()
            if message is not None:
                message.errors = self._errors
        if envelope.shard not in self._owned:
            raise refuse(NotOwnerError(envelope.shard))
        key = envelope.headers.get(KEY_HEADER)
        if key is not None and self._num_shards is not None:
            shard = shard_for_key(key, self._num_shards, self._seed)
            if shard != envelope.shard:
                raise refuse(InvalidEnvelopeError("shard", self._disagreement(envelope.shard, shard)))
        set_current_node_id(self._node_id)
        if self._handler_metrics is None:  # so it is in most nodes: no coroutine stands in between
            return self._answer(envelope)
        return self._measured(self._handler_metrics, envelope)

    async def _measured(self, metrics: HandlerMetrics, envelope: Envelope) -> bytes | None:
        with metrics.measure(envelope.type):
            return await self._answer(envelope)

    def _disagreement(self, sent: int, expected: int) -> str:
        return (
            f"is {sent}, but the message's key maps to {expected} at node {self._node_id}, which has num_shards="
            f"{self._num_shards} and seed={self._seed!r}: client and node disagree, give both the same"
        )

    async def _answer(self, envelope: Envelope) -> bytes | None:
        if envelope.type == NODE_INFO_TYPE:
            return encode_node_info(NodeInfo(self._node_id, sorted(self._owned)))
        try:
            answer: Any = self._handler(envelope)
            if not hasattr(answer, "__await__"):
                raise TypeError("the handler is not async: write `async def`")
            reply = await answer
            if reply is None or isinstance(reply, bytes):
                return reply
            raise TypeError(f"the handler returned {type(reply).__name__}, not bytes or None")
        except Exception as error:
            if not is_refusal(error):
                self._log_failure(envelope, error)
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():  # nobody cancelled it: it raised that by itself
                self._log_failure(envelope, error)
            raise

    def _log_failure(self, envelope: Envelope, error: BaseException) -> None:
        self._failures.say(
            logging.ERROR,
            "the handler of %s failed on shard %d of node %s",
            envelope.type,
            envelope.shard,
            self._node_id,
            kind=type(error),
            error=error,
            extra={**self._extra(), "clstr_shard": envelope.shard, "clstr_type": envelope.type},
        )

    def _extra(self) -> dict[str, object]:
        return {"clstr_node": self._node_id}


def _call_if_held(handler: Handler, envelope: Envelope) -> Awaitable[bytes | None]:
    """Call ``handler``, unless the shard was released while middleware worked."""
    message = current()
    if message is not None:
        message.check_held()
    return handler(envelope)


async def _keep_nothing(_shards: frozenset[int]) -> None:
    """Release the state of a handler that keeps none."""


def _check_parts(transport: object, handler: object, metrics: object) -> None:
    if not isinstance(transport, ServerTransport):
        raise TypeError(
            f"transport must be an open transport, not {type(transport).__name__}: write "
            "`async with clstr.connect(url) as transport:`"
        )
    if not callable(handler):
        raise TypeError(f"handler must be an async function of an envelope, not {type(handler).__name__}")
    check_async(handler, "the handler")
    if metrics is not None and not isinstance(metrics, Metrics):
        raise TypeError(f"metrics must be an instance of a subclass of clstr.Metrics, not {type(metrics).__name__}")


def _initial_shards(
    shards: Iterable[int] | None, nodes: Iterable[str] | None, node_id: str | None, num_shards: int | None, seed: str
) -> set[int]:
    shard_for_key("", 1 if num_shards is None else num_shards, seed)  # checks both
    if shards is not None and nodes is None:
        return set(_check_shards(shards, num_shards))
    if nodes is None or shards is not None:
        raise TypeError("a node needs either shards, the ones to own, or nodes, the ids of all nodes")
    if node_id is None or num_shards is None:
        raise TypeError("with nodes a node needs its node_id, which is one of them, and num_shards")
    return set(shards_for_node(node_id, nodes, num_shards, seed))


def _check_shards(shards: Iterable[int], num_shards: int | None) -> frozenset[int]:
    return frozenset(check_shard(shard, num_shards) for shard in shards)


def _new_id() -> str:
    return "node-" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))
