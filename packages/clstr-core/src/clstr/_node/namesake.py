"""Two processes with one node id: noticed when the second one starts."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Set as AbstractSet

from clstr._messages.envelope import Envelope
from clstr._messages.node_info import NODE_INFO_REQUEST, NODE_INFO_TYPE, decode_node_info
from clstr.abc import ClientTransport
from clstr.errors import ClstrError, NodeIdInUseError, RequestTimeoutError

ASK_TIMEOUT = 1.0  # seconds: a node answers for itself, whatever its handlers do; one that is frozen does not
MOST_ASKED = 3  # shards: one may be held by a third node that hands it over


async def refuse_namesake(
    transport: ClientTransport, node_id: str, shards: AbstractSet[int], logger: logging.Logger
) -> None:
    """
    Ask those that hold ``shards``, of a node that is about to start, whether they are called ``node_id`` too.

    Raises:
        NodeIdInUseError: One is.
    """
    asked = heapq.nsmallest(MOST_ASKED, shards)
    for shard, name in zip(asked, await asyncio.gather(*(_holder(transport, shard) for shard in asked)), strict=True):
        if name == node_id:
            raise NodeIdInUseError(node_id, shard)
        if name is None:
            logger.warning(
                "what holds shard %d does not answer: if it is an earlier process of node %s that hangs, end it",
                shard,
                node_id,
            )


async def _holder(transport: ClientTransport, shard: int) -> str | None:
    """Return the id of the node that holds ``shard``: empty if there is none, ``None`` if it does not answer."""
    envelope = Envelope(shard=shard, type=NODE_INFO_TYPE, data=NODE_INFO_REQUEST)
    try:
        return decode_node_info(await transport.request(envelope, timeout=ASK_TIMEOUT)).node_id
    except RequestTimeoutError as error:
        return None if error.maybe_executed else ""
    except ClstrError:  # no holder, one that is stopping, or one that is no node
        return ""
