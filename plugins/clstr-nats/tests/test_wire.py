"""One cluster with clstr-go: recorded bytes of its nodes and clients, answered and asked over a real server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

import clstr
from clstr import Envelope
from clstr.errors import (
    EnvelopeExpiredError,
    HandlerError,
    HandlerTimeoutError,
    MissingKeyHeaderError,
    RequestTimeoutError,
)
from clstr_testing import Server

Connect = Callable[..., Awaitable[clstr.Transport]]
WIRE: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "wire.json").read_text())


@pytest.fixture
async def go(server: Server) -> AsyncIterator[Client]:
    """A bare connection, to do what a Go peer does."""
    connection = await nats.connect(server.url)
    yield connection
    await connection.close()


async def ask_like_go(go: Client, shard: int, body: bytes) -> bytes:
    """One inbox for each request, named in `reply_to`, and no native reply subject."""
    inbox = json.loads(body).get("reply_to") or "_INBOX.abcdefghijklmnopqrstuv"
    answers = await go.subscribe(inbox)
    await go.publish(f"clstr.shard.{shard}", body)
    answer = await answers.next_msg(timeout=5)
    await answers.unsubscribe()
    return answer.data


@pytest.mark.parametrize(
    "recorded", [each for each in WIRE["envelopes"] if each["reply_to"]], ids=lambda each: each["name"]
)
async def test_a_go_client_s_request_is_answered_in_go_s_frame(
    server: Server, connect: Connect, go: Client, recorded: dict[str, Any]
) -> None:
    seen: list[Envelope] = []

    async def handler(envelope: Envelope) -> bytes:
        seen.append(envelope)
        return b'{"id":"1"}'

    node = await connect(server.port)
    await node.subscribe([recorded["shard"]], handler)
    answer = json.loads(await ask_like_go(go, recorded["shard"], recorded["wire"].encode()))
    assert answer.pop("v") == 1  # a field of ours, which Go reads over
    assert answer == json.loads(WIRE["replies"][0]["wire"])
    (envelope,) = seen
    assert (envelope.type, envelope.data) == (recorded["type"], base64.b64decode(recorded["data_base64"]))
    assert dict(envelope.headers) == recorded["headers"]


async def test_an_empty_answer_and_an_error_are_what_go_reads(server: Server, connect: Connect, go: Client) -> None:
    async def handler(envelope: Envelope) -> bytes | None:
        if envelope.type == "fail":
            raise ValueError("no such user")
        return None

    node = await connect(server.port)
    await node.subscribe([1], handler)
    body = b'{"shard":1,"type":"%s","data":"","reply_to":"_INBOX.abcdefghijklmnopqrstuv"}'
    assert await ask_like_go(go, 1, body % b"get") == b'{"v":1}'
    assert "no such user" in json.loads(await ask_like_go(go, 1, body % b"fail"))["err"]


@pytest.mark.parametrize("fault", ["headers", "size"])
async def test_a_go_client_s_message_that_cannot_be_read_is_refused(
    server: Server, connect: Connect, go: Client, fault: str
) -> None:
    """Its address is in the message alone."""
    node = await connect(server.port, query="?max_payload_bytes=1000")
    await node.subscribe([1], lambda _: pytest.fail("it must not run"))
    headers = {f"h{number}": "" for number in range(65)} if fault == "headers" else {}
    data = base64.b64encode(bytes(1 if fault == "headers" else 100_000)).decode()
    fields = {"shard": 1, "type": "t", "data": data, "reply_to": "_INBOX.abcdefghijklmnopqrstuv", "headers": headers}
    answer = json.loads(await ask_like_go(go, 1, json.dumps(fields).encode()))
    assert answer["code"] == ("invalid_envelope" if fault == "headers" else "too_large")
    assert answer["executed"] is False
    assert answer["err"]


async def test_an_answer_goes_to_no_address_that_is_no_inbox(server: Server, connect: Connect, go: Client) -> None:
    """Go answers anywhere: one message could be made to speak to every shard."""
    node = await connect(server.port)
    ran = asyncio.Event()

    async def handler(_: Envelope) -> bytes:
        ran.set()
        return b"x"

    await node.subscribe([1], handler)
    overheard = await go.subscribe("clstr.shard.2")
    await go.publish("clstr.shard.1", b'{"shard":1,"type":"t","data":"","reply_to":"clstr.shard.2"}')
    async with asyncio.timeout(5):
        await ran.wait()
    await node.aclose()
    await go.flush()
    assert overheard.pending_msgs == 0


@pytest.fixture
def go_node(go: Client) -> Callable[..., Awaitable[list[bytes]]]:
    """Subscribe as a Go node does, plainly, and answer through `reply_to` alone."""

    async def start(shard: int, answer: bytes) -> list[bytes]:
        received: list[bytes] = []

        async def handle(message: Msg) -> None:
            received.append(message.data)
            await go.publish(json.loads(message.data)["reply_to"], answer)

        await go.subscribe(f"clstr.shard.{shard}", cb=handle)
        await go.flush()
        await go.flush()
        return received

    return start


async def test_a_go_node_answers_a_python_client(server: Server, connect: Connect, go_node: Any) -> None:
    received = await go_node(7, WIRE["replies"][0]["wire"].encode())
    client = await connect(server.port)
    headers = {"x-clstr-key": "user-123", "trace-id": "abc"}
    envelope = Envelope(shard=7, type="main.GetUser", data=b'{"id":"123"}', headers=headers)
    assert await client.request(envelope) == b'{"id":"1"}'
    sent = json.loads(received[0])
    assert {name: sent[name] for name in ("shard", "type", "data", "headers")} == {
        "shard": 7,
        "type": "main.GetUser",
        "data": "eyJpZCI6IjEyMyJ9",
        "headers": {"trace-id": "abc", "x-clstr-key": "user-123"},
    }
    assert received[0].startswith(b'{"shard":7,"type":"main.GetUser","data":"eyJpZCI6IjEyMyJ9","reply_to":"_INBOX.')


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("envelope TTL expired", EnvelopeExpiredError),
        ("handler exceeded deadline", HandlerTimeoutError),
        ("missing x-clstr-key header", MissingKeyHeaderError),
        ("no such user", HandlerError),
    ],
)
async def test_a_go_node_s_text_becomes_a_typed_error_that_proves_nothing(
    server: Server, connect: Connect, go_node: Any, text: str, error: type[clstr.ClstrError]
) -> None:
    await go_node(1, json.dumps({"err": text}).encode())
    client = await connect(server.port)
    with pytest.raises(error) as caught:
        await client.request(Envelope(shard=1, type="t"))
    assert caught.value.maybe_executed


async def test_a_shard_without_an_owner_is_known_at_once_among_go_nodes_too(
    server: Server, connect: Connect, go_node: Any
) -> None:
    await go_node(1, b"{}")
    client = await connect(server.port)
    assert await client.request(Envelope(shard=1, type="t")) == b""
    async with asyncio.timeout(5):
        with pytest.raises(clstr.NoShardSubscriberError):
            await client.request(Envelope(shard=2, type="t"), timeout=60)


@pytest.mark.parametrize("codecs", [("json", "msgpack"), ("msgpack", "json")], ids="-to-".join)
async def test_peers_of_two_codecs_understand_each_other(
    server: Server, connect: Connect, codecs: tuple[str, str]
) -> None:
    async def handler(envelope: Envelope) -> bytes:
        return envelope.data

    node, client = [await connect(server.port, query=f"?codec={codec}") for codec in codecs]
    await node.subscribe([1], handler)
    assert await client.request(Envelope(shard=1, type="t", data=b"\x00\xff")) == b"\x00\xff"


async def test_a_go_node_that_is_asked_in_msgpack_is_guessed_at(server: Server, connect: Connect, go: Client) -> None:
    """It drops what it cannot read; what a node has answered before is not a Go node's."""

    async def read_like_go(message: Msg) -> None:
        with contextlib.suppress(ValueError):
            await go.publish(json.loads(message.data)["reply_to"], WIRE["replies"][0]["wire"].encode())

    silent = asyncio.Event()

    async def handler(_: Envelope) -> bytes:
        if silent.is_set():
            await asyncio.sleep(60)
        return b"x"

    await go.subscribe("clstr.shard.1", cb=read_like_go)
    await go.flush()
    node = await connect(server.port)
    await node.subscribe([2], handler)
    client = await connect(server.port, query="?codec=msgpack")
    with pytest.raises(RequestTimeoutError, match=r"shard 1 has answered no request .*if a Go node.*codec=json"):
        await client.request(Envelope(shard=1, type="t"), timeout=0.05)
    assert await client.request(Envelope(shard=2, type="t")) == b"x"
    silent.set()
    with pytest.raises(RequestTimeoutError) as caught:
        await client.request(Envelope(shard=2, type="t"), timeout=0.05)
    assert caught.value.reason == ""
    reads_json = await connect(server.port)
    assert await reads_json.request(Envelope(shard=1, type="t")) == b'{"id":"1"}'
