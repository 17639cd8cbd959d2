"""What a node says about itself: the built-in message ``clstr.node.info``."""

from __future__ import annotations

import msgspec

from clstr._messages.payload import decode_reply

NODE_INFO_TYPE = "clstr.node.info"
NODE_INFO_REQUEST = b"{}"


class NodeInfo(msgspec.Struct, frozen=True):
    """
    A node, as `ScopedClient.get_node_info` describes it. Go: ``GetNodeInfoResponse``.

    Attributes:
        node_id: The node's id.
        shards: The shards that it owns, sorted.
    """

    node_id: str
    shards: list[int]


class _WireNodeInfo(msgspec.Struct):
    """A Go node without shards says ``null``."""

    node_id: str
    shards: list[int] | None = None


def encode_node_info(info: NodeInfo) -> bytes:
    """Return ``info`` as a node answers it."""
    return msgspec.json.encode(info)


def decode_node_info(reply: bytes) -> NodeInfo:
    """Read a node's answer; `InvalidReplyError` if it is none."""
    info = decode_reply(reply, _WireNodeInfo)
    return NodeInfo(info.node_id, info.shards or [])
