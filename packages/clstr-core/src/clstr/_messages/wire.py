"""
The frames on the wire and their codecs: ``json``, byte-compatible with clstr-go, and ``msgpack``, ours.

Decoding sniffs which codec was used, so that nodes and clients of both live in one cluster, and a node answers in the
codec of the request. The tables of fields are closed: a new field is a change of the protocol.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec

from clstr._limits import MAX_CHAIN_KEYS, MAX_HEADERS
from clstr._messages.nesting import check_nesting
from clstr.errors import Fact, InvalidEnvelopeError, InvalidReplyError

PROTOCOL_VERSION = 1
Buffer = bytes | bytearray | memoryview
"""What bodies may be: links hand on what their driver gives them, without a copy."""
T = TypeVar("T")

MAX_SKIPPED_BYTES = 8 * 1024 * 1024  # above it a NATS server warns of its own max_payload; skipping takes 3 to 20 ms

# What decoding raises: deep nesting and invalid UTF-8 are not msgspec errors.
DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)


class RequestFrame(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """
    A request or a notify. The first seven fields are clstr-go's, in its order; the rest are ours.

    One with other fields is read by `_decode_like_go`, which bounds how deeply they are nested.
    """

    shard: int
    type: str
    data: bytes | None
    reply_to: str = ""
    headers: Annotated[dict[str, str], msgspec.Meta(max_length=MAX_HEADERS)] = {}
    ttl_ms: int = 0
    created_at_ms: int = 0
    v: int = 0
    oneway: bool = False
    depth: int = 0
    chain: Annotated[list[str], msgspec.Meta(max_length=MAX_CHAIN_KEYS)] = []
    room: int = 0
    cluster: str = ""
    confirm: bool = False


class ReplyFrame(msgspec.Struct, omit_defaults=True):
    """A reply: ``data``, or ``err``. ``code``, ``details`` and ``executed`` are ours."""

    data: bytes | None = b""
    err: str = ""
    code: str = ""
    details: Annotated[dict[str, Fact], msgspec.Meta(max_length=MAX_HEADERS)] = {}
    executed: bool | None = None


class _PackedRequest(RequestFrame, array_like=True):
    pass


class _ReadPackedRequest(_PackedRequest):
    """Later versions may add up to four fields, which are read over: no lists or maps, whose nesting has no bound."""

    later_1: Fact | None = None
    later_2: Fact | None = None
    later_3: Fact | None = None
    later_4: Fact | None = None


class _MarkedReply(ReplyFrame, tag_field="v", tag=PROTOCOL_VERSION):
    """What our peers write: the version comes first, and proves that a peer wrote it."""


class _PackedReply(ReplyFrame, array_like=True, tag_field="v", tag=PROTOCOL_VERSION, forbid_unknown_fields=True):
    pass


class JsonReply(ReplyFrame, forbid_unknown_fields=True):
    """A JSON reply: of our peers, which mark theirs, or of Go, which does not and has ``data`` and ``err`` alone."""

    v: int = 0

    def is_marked_or_go(self) -> bool:
        is_plain = not self.code and not self.details and self.executed is None
        return self.v == PROTOCOL_VERSION or (self.v == 0 and is_plain)


@dataclass(frozen=True, slots=True)
class Codec:
    """
    One way of writing frames.

    Attributes:
        name: What the URL parameter ``codec`` calls it.
        new_request: Makes a frame that `encode` writes in this codec.
        new_reply: The same for replies.
        encode: Writes such a frame.
        expansion: Encoded bytes per payload byte, as a fraction (numerator, denominator).
        envelope_bytes: What a frame has beyond its data, at most: type, headers and chain at their bounds, escaped.
    """

    name: str
    new_request: Callable[..., RequestFrame]
    new_reply: Callable[..., ReplyFrame]
    encode: Callable[[Any], bytes]
    expansion: tuple[int, int]
    envelope_bytes: int

    def encoded(self, data_bytes: int) -> int:
        """Return what ``data_bytes`` of data take in a frame."""
        numerator, denominator = self.expansion
        return -(-data_bytes // denominator) * numerator

    def most_bytes(self, data_bytes: int) -> int:
        """Return the size of the largest frame with ``data_bytes`` of data."""
        return self.encoded(data_bytes) + self.envelope_bytes

    def most_data_beside(self, envelope_bytes: int, frame_bytes: int) -> int:
        """Return how many data bytes fit a frame of ``frame_bytes`` that has ``envelope_bytes`` beyond them."""
        numerator, denominator = self.expansion
        return max(0, frame_bytes - envelope_bytes) // numerator * denominator

    def most_data(self, frame_bytes: int) -> int:
        """Return how many data bytes fit a frame of ``frame_bytes``, whatever else is in it."""
        # A broker with tiny messages carries data too, but then not beside headers at their bounds.
        return self.most_data_beside(min(self.envelope_bytes, frame_bytes // 4), frame_bytes)


# The hook writes a subclass of str, such as markupsafe's, as the text that it is.
_json_encode = msgspec.json.Encoder(enc_hook=str.__str__).encode
_packed_encode = msgspec.msgpack.Encoder(enc_hook=str.__str__).encode


def _encode_json(frame: RequestFrame | ReplyFrame) -> bytes:
    """Write what Go's ``json.Marshal`` writes: headers sorted bytewise, five characters escaped."""
    if isinstance(frame, RequestFrame) and len(frame.headers) > 1:
        frame.headers = dict(sorted(frame.headers.items()))  # by code points, which is the order of UTF-8's bytes
    body = _json_encode(frame)
    body = body.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
    if body.isascii():  # nearly always, and the search for three bytes is the dear part
        return body
    return body.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")


JSON = Codec("json", RequestFrame, _MarkedReply, _encode_json, (4, 3), 80 * 1024)
MSGPACK = Codec("msgpack", _PackedRequest, _PackedReply, _packed_encode, (1, 1), 16 * 1024)
CODECS = {codec.name: codec for codec in (JSON, MSGPACK)}

_json_request = msgspec.json.Decoder(RequestFrame).decode
_json_reply = msgspec.json.Decoder(JsonReply).decode
_packed_request = msgspec.msgpack.Decoder(_ReadPackedRequest).decode
_packed_reply = msgspec.msgpack.Decoder(_PackedReply).decode

_JSON_BEGINS = frozenset(b"{ \n\r\t")


def sniff(body: Buffer) -> Codec:
    """Tell which codec wrote ``body``: JSON begins with a brace or white space, our msgpack with an array."""
    return JSON if body and body[0] in _JSON_BEGINS else MSGPACK


def decode_request(body: Buffer, codec: Codec) -> RequestFrame:
    """
    Read a request. What the strict decoder refuses gets a second look with the eyes of Go's decoder.

    Raises:
        InvalidEnvelopeError: It is not a request.
    """
    try:
        return _json_request(body) if codec is JSON else _packed_request(body)
    except DECODE_ERRORS as error:
        if codec is JSON:
            return _decode_like_go(body)
        raise InvalidEnvelopeError("body", f"cannot be decoded: {error}") from error


def decode_reply(body: Buffer, asked_in: Codec = JSON) -> ReplyFrame:
    """
    Read a reply, and only what proves to be one: anything may arrive at a reply address.

    A reply of our peers has the protocol version. A JSON reply without it may come from a Go node, which reads JSON
    alone: it has ``data``, ``err``, both or none, and nothing else.

    Args:
        body: What arrived.
        asked_in: The codec of the request.

    Raises:
        InvalidReplyError: It is not a reply.
    """
    try:
        if sniff(body) is not JSON:
            return _packed_reply(body)
        frame = _json_reply(body)
    except DECODE_ERRORS as error:
        raise InvalidReplyError(f"the reply cannot be decoded: {error}") from error
    if not frame.is_marked_or_go() or (asked_in is not JSON and frame.v == 0):
        raise InvalidReplyError(f"the reply cannot be decoded: no node writes such a frame (v={frame.v})")
    return frame


def _decode_like_go(body: Buffer) -> RequestFrame:
    """Read JSON as Go's ``encoding/json`` does: names in any case, ``null`` is the zero value, later ones win."""
    try:
        check_nesting(bytes(body))
        members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except DECODE_ERRORS as error:
        raise InvalidEnvelopeError("body", f"cannot be decoded: {error}") from error
    fields = {name.lower(): raw for name, raw in members.items() if bytes(raw) != b"null"}
    values = {
        field.name: _read_field(field.name, fields[field.name], field.type)
        for field in _REQUEST_FIELDS
        if field.name in fields
    }
    return RequestFrame(**{"shard": 0, "type": "", "data": None, **values})


class _Sender(msgspec.Struct):
    """What is needed to refuse a message that cannot be read; the rest is skipped, whatever it is."""

    reply_to: str = ""
    oneway: bool = False


_json_sender = msgspec.json.Decoder(_Sender).decode


def read_sender(body: Buffer) -> tuple[str, bool]:
    """
    Return the printable address in a message that cannot be read, and whether it is a notify.

    A Go client has no other address. Nothing but these two is decoded; what cannot be skipped, or is in our own codec,
    whose senders have an address beside the message, gives ``("", False)``.
    """
    if len(body) > MAX_SKIPPED_BYTES or sniff(body) is not JSON:
        return "", False
    try:
        check_nesting(bytes(body))
        sender = _json_sender(body)
    except DECODE_ERRORS:
        return "", False
    return sender.reply_to, sender.oneway


_REQUEST_FIELDS = msgspec.structs.fields(RequestFrame)


def _read_field(name: str, raw: msgspec.Raw, type_: Any) -> Any:
    try:
        return _read_data(raw) if name == "data" else msgspec.json.decode(raw, type=type_)
    except DECODE_ERRORS as error:
        raise InvalidEnvelopeError(name, f"cannot be decoded: {error}") from error


def _read_data(raw: msgspec.Raw) -> bytes:
    """Read base64 with line breaks in it, or a list of byte numbers: Go's decoder takes both."""
    value = msgspec.json.decode(raw, type=str | list[int])
    if isinstance(value, list):
        return bytes(value)
    return base64.b64decode(value.replace("\r", "").replace("\n", ""), validate=True)
