"""`clstr._messages.node_info`: what a node says about itself."""

from __future__ import annotations

import pytest

from clstr._messages.node_info import NodeInfo, decode_node_info, encode_node_info
from clstr.errors import InvalidReplyError


def test_node_info_is_encoded_as_go_encodes_it() -> None:
    assert encode_node_info(NodeInfo("n", [0, 5])) == b'{"node_id":"n","shards":[0,5]}'


def test_node_info_comes_back_as_it_went() -> None:
    assert decode_node_info(encode_node_info(NodeInfo("n", [0, 5]))) == NodeInfo("n", [0, 5])


@pytest.mark.parametrize("reply", [b'{"node_id":"n","shards":null}', b'{"node_id":"n"}'], ids=["null", "missing"])
def test_a_go_node_without_shards_has_an_empty_list(reply: bytes) -> None:
    assert decode_node_info(reply) == NodeInfo("n", [])


@pytest.mark.parametrize("reply", [b"", b"null", b"{}", b'{"node_id":1}', b'{"node_id":"n","shards":["0"]}'], ids=repr)
def test_anything_else_is_an_invalid_reply(reply: bytes) -> None:
    with pytest.raises(InvalidReplyError):
        decode_node_info(reply)
