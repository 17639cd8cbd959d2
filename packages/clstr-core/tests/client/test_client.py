"""`clstr._client.client`: keys and shards to messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clstr._client.client import Client, check_key
from clstr._client.scoped_client import ScopedClient
from clstr._messages.envelope import Envelope
from clstr._node.metrics import Metrics
from clstr._routing.hashing import shard_for_key
from clstr.abc import Handler, Transport
from clstr.errors import InvalidEnvelopeError, KeyRequiredError, NoShardSubscriberError, ReservedHeaderError

Sent = list[tuple[Envelope, float]]
Serve = Callable[[Handler], None]
Call = Callable[..., Awaitable[object]]

ROUTING = {
    "request_key": (Client.request_key, "user-123"),
    "notify_key": (Client.notify_key, "user-123"),
    "request_shard": (Client.request_shard, 7),
    "notify_shard": (Client.notify_shard, 7),
}
every_routing_method = pytest.mark.parametrize(("call", "to"), ROUTING.values(), ids=ROUTING.keys())


async def echo(envelope: Envelope) -> bytes:
    return b"reply to " + envelope.data


@pytest.fixture
def client(transport: Transport, serve: Serve) -> Client:
    serve(echo)
    return Client(transport, num_shards=64)


async def test_request_key_routes_by_key_and_returns_the_reply(client: Client, sent: Sent) -> None:
    assert await client.request_key("user-123", "GetUser", b"data") == b"reply to data"
    envelope = Envelope(shard=7, type="GetUser", data=b"data", headers={"x-clstr-key": "user-123"})
    assert sent == [(envelope, 5.0)]


async def test_request_shard_carries_no_key(client: Client, sent: Sent) -> None:
    assert await client.request_shard(5, "GetUser", b"data") == b"reply to data"
    assert sent == [(Envelope(shard=5, type="GetUser", data=b"data"), 5.0)]


async def test_notify_key_carries_the_key(client: Client, sent: Sent) -> None:
    await client.notify_key("user-123", "Updated", b"data")
    envelope = Envelope(shard=7, type="Updated", data=b"data", headers={"x-clstr-key": "user-123"})
    assert sent == [(envelope, 5.0)]


async def test_notify_shard_carries_no_key(client: Client, sent: Sent) -> None:
    await client.notify_shard(5, "Updated")
    assert sent == [(Envelope(shard=5, type="Updated"), 5.0)]


@pytest.mark.parametrize(("seed", "num_shards"), [("", 64), ("seed", 64), ("seed", 256)])
async def test_keys_are_mapped_with_the_clusters_number_of_shards_and_seed(
    transport: Transport, sent: Sent, serve: Serve, seed: str, num_shards: int
) -> None:
    serve(echo)
    client = Client(transport, num_shards=num_shards, seed=seed)
    await client.request_key("user-123", "GetUser")
    assert sent[0][0].shard == shard_for_key("user-123", num_shards, seed) == client.key("user-123").shard


@every_routing_method
async def test_every_routing_method_takes_headers_ttl_and_timeout(
    client: Client, sent: Sent, call: Call, to: object
) -> None:
    await call(client, to, "Get", headers={"a": "1"}, ttl=2.0, timeout=3.0)
    envelope, timeout = sent[0]
    assert envelope.headers["a"] == "1"
    assert (envelope.ttl_ms, timeout) == (2000, 3.0)
    assert envelope.created_at_ms > 0


@every_routing_method
async def test_the_clients_defaults_hold_for_every_routing_method(
    transport: Transport, sent: Sent, serve: Serve, call: Call, to: object
) -> None:
    serve(echo)
    client = Client(transport, num_shards=64, headers={"a": "1", "b": "2"}, ttl=2.0, timeout=3.0)
    await call(client, to, "Get")
    await call(client, to, "Get", headers={"b": "3"}, ttl=4.0, timeout=6.0)
    assert [(each.headers["a"], each.headers["b"], each.ttl_ms, timeout) for each, timeout in sent] == [
        ("1", "2", 2000, 3.0),
        ("1", "3", 4000, 6.0),
    ]


@every_routing_method
async def test_wrong_options_send_nothing(client: Client, sent: Sent, call: Call, to: object) -> None:
    with pytest.raises(ReservedHeaderError):
        await call(client, to, "Get", headers={"X-Clstr-Key": "other"})
    with pytest.raises(ReservedHeaderError):
        await call(client, to, "Get", headers={"x-clstr-key": "other"})
    with pytest.raises(ValueError, match="ttl must be finite"):
        await call(client, to, "Get", ttl=0)
    with pytest.raises(ValueError, match="timeout must be finite"):
        await call(client, to, "Get", timeout=float("nan"))
    with pytest.raises(InvalidEnvelopeError, match=r"type .*control characters"):
        await call(client, to, "a\n")
    with pytest.raises(InvalidEnvelopeError, match="data must be bytes, not str"):
        await call(client, to, "Get", "text")
    assert sent == []


@pytest.mark.parametrize(
    "use",
    [Client.request_key, Client.notify_key, lambda client, key, _: client.key(key)],
    ids=["request", "notify", "key"],
)
@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        ("", KeyRequiredError, "non-empty"),
        (None, TypeError, "key must be a str, not NoneType"),
        (b"a", TypeError, "key must be a str, not bytes"),
        (7, TypeError, "key must be a str, not int"),
        ("a\n", ValueError, "holds control characters"),
        ("a\x7f", ValueError, "holds control characters"),
        ("a\x85", ValueError, "holds control characters"),
        ("\ud800", ValueError, "holds control characters or lone surrogates"),
    ],
    ids=["empty", "none", "bytes", "int", "newline", "delete", "c1", "surrogate"],
)
async def test_a_key_that_cannot_be_routed_by_is_refused(
    client: Client, sent: Sent, use: Any, key: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await use(client, key, "Get")
    assert sent == []


async def test_a_key_that_is_too_long_is_refused_when_it_is_sent(client: Client, sent: Sent) -> None:
    with pytest.raises(InvalidEnvelopeError, match="headers have 9011 bytes"):
        await client.request_key("a" * 9000, "Get")
    assert sent == []


@given(st.text(min_size=1).filter(str.isprintable))
def test_printable_keys_are_accepted(key: str) -> None:
    check_key(key)


@pytest.mark.parametrize(
    "use",
    [Client.request_shard, Client.notify_shard, lambda client, shard, _: client.shard(shard)],
    ids=["request", "notify", "shard"],
)
@pytest.mark.parametrize(
    ("shard", "error", "message"),
    [
        (64, ValueError, "shard 64 is out of range: it must be 0 to 63 with num_shards=64"),
        (-1, ValueError, "shard -1 is out of range"),
        ("1", TypeError, "shard must be an int, not '1'"),
        (1.0, TypeError, "shard must be an int, not 1.0"),
        (True, TypeError, "shard must be an int, not True"),
    ],
    ids=str,
)
async def test_a_shard_that_does_not_exist_is_refused(
    client: Client, sent: Sent, use: Any, shard: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await use(client, shard, "Get")
    assert sent == []


def test_the_last_shard_exists(client: Client) -> None:
    assert client.shard(63).shard == 63
    assert client.shard(0).shard == 0


async def test_key_and_shard_make_scoped_clients_with_their_options(client: Client, sent: Sent) -> None:
    by_key = client.key("user-123", headers={"a": "1"}, ttl=2.0, timeout=3.0)
    by_shard = client.shard(5, headers={"a": "1"}, ttl=2.0, timeout=3.0)
    assert isinstance(by_key, ScopedClient)
    assert (by_key.shard, by_key.key, by_shard.shard, by_shard.key) == (7, "user-123", 5, None)
    await by_key.notify(NoMessage())
    await by_shard.notify(NoMessage())
    assert [(each.headers["a"], each.ttl_ms, timeout) for each, timeout in sent] == [("1", 2000, 3.0)] * 2
    assert sent[0][0].key == "user-123"


class NoMessage(dict[str, str]):
    """An object with a name of its own."""


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_shards": 0}, ValueError, "num_shards must be between 1 and"),
        ({"num_shards": -1}, ValueError, "num_shards must be between 1 and"),
        ({"num_shards": "64"}, TypeError, "num_shards must be an int"),
        ({"num_shards": True}, TypeError, "num_shards must be an int"),
        ({"seed": None}, TypeError, "seed must be a str"),
        ({"seed": "a\0"}, ValueError, "seed .* holds control characters"),
        ({"headers": {"X-CLSTR-a": "1"}}, ReservedHeaderError, "reserved"),
        ({"headers": {"a": 1}}, InvalidEnvelopeError, "headers must map str to str"),
        ({"ttl": -1}, ValueError, "ttl must be finite"),
        ({"timeout": 0}, ValueError, "timeout must be finite"),
        ({"timeout": None}, TypeError, "timeout must be a number"),
    ],
    ids=str,
)
def test_a_client_with_wrong_options_is_not_made(
    transport: Transport, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Client(transport, **({"num_shards": 64} | options))


@pytest.mark.parametrize("transport", [None, "memory://", object()], ids=["none", "a URL", "an object"])
def test_a_client_needs_an_open_transport(transport: Any) -> None:
    with pytest.raises(TypeError, match=r"transport must be an open transport.*clstr\.connect"):
        Client(transport, num_shards=64)


async def test_the_transports_errors_reach_the_caller(transport: Transport) -> None:
    with pytest.raises(NoShardSubscriberError):
        await Client(transport, num_shards=64).request_key("a", "Get")


async def test_metrics_are_told(transport: Transport, serve: Serve) -> None:
    serve(echo)
    told = []

    class Recorder(Metrics):
        def request_completed(self, message_type: str, *, success: bool) -> None:
            told.append((message_type, success))

    await Client(transport, num_shards=64, metrics=Recorder()).request_key("a", "Get")
    assert told == [("Get", True)]
