"""Middleware around a handler, and around a client's sending."""

from __future__ import annotations

import pytest

from clstr._client.client import Client
from clstr._messages.envelope import Envelope
from clstr._node.middleware import Middleware, check_middleware, wrap
from clstr._node.node import Node
from clstr.abc import Handler, Transport


def named(name: str, order: list[str]) -> Middleware:
    async def middleware(envelope: Envelope, following: Handler) -> bytes | None:
        order.append(f"{name} in")
        reply = await following(envelope)
        order.append(f"{name} out")
        return reply

    return middleware


async def upper(envelope: Envelope) -> bytes:
    return envelope.data.upper()


async def replace(envelope: Envelope, following: Handler) -> bytes | None:
    reply = await following(Envelope(shard=envelope.shard, type=envelope.type, data=b"replaced"))
    return b"<" + (reply or b"") + b">"


async def answer(_envelope: Envelope, _following: Handler) -> bytes | None:
    return None


async def test_the_first_is_outermost() -> None:
    order: list[str] = []
    handler = wrap(upper, (named("a", order), named("b", order)))
    assert await handler(Envelope(shard=0, type="t", data=b"x")) == b"X"
    assert order == ["a in", "b in", "b out", "a out"]


def test_without_middleware_a_handler_is_itself() -> None:
    assert wrap(upper, ()) is upper


def test_what_cannot_be_called_is_no_middleware() -> None:
    with pytest.raises(TypeError, match="middleware must be an async function of an envelope and the next handler"):
        check_middleware([named("a", []), "b"])  # type: ignore[list-item]  # the mistake that this is about


async def test_a_nodes_middleware_may_change_the_message_and_its_answer(fake_transport: Transport) -> None:
    async with Node(fake_transport, upper, shards=range(4), middleware=[replace]):
        assert await fake_transport.request(Envelope(shard=1, type="t", data=b"x")) == b"<REPLACED>"


async def test_a_clients_middleware_may_change_the_message_and_its_answer(fake_transport: Transport) -> None:
    await fake_transport.subscribe(range(4), upper)
    client = Client(fake_transport, num_shards=4, middleware=[replace])
    assert await client.request_shard(1, "t", b"x") == b"<REPLACED>"
    await client.notify_shard(1, "t", b"x")


async def test_a_clients_middleware_may_answer_by_itself(fake_transport: Transport) -> None:
    client = Client(fake_transport, num_shards=4, middleware=[answer])
    assert await client.request_shard(1, "t", b"nobody is there") == b""
    await client.notify_shard(1, "t")
