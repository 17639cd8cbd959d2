"""Where a campaign takes place: how each transport is reached, through which proxies, and what can fail there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory

from chaos.plan import BROKER_FAULTS, CLIENT_FAULTS, LINK_FAULTS, LOAD_FAULTS, NATS_FAULTS, NODE_FAULTS
from clstr_testing import FaultProxy, Server, free_port, nats_server, valkey_server

HEARTBEAT = 0.25  # seconds; the default of 1 would only make runs longer
RENEWAL = 2.0  # seconds at most between two attempts to connect again


class Site(ABC):
    """
    One cluster's surroundings.

    Attributes:
        kinds: The faults that exist here.
        detection: Seconds after the end of a fault in which calls may still fail of it.
        server: The broker, if there is one.
        links: The proxies in use, by the name of the peer whose link each is.
    """

    kinds: frozenset[str]
    detection: float
    server: Server | None = None

    def __init__(self) -> None:
        self.links: dict[str, FaultProxy] = {}

    @abstractmethod
    async def url(self, name: str, stack: AsyncExitStack) -> str:
        """Return the URL for the peer ``name``, the same each time; what it needs is opened in ``stack``."""


class BrokerSite(Site):
    """A broker; each peer reaches it through a proxy of its own."""

    def __init__(self, server: Server, query: str, misses: int, own_faults: Iterable[str]) -> None:
        super().__init__()
        self.server = server
        self._query = query
        self.kinds = frozenset((*NODE_FAULTS, *CLIENT_FAULTS, *LINK_FAULTS, *BROKER_FAULTS, *LOAD_FAULTS, *own_faults))
        self.detection = (misses + 1) * HEARTBEAT + RENEWAL + 0.5  # the last is for processes that share a machine

    async def url(self, name: str, stack: AsyncExitStack) -> str:
        """Return the URL for the peer ``name``."""
        if name not in self.links:
            assert self.server is not None
            self.links[name] = await stack.enter_async_context(FaultProxy(self.server.host, self.server.port))
        scheme = self.server.url.partition(":")[0] if self.server else ""
        return f"{scheme}://127.0.0.1:{self.links[name].port}?heartbeat={HEARTBEAT}{self._query}"


class PeerSite(Site):
    """No broker: nodes have inboxes, each behind a proxy, and everybody knows those that were there before."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = frozenset((*NODE_FAULTS, *CLIENT_FAULTS, *LINK_FAULTS, *LOAD_FAULTS))
        self.detection = 4 * HEARTBEAT + RENEWAL + 0.5
        self._inboxes: dict[str, int] = {}

    async def url(self, name: str, stack: AsyncExitStack) -> str:
        """Return the URL for the peer ``name``."""
        query = f"?heartbeat={HEARTBEAT}&cluster=chaos"
        seeds = ",".join(f"127.0.0.1:{link.port}" for other, link in self.links.items() if other != name)
        if name.startswith("client"):
            return f"zmq://{seeds}{query}"
        if name not in self.links:
            inbox = free_port()
            self.links[name] = await stack.enter_async_context(FaultProxy("127.0.0.1", inbox))
            self._inboxes[name] = inbox
        bind = f"&bind=tcp://127.0.0.1:{self._inboxes[name]}&advertise=tcp://127.0.0.1:{self.links[name].port}"
        return f"zmq://{seeds}{query}{bind}"


@dataclass(frozen=True, slots=True)
class _Broker:
    start: Callable[[], AbstractAsyncContextManager[Server]]
    query: str
    misses: int  # heartbeats that pass until a link that is mute, or a lease that is not renewed, counts as gone
    faults: tuple[str, ...] = ()  # that others do not have


@asynccontextmanager
async def _jetstream_server() -> AsyncIterator[Server]:
    with TemporaryDirectory(prefix="clstr-jetstream-") as folder:
        async with nats_server("--jetstream", "--store_dir", folder) as server:
            yield server


BROKERS = {"nats": _Broker(_jetstream_server, "", 3, NATS_FAULTS), "redis": _Broker(valkey_server, "", 5)}
TRANSPORTS = (*BROKERS, "zmq")


@asynccontextmanager
async def site_of(transport: str) -> AsyncIterator[Site]:
    """Provide what a campaign over ``transport`` needs."""
    if transport not in BROKERS:
        yield PeerSite()
        return
    broker = BROKERS[transport]
    async with broker.start() as server:
        yield BrokerSite(server, broker.query, broker.misses, broker.faults)
