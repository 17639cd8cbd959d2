"""`clstr._node.namesake`: a node does not start while another live one has its id."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pytest

from clstr._messages.envelope import Envelope
from clstr._messages.node_info import NODE_INFO_TYPE, NodeInfo, encode_node_info
from clstr._node.namesake import refuse_namesake
from clstr._node.node import Node
from clstr.abc import ClientTransport, CloseReport, Transport
from clstr.errors import (
    ClstrError,
    DrainingError,
    HandlerError,
    NodeIdInUseError,
    NoShardSubscriberError,
    RequestTimeoutError,
)

LOGGER = logging.getLogger("tests.namesake")


class Holders(ClientTransport):
    """Answers for the nodes that hold shards: with their ids, or with what a request for them raises."""

    def __init__(self, answers: Mapping[int, str | bytes | ClstrError]) -> None:
        self.answers = answers
        self.asked: list[int] = []

    @property
    def max_payload_bytes(self) -> int:
        return 1024

    async def request(self, envelope: Envelope, *, timeout: float = 5.0) -> bytes:
        assert envelope.type == NODE_INFO_TYPE
        self.asked.append(envelope.shard)
        answer = self.answers.get(envelope.shard, NoShardSubscriberError(envelope.shard))
        if isinstance(answer, ClstrError):
            raise answer
        return encode_node_info(NodeInfo(answer, [envelope.shard])) if isinstance(answer, str) else answer

    async def notify(self, envelope: Envelope, *, timeout: float = 5.0) -> None:
        raise AssertionError

    async def aclose(self) -> CloseReport:
        return CloseReport()


@pytest.mark.parametrize("holders", [{3: "node-1"}, {3: "node-2", 4: "node-1"}, {5: "node-1"}])
async def test_a_live_node_of_the_same_id_is_named_with_a_shard_that_it_holds(holders: dict[int, str]) -> None:
    with pytest.raises(NodeIdInUseError) as caught:
        await refuse_namesake(Holders(holders), "node-1", frozenset(range(3, 100)), LOGGER)
    assert (caught.value.node_id, caught.value.shard) == ("node-1", max(holders))
    assert not caught.value.maybe_executed


@pytest.mark.parametrize(
    "holders",
    [
        {},
        {3: "node-2", 4: "node-3"},
        {3: DrainingError(3)},
        {3: HandlerError("KeyError", "'x'")},
        {3: b"no node"},
        {3: RequestTimeoutError(3, 1.0, maybe_executed=False)},
    ],
    ids=["nobody", "others", "one that is stopping", "one that fails", "no node", "no link"],
)
async def test_anything_else_lets_the_node_start_in_silence(
    holders: dict[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    await refuse_namesake(Holders(holders), "node-1", frozenset({3, 4}), LOGGER)
    assert caplog.records == []


async def test_a_holder_that_does_not_answer_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    await refuse_namesake(Holders({3: RequestTimeoutError(3, 1.0)}), "node-1", frozenset({3, 4}), LOGGER)
    assert "what holds shard 3 does not answer" in caplog.text
    assert "node-1" in caplog.text


async def test_few_shards_are_asked_however_many_there_are() -> None:
    holders = Holders({})
    await refuse_namesake(holders, "node-1", frozenset(range(4096)), LOGGER)
    assert holders.asked == [0, 1, 2]


async def test_the_second_of_two_nodes_with_one_id_does_not_start_and_may_start_later(transport: Transport) -> None:
    async def echo(envelope: Envelope) -> bytes:
        return envelope.data

    second = Node(transport, echo, node_id="node-1", shards=[0, 1])
    async with Node(transport, echo, node_id="node-1", shards=[1, 2]):
        with pytest.raises(NodeIdInUseError, match="another node of that id holds shard 1"):
            await second.__aenter__()
        async with Node(transport, echo, shards=[1]), Node(transport, echo, node_id="node-2", shards=[1]):
            pass
    async with second:
        assert second.ready.is_set()
