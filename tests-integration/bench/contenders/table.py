"""The contenders by name, and clstr's transports: a new one is an entry in `TRANSPORTS`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from bench.contender import Contender, Place
from clstr_testing import Server, nats_server, valkey_server

Start = Callable[..., AbstractAsyncContextManager[Server]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """
    A contender.

    Attributes:
        home: The module and the class, as in ``nats_request.NatsRequest``; imported where it runs, and nowhere else.
        broker: Starts the broker that it needs.
        url: A URL that needs no broker.
        is_in_process: Whether nodes and client can only be in one process.
    """

    home: str
    broker: Start | None = None
    url: str = ""
    is_in_process: bool = False

    def make(self, place: Place) -> Contender:
        """Make it."""
        module, _, name = self.home.rpartition(".")
        return cast("Contender", getattr(import_module(f"bench.contenders.{module}"), name)(place))


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """
    One of clstr's transports, what it is measured against, and the ratio that it must reach.

    Attributes:
        broker: Starts its broker.
        url: Its URL, if that needs no broker.
        is_in_process: Whether it connects peers of one process only.
        raw: The ratios of a handler of envelopes, by contender; ``None`` is measured without a bar.
        actor: The same for a typed actor.
        bare: The bare client.
        big: Parameters of clstr's URL for a payload of a megabyte.
    """

    broker: Start | None = None
    url: str = ""
    is_in_process: bool = False
    raw: dict[str, float | None]
    actor: dict[str, float | None]
    bare: str
    big: str = ""


TRANSPORTS: dict[str, Transport] = {
    "memory": Transport(
        url="memory://bench",
        is_in_process=True,
        raw={},
        actor={"pykka": 1.5, "pykka-pipelined": None},
        bare="pykka",
    ),
    "nats": Transport(
        broker=nats_server,
        raw={"nats-py": 1.1, "faststream-nats": 5.0, "grpc": None},
        actor={"nats-py": 0.9},
        bare="nats-py",
        big="codec=msgpack",
    ),
    "redis": Transport(
        broker=valkey_server,
        raw={"redis-py": 1.5, "faststream-redis": 20.0},
        actor={"redis-py": None},
        bare="redis-py",
    ),
    "zmq": Transport(raw={"zmq": 3.0, "grpc": None}, actor={"zmq": None}, bare="zmq"),
}


def _clstr(home: str, transport: Transport) -> Entry:
    return Entry(home=home, broker=transport.broker, url=transport.url, is_in_process=transport.is_in_process)


CONTENDERS: dict[str, Entry] = {
    **{f"clstr-{name}": _clstr("clstr_raw.Raw", transport) for name, transport in TRANSPORTS.items()},
    **{f"clstr-{name}-actor": _clstr("clstr_actor.Counter", transport) for name, transport in TRANSPORTS.items()},
    "faststream-nats": Entry(home="faststream_request.FastStream", broker=nats_server),
    "faststream-redis": Entry(home="faststream_request.FastStream", broker=valkey_server),
    "grpc": Entry(home="grpc_aio.GrpcAio"),
    "nats-py": Entry(home="nats_request.NatsRequest", broker=nats_server),
    "pykka": Entry(home="pykka_ask.PykkaAsk", is_in_process=True),
    "pykka-pipelined": Entry(home="pykka_ask.PykkaPipelined", is_in_process=True),
    "redis-py": Entry(home="redis_pubsub.RedisPubSub", broker=valkey_server),
    "zmq": Entry(home="zmq_asyncio.ZmqAsyncio"),
}
