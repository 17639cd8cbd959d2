"""`clstr_nats._bystanders`: who else gets the shards' messages, and what that does to requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from unittest import mock

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

import clstr
from clstr import Envelope
from clstr.errors import NoShardSubscriberError, RequestTimeoutError
from clstr_nats import _link
from clstr_nats._bystanders import MAX_ACK_BYTES, describe_ack
from clstr_testing import Server, nats_server

Connect = Callable[..., Awaitable[clstr.Transport]]
codecs = pytest.mark.parametrize("codec", ["json", "msgpack"])


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with nats_server("-js", "-sd", str(tmp_path)) as running:
        yield running


@pytest.fixture
async def other(server: Server) -> AsyncIterator[Client]:
    """A bare connection of somebody else in the account."""
    connection = await nats.connect(server.url)
    yield connection
    await connection.close()


async def fence(connection: Client) -> None:
    """Wait until the server has acted on what ``connection`` wrote: its first PING may overtake that."""
    await connection.flush()
    await connection.flush()


async def slow(_: Envelope) -> bytes:
    await asyncio.sleep(0.05)  # longer than a stream takes to acknowledge
    return b"answer"


@codecs
async def test_a_stream_s_acknowledgement_does_not_end_a_request(
    server: Server, connect: Connect, other: Client, codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    node, client = [await connect(server.port, query=f"?codec={codec}") for _ in range(2)]
    await node.subscribe([1], slow)
    await other.jetstream().add_stream(name="AUDIT", subjects=["clstr.>"])
    for _ in range(3):
        assert await client.request(Envelope(shard=1, type="t")) == b"answer"
    assert client.counters.foreign_replies == 3  # type: ignore[attr-defined]  # the engine's
    assert "the JetStream stream 'AUDIT' takes messages to clstr.shard.*" in caplog.text


@codecs
async def test_a_stream_does_not_answer_for_a_shard_that_nobody_owns(
    server: Server, connect: Connect, other: Client, codec: str
) -> None:
    client = await connect(server.port, query=f"?codec={codec}")
    await other.jetstream().add_stream(name="AUDIT", subjects=["clstr.>"])
    with pytest.raises(RequestTimeoutError, match="the JetStream stream 'AUDIT' takes messages") as caught:
        await client.request(Envelope(shard=9, type="t"), timeout=0.5)
    assert "exclude them from its subjects, or give clstr another prefix" in caught.value.reason


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"stream":"AUDIT","seq":3}', "the JetStream stream 'AUDIT'"),
        (b'{"stream":"' + b"A" * 1000 + b'","seq":3}', f"the JetStream stream '{'A' * 64}'"),
        (b'{"stream":"A\\nB","seq":3,"domain":"hub"}', r"the JetStream stream 'A\nB'"),
        (b'{"error":{"code":503,"err_code":10077,"description":"full"},"stream":"AUDIT"}', "the JetStream stream 'AU"),
        (b'{"error":{"code":503},"stream":5}', "a JetStream stream"),
    ],
)
def test_an_acknowledgement_names_its_stream(body: bytes, name: str) -> None:
    assert describe_ack(memoryview(body), "clstr.shard.*").startswith(name)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"5", b"\xff", b'{"stream":"A"}', b'{"a":' * 400, b'{"seq":1,"x":"' + bytes(MAX_ACK_BYTES)],
)
def test_anything_else_is_no_acknowledgement(body: bytes) -> None:
    assert describe_ack(body, "clstr.shard.*") == ""


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110 -- a log tells no event
            await asyncio.sleep(0.001)


async def test_a_stream_over_every_shard_is_named_at_connect(
    server: Server, connect: Connect, other: Client, caplog: pytest.LogCaptureFixture
) -> None:
    await other.jetstream().add_stream(name="AUDIT", subjects=["clstr.>"])
    await connect(server.port)
    await until(lambda: "the JetStream stream 'AUDIT' takes messages to clstr.shard.*" in caplog.text)


@pytest.mark.parametrize("subject", [">", "clstr.>", "clstr.shard.*"])
async def test_a_subscriber_to_every_shard_is_found_at_connect_and_named_by_timeouts(
    server: Server, connect: Connect, other: Client, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    subscription = await other.subscribe(subject)
    await fence(other)
    client = await connect(server.port)
    await until(lambda: "somebody else receives messages to clstr.shard.*" in caplog.text)
    with pytest.raises(RequestTimeoutError, match=r"within 0\.1 s: somebody else receives") as caught:
        await client.request(Envelope(shard=9, type="t"), timeout=0.1)
    assert caught.value.maybe_executed
    await subscription.unsubscribe()
    await fence(other)
    with pytest.raises(NoShardSubscriberError):
        await client.request(Envelope(shard=9, type="t"))


async def test_a_subscriber_that_comes_later_is_found_after_a_timeout(
    server: Server, connect: Connect, other: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client = await connect(server.port)
    with pytest.raises(NoShardSubscriberError):
        await client.request(Envelope(shard=9, type="t"))
    await other.subscribe(">")
    await fence(other)
    assert "somebody else" not in caplog.text
    with pytest.raises(RequestTimeoutError):
        await client.request(Envelope(shard=9, type="t"), timeout=0.1)
    await until(lambda: "somebody else receives messages to clstr.shard.*" in caplog.text)


@codecs
async def test_a_notify_beside_a_listener_returns_when_an_owner_has_it(
    server: Server, connect: Connect, other: Client, codec: str
) -> None:
    """Before the handler ends, and without one it does not return at all."""
    await other.subscribe(">")
    await fence(other)
    node, client = [await connect(server.port, query=f"?codec={codec}") for _ in range(2)]
    await until(lambda: client.link.needs_confirmation)  # type: ignore[attr-defined]  # the engine's
    started, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_: Envelope) -> None:
        started.set()
        await go_on.wait()

    subscription = await node.subscribe([1], wait)
    await client.notify(Envelope(shard=1, type="t"), timeout=60)
    await started.wait()
    go_on.set()
    with pytest.raises(RequestTimeoutError, match="somebody else receives messages") as caught:
        await client.notify(Envelope(shard=9, type="t"), timeout=0.1)
    assert caught.value.maybe_executed
    await subscription.aclose()


@codecs
async def test_a_notify_to_nobody_beside_a_stream_names_the_stream(
    server: Server, connect: Connect, other: Client, codec: str
) -> None:
    await other.jetstream().add_stream(name="AUDIT", subjects=["clstr.>"])
    node, client = [await connect(server.port, query=f"?codec={codec}") for _ in range(2)]
    await until(lambda: client.link.needs_confirmation)  # type: ignore[attr-defined]  # the engine's
    await node.subscribe([1], slow)
    await client.notify(Envelope(shard=1, type="t"), timeout=60)
    with pytest.raises(RequestTimeoutError, match="the JetStream stream 'AUDIT' takes messages"):
        await client.notify(Envelope(shard=9, type="t"), timeout=0.5)


async def test_a_go_node_confirms_no_notify_so_what_the_server_says_has_to_do(
    server: Server, connect: Connect, other: Client
) -> None:
    """A reply as clstr-go writes them has shown that there are such nodes."""
    await other.subscribe(">")

    async def answer_like_go(message: Msg) -> None:
        frame = json.loads(message.data)
        if not frame.get("oneway"):
            await other.publish(message.reply, b'{"data":"eA=="}')

    await other.subscribe("clstr.shard.1", cb=answer_like_go)
    await fence(other)
    client = await connect(server.port)
    await until(lambda: client.link.needs_confirmation)  # type: ignore[attr-defined]  # the engine's
    assert await client.request(Envelope(shard=1, type="t")) == b"x"
    await client.notify(Envelope(shard=1, type="t"), timeout=60)
    await client.notify(Envelope(shard=9, type="t"), timeout=60)  # what remains ambiguous


async def test_a_listener_that_comes_later_is_found_by_a_heartbeat_and_one_that_left_by_a_refusal(
    server: Server, connect: Connect, other: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_link, "PROBE_INTERVAL", 0.0)
    client = await connect(server.port, query="?heartbeat=0.01")
    link = client.link  # type: ignore[attr-defined]  # the engine's
    for _ in range(3):
        subscription = await other.subscribe(">")
        await fence(other)
        await until(lambda: link.needs_confirmation)
        with pytest.raises(RequestTimeoutError, match="somebody else receives messages"):
            await client.request(Envelope(shard=9, type="t"), timeout=0.1)
        await subscription.unsubscribe()
        await fence(other)
        with pytest.raises(NoShardSubscriberError):
            await client.notify(Envelope(shard=9, type="t"), timeout=60)
        assert not link.needs_confirmation


async def test_without_bystanders_nothing_is_said(
    server: Server, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    node, client = await connect(server.port), await connect(server.port)
    await node.subscribe([1], slow)
    link = node.link  # type: ignore[attr-defined]  # the engine's
    with mock.patch.object(link, "reply", return_value=True), pytest.raises(RequestTimeoutError) as caught:
        await client.request(Envelope(shard=1, type="t"), timeout=0.1)
    assert caught.value.reason == ""
    assert await client.request(Envelope(shard=1, type="t")) == b"answer"
    assert "somebody else" not in caplog.text
    assert client.counters.garbage == 0  # type: ignore[attr-defined]  # the engine's


async def test_a_user_that_may_not_publish_is_asked_nothing_further(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    config = 'authorization { users = [{ user: u, password: p, permissions: { publish: ["_INBOX.>"] } }] }'
    async with nats_server(config=config) as server:
        await connect(server.port, user="u:p")
    assert "somebody else" not in caplog.text
    assert "refused" not in caplog.text
