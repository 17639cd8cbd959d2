"""`clstr._messages.nesting`: one bound for how deeply JSON may nest, on every Python."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clstr._messages.nesting import CHECKED_BYTES, MAX_NESTING, _nesting, check_nesting
from clstr._messages.payload import _encoder, _writer, decode_reply, decode_request, encode
from clstr.errors import InvalidEnvelopeError, InvalidReplyError


class Tree(msgspec.Struct):
    children: list[Tree] = []
    text: str = '"[{'


class Model(pydantic.BaseModel):
    children: list[Model] = []


class Anything(pydantic.BaseModel):
    value: Any = None


class Flat(msgspec.Struct):
    names: list[str] = []


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def tree(cls: Any, levels: int) -> Any:
    """Return a tree of ``cls`` whose JSON has ``levels`` levels, an odd number: the last one has no list in it."""
    node = cls()
    for _ in range(levels // 2):
        node = cls(children=[node])
    return node


texts = st.text(alphabet='[]{}"\\\n a', max_size=6)
values = st.recursive(
    st.none() | st.integers() | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=30
)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(values, st.booleans())
def test_brackets_in_texts_are_none(value: object, is_ascii: bool) -> None:
    assert _nesting(json.dumps(value, ensure_ascii=is_ascii, indent=1).encode()) == depth(value)


@given(st.binary())
def test_what_is_not_json_has_a_depth_too(data: bytes) -> None:
    assert _nesting(data) <= len(data)


@pytest.mark.parametrize(
    "prefix", [b"", b'{"a":[],"b":"]]]"}' * 300, b'["\\\\","\\"[",' * 3], ids=["", "flat", "texts"]
)
def test_the_bound_is_exact(prefix: bytes) -> None:
    own = 3 if prefix.startswith(b"[") else 0
    check_nesting(prefix + nested(MAX_NESTING - own))
    with pytest.raises(ValueError, match="nested more than 200 levels deep"):
        check_nesting(prefix + nested(MAX_NESTING + 1 - own))


@pytest.mark.parametrize("tail", [b"", b"\\", b'"', b'\\"' + b"]" * 1000, b'"' + b"]" * 1000, b"}" * 1000])
def test_what_follows_hides_nothing(tail: bytes) -> None:
    """A decoder reads the beginning before it finds that the rest is malformed."""
    with pytest.raises(ValueError, match="nested more than"):
        check_nesting(b"[" * 1000 + tail)


@pytest.mark.parametrize(
    ("type_", "data"),
    [
        (Any, b"%s"),
        (list[Any], b"%s"),
        (Flat, b'{"unknown":%s}'),
        (Anything, b'{"value":%s}'),
        (list[Anything], b'[{"value":%s}]'),
    ],
    ids=str,
)
def test_deeper_data_is_refused_and_other_data_is_not(type_: Any, data: bytes) -> None:
    own = data.count(b"[") + data.count(b"{")
    decode_request(data % nested(MAX_NESTING - own), type_)
    decode_reply(data % nested(MAX_NESTING - own), type_)
    for levels in (MAX_NESTING + 1 - own, 900, 100_000):
        with pytest.raises(InvalidEnvelopeError, match="nested more than 200 levels deep"):
            decode_request(data % nested(levels), type_)
        with pytest.raises(InvalidReplyError, match="nested more than 200 levels deep"):
            decode_reply(data % nested(levels), type_)


@pytest.mark.parametrize("cls", [Tree, Model])
def test_a_value_that_would_be_refused_is_not_sent(cls: Any) -> None:
    fits = tree(cls, MAX_NESTING - 1)
    assert decode_request(encode(fits), cls) == fits
    with pytest.raises(ValueError, match=f"a {cls.__name__} cannot be encoded: nested more than 200 levels deep"):
        encode(tree(cls, MAX_NESTING + 3))


def test_lists_and_dicts_have_the_same_bound() -> None:
    value: list[Any] = []
    for _ in range(MAX_NESTING - 1):
        value = [value]
    assert decode_request(encode(value), list) == value
    with pytest.raises(ValueError, match="a dict cannot be encoded: nested more than 200"):
        encode({"a": value})


def test_a_type_that_cannot_nest_costs_nothing() -> None:
    assert _writer(Flat) == _encoder.encode
    assert _writer(Tree) != _encoder.encode


def test_what_is_not_looked_at_cannot_be_too_deep() -> None:
    assert len(nested(MAX_NESTING)) <= CHECKED_BYTES < len(nested(MAX_NESTING + 1))
    assert sys.getrecursionlimit() > 2 * CHECKED_BYTES
