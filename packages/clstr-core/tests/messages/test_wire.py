"""Frames: Go's bytes to the byte, Go's tolerance, our own codec beside it, and nothing but our errors for any input."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clstr._limits import MAX_CHAIN_BYTES, MAX_CHAIN_KEYS, MAX_ERROR_BYTES, MAX_HEADER_BYTES, MAX_HEADERS, MAX_TTL_MS
from clstr._messages.error_wire import encode_error
from clstr._messages.nesting import MAX_NESTING
from clstr._messages.wire import (
    CODECS,
    JSON,
    MAX_SKIPPED_BYTES,
    MSGPACK,
    Buffer,
    Codec,
    ReplyFrame,
    RequestFrame,
    decode_reply,
    decode_request,
    read_sender,
    sniff,
)
from clstr.errors import Fact, InvalidEnvelopeError, InvalidReplyError, UnknownMessageError

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "wire.json").read_text(encoding="utf-8"))
both_codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)

int64 = st.integers(-(2**63), 2**63 - 1)
fields = st.fixed_dictionaries(
    {"shard": int64, "type": st.text(), "data": st.binary()},
    optional={
        "reply_to": st.text(),
        "headers": st.dictionaries(st.text(), st.text(), max_size=64),
        "ttl_ms": int64,
        "created_at_ms": int64,
        "v": int64,
        "oneway": st.booleans(),
        "depth": int64,
        "chain": st.lists(st.text(), max_size=16),
    },
)
facts: st.SearchStrategy[Fact] = (
    st.text() | int64 | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()  # JSON has no infinity
)
reply_fields = st.fixed_dictionaries(
    {},
    optional={
        "data": st.binary(),
        "err": st.text(),
        "code": st.text(),
        "details": st.dictionaries(st.text(), facts, max_size=64),
        "executed": st.booleans(),
    },
)
codecs = st.sampled_from(list(CODECS.values()))


def shown(frame: ReplyFrame) -> dict[str, Any]:
    """What a reply says; which peer wrote it is shown by its class."""
    return {name: getattr(frame, name) for name in ReplyFrame.__struct_fields__}


def read_json(text: str | bytes) -> RequestFrame:
    """Decode ``text`` as a JSON request."""
    return decode_request(text.encode() if isinstance(text, str) else text, JSON)


def as_go_writes(value: dict[str, Any]) -> bytes:
    """Write ``value`` by another road: the recipe that was verified against Go's ``json.Marshal``."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


# Go's bytes


def test_the_vectors_are_all_there() -> None:
    assert [len(VECTORS[part]) for part in ("envelopes", "replies", "decoder")] == [5, 4, 7]


@pytest.mark.parametrize("vector", VECTORS["envelopes"], ids=lambda vector: vector["name"])
def test_a_request_has_the_bytes_that_go_writes(vector: dict[str, Any]) -> None:
    body = vector["wire"].encode()
    frame = RequestFrame(
        shard=vector["shard"],
        type=vector["type"],
        data=b64decode(vector["data_base64"]),
        reply_to=vector["reply_to"],
        headers=vector["headers"],
        ttl_ms=vector["ttl_ms"],
        created_at_ms=vector["created_at_ms"],
    )
    assert JSON.encode(frame) == body
    assert decode_request(body, sniff(body)) == frame


@pytest.mark.parametrize("vector", VECTORS["replies"], ids=lambda vector: vector["name"])
def test_a_reply_has_the_bytes_that_go_writes(vector: dict[str, Any]) -> None:
    body = vector["wire"].encode()
    frame = ReplyFrame(data=b64decode(vector["data_base64"]), err=vector["err"])
    assert JSON.encode(frame) == body
    assert shown(decode_reply(body)) == shown(frame)


@pytest.mark.parametrize("vector", VECTORS["decoder"], ids=lambda vector: vector["input"])
def test_a_request_is_taken_exactly_when_go_takes_it(vector: dict[str, Any]) -> None:
    body = vector["input"].encode()
    if vector["accepted"]:
        assert decode_request(body, sniff(body)) == RequestFrame(1, "t", b"hi")
    else:
        with pytest.raises(InvalidEnvelopeError, match="cannot be decoded"):
            decode_request(body, sniff(body))


def test_the_zero_request_has_null_data_as_in_go() -> None:
    body = b'{"shard":0,"type":"","data":null}'
    assert JSON.encode(RequestFrame(0, "", None)) == body
    assert read_json(body) == RequestFrame(0, "", None)


@given(st.fixed_dictionaries({"type": st.text(), "headers": st.dictionaries(st.text(), st.text(), min_size=1)}))
@example({"type": "\u2028<&>\u2029", "headers": {"\U0001f600": "", "\uffff": "", "Z": "", "a": ""}})
def test_any_text_is_escaped_and_any_headers_are_sorted_as_in_go(values: dict[str, Any]) -> None:
    headers = dict(sorted(values["headers"].items(), key=lambda item: item[0].encode()))
    expected = as_go_writes({"shard": 1, "type": values["type"], "data": "", "headers": headers})
    assert JSON.encode(RequestFrame(1, values["type"], b"", headers=values["headers"])) == expected


def test_our_own_fields_follow_those_of_go_and_are_left_out_at_their_defaults() -> None:
    frame = RequestFrame(1, "t", b"", "to", {"a": "b"}, 1, 2, v=1, oneway=True, depth=3, chain=["k"])
    names = ["shard", "type", "data", "reply_to", "headers", "ttl_ms", "created_at_ms", "v", "oneway", "depth", "chain"]
    assert list(json.loads(JSON.encode(frame))) == names
    assert list(json.loads(JSON.encode(RequestFrame(1, "t", b"")))) == names[:3]


def test_our_own_reply_fields_follow_those_of_go_and_are_left_out_at_their_defaults() -> None:
    frame = ReplyFrame(b"x", "text", "overloaded", {"bound": 1}, executed=False)
    assert JSON.encode(frame) == (
        b'{"data":"eA==","err":"text","code":"overloaded","details":{"bound":1},"executed":false}'
    )
    assert JSON.encode(ReplyFrame()) == b"{}"


def test_a_reply_of_ours_begins_with_the_version_in_both_codecs() -> None:
    """It is the mark that a peer wrote it; Go reads over it."""
    assert JSON.encode(JSON.new_reply()) == b'{"v":1}'
    assert JSON.encode(JSON.new_reply(b"x")) == b'{"v":1,"data":"eA=="}'
    assert msgspec.msgpack.decode(MSGPACK.encode(MSGPACK.new_reply(b"x")))[:2] == [1, b"x"]


def test_encoding_leaves_the_caller_s_headers_in_their_order() -> None:
    headers = {"b": "1", "a": "2"}
    JSON.encode(RequestFrame(1, "t", b"", headers=headers))
    assert list(headers) == ["b", "a"]


# Go's tolerance


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ('{"Shard":1,"TYPE":"t","dAtA":"aGk=","TTL_ms":5}', RequestFrame(1, "t", b"hi", ttl_ms=5)),
        ('{"SHARD":1,"type":"t","data":"aGk=","OneWay":true}', RequestFrame(1, "t", b"hi", oneway=True)),
        ("{}", RequestFrame(0, "", None)),
        ('{"shard":null,"type":null,"data":null}', RequestFrame(0, "", None)),
        ('{"shard":2 , "type":"t", "data":"", "headers": null , "ttl_ms":null}', RequestFrame(2, "t", b"")),
        ('{"shard":1,"type":"t","data":[104,105]}', RequestFrame(1, "t", b"hi")),
        ('{"shard":1,"type":"t","data":[]}', RequestFrame(1, "t", b"")),
        ('{"shard":1,"type":"t","data":"a\\nG\\r\\nk="}', RequestFrame(1, "t", b"hi")),
        ('{"shard":1,"type":"t","data":"\\u0061Gk="}', RequestFrame(1, "t", b"hi")),
        ('{"shard":1,"shard":2,"type":"t","data":""}', RequestFrame(2, "t", b"")),
        ('{"shard":1,"SHARD":2,"data":""}', RequestFrame(2, "", b"")),
        ('{"SHARD":2,"shard":null}', RequestFrame(2, "", None)),
        ('{"shard":1,"type":"t","data":"","headers":{"a":"1","a":"2"}}', RequestFrame(1, "t", b"", headers={"a": "2"})),
        (' \r\n\t{"shard":1,"type":"t","data":""} \n', RequestFrame(1, "t", b"")),
        ('{"shard":-0,"type":"t","data":""}', RequestFrame(0, "t", b"")),
        ('{"shard":1,"type":"t","data":"","extra":{"deep":[1,{"er":null}]}}', RequestFrame(1, "t", b"")),
    ],
)
def test_what_go_takes_is_taken(text: str, frame: RequestFrame) -> None:
    assert read_json(text) == frame


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"shard":1e0,"type":"t","data":""}', "shard"),
        ('{"shard":true,"type":"t","data":""}', "shard"),
        ('{"shard":1,"type":5,"data":""}', "type"),
        ('{"shard":1,"type":"t","data":5}', "data"),
        ('{"shard":1,"type":"t","data":[256]}', "data"),
        ('{"shard":1,"type":"t","data":[-1]}', "data"),
        ('{"shard":1,"type":"t","data":[1.5]}', "data"),
        ('{"shard":1,"type":"t","data":"aGk= "}', "data"),
        ('{"shard":1,"type":"t","data":"a=Gk"}', "data"),
        ('{"shard":1,"type":"t","data":"\u00e4"}', "data"),
        ('{"shard":1,"type":"t","data":"","headers":{"a":1}}', "headers"),
        ('{"shard":1,"type":"t","data":"","headers":[]}', "headers"),
        ('{"shard":1,"type":"t","data":"","ttl_ms":1.5}', "ttl_ms"),
        ('{"shard":1,"type":"t","data":"","oneway":"yes"}', "oneway"),
        ('{"shard":1,"type":"t","data":"","chain":[null]}', "chain"),
        ('{"shard":1,"type":"t","data":""}x', "body"),
        ('{"shard":1,"type":"t","data":""', "body"),
        ("{shard:1}", "body"),
        ('{"shard":1,"type":"\\ud800","data":""}', "body"),
    ],
)
def test_what_go_refuses_is_refused_and_the_field_is_named(text: str, field: str) -> None:
    with pytest.raises(InvalidEnvelopeError, match=f"invalid envelope: {field} cannot be decoded: .") as caught:
        read_json(text)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "body",
    [
        b'{"shard":1,"type":"t","data":"","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"shard":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        b"\x91" * 100_000,
        b"\x94\x01\xa1t\xc4\x00" + b"\x91" * 100_000,
        b"\x81\xa1a" * 100_000,
    ],
    ids=["unknown JSON field", "JSON field", "msgpack", "msgpack field", "msgpack maps"],
)
def test_deep_nesting_is_an_invalid_envelope(body: bytes) -> None:
    with pytest.raises(InvalidEnvelopeError, match="cannot be decoded"):
        decode_request(body, sniff(body))
    with pytest.raises(InvalidReplyError, match="the reply cannot be decoded"):
        decode_reply(body)


@pytest.mark.parametrize("levels", [MAX_NESTING - 1, MAX_NESTING])
@pytest.mark.parametrize("spelling", ["x", "X"])
def test_an_unknown_field_of_json_is_read_over_up_to_the_bound_of_nesting(levels: int, spelling: str) -> None:
    """The same on every Python, whatever its own limit; the frame is a level of its own."""
    unknown = b"[" * levels + b"]" * levels
    body = b'{"shard":1,"type":"t","data":"","%s":%s}' % (spelling.encode(), unknown)
    if levels < MAX_NESTING:
        assert decode_request(body, JSON) == RequestFrame(1, "t", b"")
        return
    with pytest.raises(InvalidEnvelopeError, match="body cannot be decoded: nested more than 200 levels deep"):
        decode_request(body, JSON)


@pytest.mark.parametrize(
    ("later", "is_read"),
    [
        ([None, "text", 1.5, True], True),
        ([1, 2, 3, 4, 5], False),
        ([[]], False),
        ([{}], False),
    ],
    ids=["four", "five", "a list", "a map"],
)
def test_further_fields_of_msgpack_are_read_over_if_they_cannot_nest(later: list[Any], is_read: bool) -> None:
    fields = msgspec.msgpack.decode(MSGPACK.encode(MSGPACK.new_request(1, "t", b"x")))
    body = msgspec.msgpack.encode([*fields, *later])
    if is_read:
        assert decode_request(body, MSGPACK).data == b"x"
        return
    with pytest.raises(InvalidEnvelopeError, match="cannot be decoded"):
        decode_request(body, MSGPACK)


@pytest.mark.parametrize(
    "body",
    [b'{"shard":1,"type":"\xff","data":""}', b"\x93\x01\xa1\xff\xc4\x00"],
    ids=["JSON", "msgpack"],
)
def test_invalid_utf8_is_an_invalid_envelope(body: bytes) -> None:
    with pytest.raises(InvalidEnvelopeError, match="cannot be decoded"):
        decode_request(body, sniff(body))


def test_invalid_utf8_is_an_invalid_reply() -> None:
    for body in (b'{"err":"\xff"}', b"\x92\xc4\x00\xa1\xff"):
        with pytest.raises(InvalidReplyError, match="the reply cannot be decoded"):
            decode_reply(body)


def test_a_huge_number_is_read_as_it_is_or_is_an_invalid_envelope() -> None:
    """Go's 64 bits end where `Envelope.validate` has long refused; here nothing may break."""
    assert read_json(f'{{"shard":{2**64},"type":"t","data":""}}').shard == 2**64
    for number in ("9" * 5000, "1e999", "-" + "9" * 5000):
        with pytest.raises(InvalidEnvelopeError, match="shard cannot be decoded"):
            read_json(f'{{"shard":{number},"type":"t","data":""}}')


# Two codecs


@pytest.mark.parametrize(
    ("body", "codec"),
    [
        (b'{"shard":1}', JSON),
        (b" {}", JSON),
        (b"\n{}", JSON),
        (b"\r{}", JSON),
        (b"\t{}", JSON),
        (MSGPACK.encode(MSGPACK.new_request(1, "t", b"")), MSGPACK),
        (MSGPACK.encode(MSGPACK.new_reply(b"")), MSGPACK),
        (b"", MSGPACK),
        (b"garbage", MSGPACK),
    ],
)
def test_the_first_byte_tells_the_codec(body: bytes, codec: Codec) -> None:
    for buffer in (body, bytearray(body), memoryview(body)):
        assert sniff(buffer) is codec


@given(codecs, fields)
def test_a_request_survives_both_codecs(codec: Codec, values: dict[str, Any]) -> None:
    body = codec.encode(codec.new_request(**values))
    assert sniff(body) is codec
    came = decode_request(body, codec)
    assert {name: getattr(came, name) for name in RequestFrame.__struct_fields__} == msgspec.structs.asdict(
        RequestFrame(**values)
    )


@given(codecs, reply_fields)
def test_a_reply_survives_both_codecs(codec: Codec, values: dict[str, Any]) -> None:
    body = codec.encode(codec.new_reply(**values))
    assert sniff(body) is codec
    frame = decode_reply(body)
    assert shown(frame) == shown(ReplyFrame(**values))
    types = {name: type(fact) for name, fact in values.get("details", {}).items()}
    assert {name: type(fact) for name, fact in frame.details.items()} == types


@both_codecs
@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
def test_frames_are_read_from_any_buffer_and_keep_nothing_of_it(codec: Codec, buffer: type[Buffer]) -> None:
    request = bytearray(codec.encode(codec.new_request(1, "t", b"data", headers={"a": "b"})))
    reply = bytearray(codec.encode(codec.new_reply(b"data")))
    frame, answer = decode_request(buffer(request), codec), decode_reply(buffer(reply))
    request[:], reply[:] = bytes(len(request)), bytes(len(reply))
    assert (type(frame.data), frame.data, frame.headers) == (bytes, b"data", {"a": "b"})
    assert (type(answer.data), answer.data) == (bytes, b"data")


def test_the_slow_decoder_reads_any_buffer_too() -> None:
    body = b'{"SHARD":1,"Type":"t","DATA":"aGk="}'
    assert (
        decode_request(memoryview(body), JSON) == decode_request(bytearray(body), JSON) == RequestFrame(1, "t", b"hi")
    )


def test_msgpack_is_an_array_in_the_order_of_the_fields() -> None:
    frame = MSGPACK.new_request(1, "t", b"d", "to", {"a": "b"}, 2, 3, 1, True, 4, ["k"], 5, "prod", True)
    array = msgspec.msgpack.decode(MSGPACK.encode(frame))
    assert array == [1, "t", b"d", "to", {"a": "b"}, 2, 3, 1, True, 4, ["k"], 5, "prod", True]
    assert msgspec.msgpack.decode(MSGPACK.encode(MSGPACK.new_reply(b"d", "e", "c", {"f": 1}, False))) == [
        1,
        b"d",
        "e",
        "c",
        {"f": 1},
        False,
    ]


@pytest.mark.parametrize(
    ("array", "shard"),
    [
        ([7, "t", b""], 7),
        ([7, "t", None], 7),
        ([7, "t", b"", "", {}, 0, 0, 1, False, 0, [], 0, "", False, "a later field"], 7),
    ],
)
def test_a_msgpack_request_may_lack_last_fields_or_have_more(array: list[Any], shard: int) -> None:
    assert decode_request(msgspec.msgpack.encode(array), MSGPACK).shard == shard


@pytest.mark.parametrize(
    "value",
    [
        [],
        [1],
        [1, "t"],
        ["1", "t", b""],
        [1.0, "t", b""],
        [1, b"t", b""],
        [1, "t", "text"],
        [1, "t", b"", None],
        [1, "t", b"", "", {"a": 1}],
        [1, "t", b"", "", {}, 1.5],
        {"shard": 1, "type": "t", "data": b""},
        None,
        "text",
        2**63,
    ],
    ids=repr,
)
def test_a_wrong_msgpack_request_is_an_invalid_envelope(value: object) -> None:
    with pytest.raises(InvalidEnvelopeError, match=r"invalid envelope: body cannot be decoded: .") as caught:
        decode_request(msgspec.msgpack.encode(value), MSGPACK)
    assert caught.value.field == "body"


def test_bytes_after_a_msgpack_request_are_refused() -> None:
    with pytest.raises(InvalidEnvelopeError, match="trailing"):
        decode_request(msgspec.msgpack.encode([1, "t", b""]) + b"\x00", MSGPACK)


def test_a_msgpack_length_beyond_the_body_is_refused_without_allocating_it() -> None:
    for header in (
        b"\xdd\xff\xff\xff\xff",
        b"\x93\x01\xa1t\xc6\xff\xff\xff\xff",
        b"\x95\x01\xa1t\xc4\x00\xa0\xdf\xff\xff\xff\xff",
    ):
        with pytest.raises(InvalidEnvelopeError, match=r"truncated|of length <= 64"):
            decode_request(header, MSGPACK)


@pytest.mark.parametrize("codec", list(CODECS.values()))
@pytest.mark.parametrize(
    ("field", "value"),
    [("headers", {f"h{number}": "" for number in range(65)}), ("chain", ["k"] * (MAX_CHAIN_KEYS + 1))],
)
def test_too_many_headers_or_keys_are_refused_while_they_are_read(codec: Codec, field: str, value: Any) -> None:
    body = codec.encode(codec.new_request(1, "t", b"", **{field: value}))
    with pytest.raises(InvalidEnvelopeError, match="of length <="):
        decode_request(body, codec)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"data":5}',
        b'{"data":"a"}',
        b'{"err":5}',
        b'{"details":{"a":null}}',
        b'{"details":{"a":[]}}',
        b'{"executed":"no"}',
        b"\x80",
        b"\x91\xa1a",
        b"\xc0",
    ],
)
def test_a_wrong_reply_is_an_invalid_reply_and_the_handler_may_have_run(body: bytes) -> None:
    with pytest.raises(InvalidReplyError, match=r"the reply cannot be decoded: .") as caught:
        decode_reply(body)
    assert caught.value.maybe_executed


@pytest.mark.parametrize(
    "body", [b"{}", b'{"data":null}', b'{"data":"eA=="}', b'{"err":"no"}', b'{"data":"eA==","err":"no"}']
)
def test_a_reply_of_go_has_data_and_err_and_nothing_else(body: bytes) -> None:
    assert decode_reply(body, JSON).data in (b"", None, b"x")
    with pytest.raises(InvalidReplyError, match="no node writes such a frame"):
        decode_reply(body, MSGPACK)
    for more in (b'"retryable":true', b'"code":"overloaded"', b'"executed":false', b'"details":{"a":1}', b'"v":2'):
        with pytest.raises(InvalidReplyError, match="cannot be decoded"):
            decode_reply(body[:-1] + (b"," if len(body) > 2 else b"") + more + b"}", JSON)


class Text(str):
    """A subclass of str whose ``__str__`` returns itself, as markupsafe's and Django's do."""

    __slots__ = ()

    def __str__(self) -> str:
        return self


@both_codecs
def test_a_subclass_of_str_is_written_as_its_text(codec: Codec) -> None:
    frame = codec.new_request(1, Text("t"), b"", headers={Text("a"): Text("b")})
    read = decode_request(codec.encode(frame), codec)
    assert (read.type, read.headers) == ("t", {"a": "b"})


# Of a message that cannot be read, the sender


@pytest.mark.parametrize(
    ("body", "sender"),
    [
        (b'{"shard":"one","type":5,"data":{},"reply_to":"_INBOX.a"}', ("_INBOX.a", False)),
        (b'{"shard":1,"type":"t","data":"%%%","oneway":true,"reply_to":"_INBOX.a"}', ("_INBOX.a", True)),
        (b'{"shard":1,"type":"t","data":"","reply_to":5}', ("", False)),
        (b'{"reply_to":"_INBOX.a"', ("", False)),
        (b'{"reply_to":"_INBOX.a","x":' + b"[" * 100_000, ("", False)),
        (b'{"reply_to":"_INBOX.a\xff"}', ("", False)),
        (b'{"reply_to":"_INBOX.a","x":"' + bytes(MAX_SKIPPED_BYTES), ("", False)),
        (b"[]", ("", False)),
        (b"", ("", False)),
        (MSGPACK.encode(MSGPACK.new_request(1, "t", b"", "_INBOX.a")), ("", False)),
    ],
    ids=["types", "base64", "address", "half", "deep", "utf-8", "huge", "list", "empty", "msgpack"],
)
def test_the_sender_of_a_message_that_cannot_be_read(body: bytes, sender: tuple[str, bool]) -> None:
    assert read_sender(body) == sender


def test_the_sender_of_a_message_with_too_many_headers() -> None:
    headers = {f"{number}": "" for number in range(MAX_HEADERS + 1)}
    body = JSON.encode(JSON.new_request(1, "t", b"x" * 10_000, "_INBOX.a", headers))
    with pytest.raises(InvalidEnvelopeError):
        decode_request(body, JSON)
    assert read_sender(body) == ("_INBOX.a", False)


# Sizes


@both_codecs
@pytest.mark.parametrize("character", ["a", "<", '"', "\u2028", "\xe4", "\U0001f600"])
def test_no_request_is_larger_than_its_codec_says(codec: Codec, character: str) -> None:
    """Every part that `Envelope.validate` and the engine bound is at its bound."""
    width = len(character.encode())
    headers = {f"{number:02}": "" for number in range(MAX_HEADERS)}
    headers["00"] = character * ((MAX_HEADER_BYTES - 2 * MAX_HEADERS) // width)
    chain = [character * (MAX_CHAIN_BYTES // MAX_CHAIN_KEYS // width)] * MAX_CHAIN_KEYS
    data, reply_to = bytes(1001), "_INBOX." + "x" * 200
    frame = codec.new_request(2**32, character * 256, data, reply_to, headers, MAX_TTL_MS, 2**63, 1, True, 1000, chain)
    assert len(codec.encode(frame)) <= codec.most_bytes(len(data))


@both_codecs
@pytest.mark.parametrize("character", ["a", "<", "\0", "\u2028"])
def test_no_error_is_larger_than_its_codec_says(codec: Codec, character: str) -> None:
    error = UnknownMessageError(character * MAX_ERROR_BYTES, character * MAX_ERROR_BYTES)
    assert len(encode_error(codec, error)) <= codec.most_bytes(0)


@given(codecs, st.integers(0, 2**40))
def test_the_most_data_of_a_frame_fits_it(codec: Codec, spare: int) -> None:
    frame_bytes = 4 * codec.envelope_bytes + spare
    assert codec.most_bytes(codec.most_data(frame_bytes)) <= frame_bytes


@given(codecs, st.integers(0, 2**20))
def test_a_tiny_frame_carries_data_too(codec: Codec, frame_bytes: int) -> None:
    data = bytes(max(0, codec.most_data(frame_bytes) - 64))
    assert len(codec.encode(codec.new_request(1, "t", data))) <= max(frame_bytes, 64)


@given(st.binary(max_size=200))
def test_base64_takes_what_the_expansion_says(data: bytes) -> None:
    plain = len(JSON.encode(JSON.new_request(1, "t", b"")))
    numerator, denominator = JSON.expansion
    size = -(-len(data) // denominator) * numerator
    assert len(JSON.encode(JSON.new_request(1, "t", data))) - plain == size == len(b64encode(data))
    assert JSON.most_bytes(len(data)) == JSON.envelope_bytes + size


# Any bytes


@st.composite
def nearly_frames(draw: st.DrawFn) -> bytes:
    """Draw a frame in which some bytes were replaced, removed or added."""
    codec = draw(codecs)
    is_request = draw(st.booleans())
    frame = codec.new_request(**draw(fields)) if is_request else codec.new_reply(**draw(reply_fields))
    body = codec.encode(frame)
    start = draw(st.integers(0, len(body)))
    end = draw(st.integers(start, min(len(body), start + 4)))
    return body[:start] + draw(st.binary(max_size=4)) + body[end:]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["shard", "DATA", "Headers"]), inner),
    max_leaves=10,
)
any_bytes = st.binary() | nearly_frames() | json_values.map(lambda value: json.dumps(value).encode())


@given(any_bytes, codecs)
def test_any_bytes_are_a_request_or_an_invalid_envelope(body: bytes, codec: Codec) -> None:
    for each in (codec, sniff(body)):
        with suppress(InvalidEnvelopeError):
            assert isinstance(decode_request(body, each), RequestFrame)


@given(any_bytes)
def test_any_bytes_are_a_reply_or_an_invalid_reply(body: bytes) -> None:
    with suppress(InvalidReplyError):
        assert isinstance(decode_reply(body), ReplyFrame)
