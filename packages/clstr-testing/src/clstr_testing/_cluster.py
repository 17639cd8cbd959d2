"""A cluster for tests, in one line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from uuid import uuid4

import clstr
from clstr.spi import Engine

DRAIN_TIMEOUT = 1.0
"""Seconds that a test waits for a handler that does not end, at the end of it; in production the default is 10."""

HandlerOf = Callable[[str], clstr.Handler]


class Cluster:
    """
    Nodes and a client, each on a transport of its own. Made by `cluster`.

    Attributes:
        client: Talks to the nodes.
        nodes: The nodes that run, by id.
        num_shards: The number of shards.
        seed: The seed that keys are hashed with.
        url: Where every transport is connected to; `clstr.connect` takes it.
    """

    client: clstr.Client

    def __init__(self, handler_of: HandlerOf, *, num_shards: int, seed: str, url: str, options: dict[str, Any]) -> None:
        self.nodes: dict[str, clstr.Node] = {}
        self.num_shards = num_shards
        self.seed = seed
        self.url = url
        self._handler_of = handler_of
        self._options = options
        self._members: dict[str, _Member] = {}
        self._client_transport: clstr.Transport | None = None

    def owner(self, key: str) -> str:
        """
        Return the id of the node that owns the shard of ``key``.

        Raises:
            NoShardSubscriberError: No node does.
        """
        shard = clstr.shard_for_key(key, self.num_shards, self.seed)
        for node_id, node in self.nodes.items():
            if shard in node.shards:
                return node_id
        raise clstr.NoShardSubscriberError(shard)

    async def stop(self, node_id: str, *, take_over: bool = False) -> None:
        """
        Stop a node as its program would: it finishes the messages that it took, then its transport is closed.

        Args:
            node_id: One of `nodes`.
            take_over: Whether the remaining nodes then acquire its shards, as rendezvous hashing distributes them. In
                between, and for good without this, nobody owns them.

        Raises:
            KeyError: No such node runs.
        """
        await self._end(node_id, _Member.stop, take_over=take_over)

    async def kill(self, node_id: str, *, take_over: bool = False) -> None:
        """
        End a node without warning, as far as one process can play the death of another: no `on_stop` runs.

        Its link to the broker is closed first, so that its shards have no owner at once, and whoever waits for an
        answer from it gets what the transport has for a lost peer; with ``memory://`` that is `ConnectionLostError`.
        Then its handlers are cancelled, and messages that waited there never start. A handler that does not obey its
        cancellation goes on, which no killed process could; it is waited for as long as ``drain_timeout``. Its code
        in ``finally`` blocks runs, too. A transport that is no `clstr.spi.Engine` has no link to close first: its
        handlers are cancelled, then it is closed.

        Args:
            node_id: One of `nodes`.
            take_over: As in `stop`.

        Raises:
            KeyError: No such node runs.
        """
        await self._end(node_id, _Member.kill, take_over=take_over)

    async def _end(self, node_id: str, end: Callable[[_Member], Any], *, take_over: bool) -> None:
        if node_id not in self.nodes:
            raise KeyError(f"no node {node_id!r} runs; these do: {', '.join(self.nodes) or 'none'}")
        lost = self.nodes.pop(node_id).shards
        await end(self._members.pop(node_id))
        if take_over:
            await self._take_over(lost)

    async def _take_over(self, shards: frozenset[int]) -> None:
        if not self.nodes:
            return
        shares = clstr.assign_shards(list(self.nodes), self.num_shards, self.seed)
        for node_id, node in self.nodes.items():
            await node.acquire(shards.intersection(shares[node_id]))

    async def _open(self, node_ids: list[str]) -> None:
        for node_id in node_ids:
            await self._open_node(node_id, node_ids)
        self._client_transport = await clstr.connect(self.url, **self._options)
        self.client = clstr.Client(self._client_transport, num_shards=self.num_shards, seed=self.seed)

    async def _open_node(self, node_id: str, node_ids: list[str]) -> None:
        transport = await clstr.connect(self.url, **self._options)
        member = self._members[node_id] = _Member(transport, self._handler_of(node_id))
        member.node = clstr.Node(
            transport, member, node_id=node_id, nodes=node_ids, num_shards=self.num_shards, seed=self.seed
        )
        self.nodes[node_id] = await member.node.__aenter__()

    async def _aclose(self) -> None:
        self.nodes.clear()
        stops = [member.stop() for member in self._members.values()]
        outcomes = await asyncio.gather(*stops, return_exceptions=True)
        if self._client_transport is not None:
            await self._client_transport.aclose()
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome


class _Member:
    """A node's transport, and the tasks of its handler, which it stands in for."""

    def __init__(self, transport: clstr.Transport, handler: clstr.Handler) -> None:
        self._transport = transport
        self._handler = handler
        self._running: set[asyncio.Task[Any]] = set()
        self._is_killed = False
        self.node: clstr.Node | None = None

    async def release_shards(self, shards: frozenset[int]) -> None:
        """Let the handler store the state of ``shards``, which one that was killed cannot."""
        release = getattr(self._handler, "release_shards", None)
        if release is not None and not self._is_killed:
            await release(shards)

    async def __call__(self, envelope: clstr.Envelope) -> bytes | None:
        if self._is_killed:
            raise asyncio.CancelledError
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            return await self._handler(envelope)
        finally:
            self._running.discard(task)

    async def stop(self) -> None:
        try:
            if self.node is not None:
                await self.node.aclose()
        finally:
            await self._transport.aclose()

    async def kill(self) -> None:
        self._is_killed = True
        if isinstance(self._transport, Engine):
            await self._transport.link.aclose()
        for task in list(self._running):
            task.cancel()
        abort = getattr(self._handler, "abort", None)
        if abort is not None:
            abort()
        await self.stop()


def cluster(
    handler: clstr.Handler | None = None,
    *,
    handler_of: HandlerOf | None = None,
    nodes: int = 3,
    num_shards: int = 256,
    seed: str = "seed",
    url: str | None = None,
    **options: Any,
) -> AbstractAsyncContextManager[Cluster]:
    """
    Run a cluster for a test, to be entered with ``async with``. Go: ``CreateTestCluster``.

        async with cluster(handler) as c:
            assert await c.client.request_key("user-123", "GetUser") == b"..."

    Nodes are called ``node-0``, ``node-1`` and so on, and share the shards by rendezvous hashing. At the end the nodes
    drain, all at once, and every transport is closed.

    Args:
        handler: The handler of every node. One that keeps state, an `ActorHandler`, a `KeyHandler` or a `Router` of
            such, is not shared: each node gets a fresh one with the same arguments.
        handler_of: Instead of ``handler``: makes the handler of the node with the given id.
        nodes: How many nodes.
        num_shards: How many shards.
        seed: The seed that keys are hashed with.
        url: Where to connect to; ``{cluster}`` in it becomes a name that no other cluster has. By default
            ``memory://{cluster}``: a bus that nobody else is on.
        options: For `clstr.connect`, of every transport: limits, and what the plugin knows. ``drain_timeout`` is 1
            second unless it stands here or in the URL.

    Raises:
        TypeError: Neither ``handler`` nor ``handler_of`` is given, or both; or ``handler`` keeps state, since it has
            ``release_shards``, and has no method ``fresh`` that makes another one.
        ValueError: ``nodes`` is below 1.
        UnknownSchemeError: When entered: the transport is not installed; the message says what to install.
    """
    if (handler is None) == (handler_of is None):
        raise TypeError("cluster() needs either handler, the same for every node, or handler_of, a function of the id")
    if nodes < 1:
        raise ValueError(f"nodes must be at least 1, not {nodes}")
    node_ids = [f"node-{number}" for number in range(nodes)]
    made = Cluster(
        handler_of or _one_each(handler),
        num_shards=num_shards,
        seed=seed,
        url=(url or "memory://{cluster}").replace("{cluster}", uuid4().hex),
        options=options,
    )
    if "drain_timeout=" not in made.url:
        options.setdefault("drain_timeout", DRAIN_TIMEOUT)
    return _running(made, node_ids)


def _one_each(handler: Any) -> HandlerOf:
    """Return what makes a node's handler: nodes share one that keeps no state, and have a fresh one each otherwise."""
    if not hasattr(handler, "release_shards"):
        return lambda _node_id: handler
    if not hasattr(handler, "fresh"):
        text = "keeps state, since it has release_shards: use handler_of=, so that each node has one of its own"
        raise TypeError(f"a {type(handler).__name__} {text}")
    handler.fresh()  # a router that includes what cannot be made anew says so now
    return lambda _node_id: handler.fresh()


@asynccontextmanager
async def _running(made: Cluster, node_ids: list[str]) -> AsyncIterator[Cluster]:
    try:
        await made._open(node_ids)  # noqa: SLF001 -- this module's own
        yield made
    finally:
        await made._aclose()  # noqa: SLF001 -- this module's own
