"""
What peers say to each other: frames, joined by `clstr.spi.pack` into one ZeroMQ frame.

The first byte of a frame is its kind. `Hello` and `Refused` never change their layout, so that peers of different
protocol versions can tell each other that they are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import msgspec

from clstr.spi import Buffer
from clstr_zmq._pieces import PIECE_BYTES

VERSION = 2  # 2: large messages come in pieces
MAX_SHARDS = 2**20  # of one peer: a stranger must not fill the memory with numbers
MAX_PLACES = 1024
CHUNK_BYTES = PIECE_BYTES  # what a message of many frames has at most; a larger frame has one of its own
CHUNK_FRAMES = 4096  # what `clstr.spi.unpack` takes
SHARDS_PER_FRAME = 10_000
FRAME_OVERHEAD = 64  # more than the kind, the token, the shard and the length before them

_MAGIC = b"clstr"
_HELLO, _REFUSED, _REQUEST, _ANSWER, _CONTROL = b"HXQAC"
_REQUEST_HEAD = struct.Struct(">BQI")
_ANSWER_HEAD = struct.Struct(">BQ")

Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Token = Annotated[int, msgspec.Meta(ge=0)]  # 64 bits, which msgspec does not take as a bound
Shards = Annotated[list[Annotated[int, msgspec.Meta(ge=0, lt=2**32)]], msgspec.Meta(max_length=SHARDS_PER_FRAME)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,128}\Z")]
PeerId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,128}(:[A-Za-z0-9_.-]{1,128})?\Z")]
Text = Annotated[str, msgspec.Meta(max_length=1024)]
# Addresses are logged: no controls, line ends, or marks that turn the direction of text.
_PATH = r"[^\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
Address = Annotated[str, msgspec.Meta(pattern=rf"^(tcp://[!-.0-~]{{1,255}}:[0-9]{{1,5}}|ipc://{_PATH}{{1,107}})\Z")]
Key = Annotated[str, msgspec.Meta(pattern=r"^([!-~]{40})?\Z")]


class VersionError(ValueError):
    """The other peer speaks another version of the protocol."""


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class Place(_Message, frozen=True):
    """
    Where an inbox is.

    Attributes:
        address: As ZeroMQ writes it: ``tcp://127.0.0.1:5555``.
        key: Its public CURVE key; empty without CURVE.
    """

    address: Address
    key: Key = ""


class Hello(_Message, frozen=True):
    """
    The first thing that is said on a connection, by the peer that made it.

    Attributes:
        cluster: The cluster's name.
        peer_id: Who this is.
        epoch: Which life of that peer: another number after each start.
        inbox: Where the others reach it, if they can.
        max_bytes: The largest answer that it takes.
    """

    cluster: Name
    peer_id: PeerId
    epoch: Number
    inbox: Place | None
    max_bytes: Number


class Welcome(_Message, frozen=True, tag=1):
    """The answer to `Hello`, after what the inbox's peer holds and knows. The fields mean the same."""

    peer_id: PeerId
    epoch: Number
    inbox: Place
    max_bytes: Number


class Introduced(_Message, frozen=True, tag=2):
    """Whoever was connected when the `Hello` came knows of the newcomer now."""


class Holds(_Message, frozen=True, tag=3):
    """The peer holds these shards too."""

    number: Number
    shards: Shards


class Drops(_Message, frozen=True, tag=4):
    """The peer does not hold these shards any more."""

    number: Number
    shards: Shards


class Peers(_Message, frozen=True, tag=5):
    """There are inboxes at these places too."""

    number: Number
    places: Annotated[list[Place], msgspec.Meta(max_length=MAX_PLACES)]


class Ack(_Message, frozen=True, tag=6):
    """Everything up to `Holds`, `Drops` or `Peers` of this number is known, and nothing will be sent against it."""

    number: Number


class Ping(_Message, frozen=True, tag=7):
    """Are you there? Whatever was sent before it has been read by whoever answers."""

    number: Number


class Pong(_Message, frozen=True, tag=8):
    """Yes."""

    number: Number


class TooLarge(_Message, frozen=True, tag=9):
    """The answer to this token is larger than the peer takes."""

    token: Token
    size: Number


class Bye(_Message, frozen=True, tag=10):
    """Nothing comes after this."""


Control = Welcome | Introduced | Holds | Drops | Peers | Ack | Ping | Pong | TooLarge | Bye


class Refused(_Message, frozen=True):
    """
    Go away.

    Attributes:
        code: ``version``, ``cluster``, ``identity`` (the key must not say that), ``taken`` (the peer id), or
            ``stranger`` (say `Hello` first).
        reason: The same for people.
    """

    code: Text
    reason: Text


class Request(NamedTuple):
    """A message for a shard."""

    token: int
    shard: int
    body: memoryview


class Answer(NamedTuple):
    """The answer to the request of this token."""

    token: int
    body: memoryview


Message = Hello | Refused | Request | Answer | Control

_encode = msgspec.msgpack.Encoder().encode
_decode_control = msgspec.msgpack.Decoder(Control).decode
_decode_hello = msgspec.msgpack.Decoder(Hello).decode
_decode_refused = msgspec.msgpack.Decoder(Refused).decode


def encode(message: Hello | Refused | Control) -> bytes:
    """Return the frame that says ``message``."""
    if isinstance(message, Hello):
        return bytes((_HELLO,)) + _MAGIC + bytes((VERSION,)) + _encode(message)
    kind = _REFUSED if isinstance(message, Refused) else _CONTROL
    return bytes((kind,)) + _encode(message)


def encode_request(token: int, shard: int, body: Buffer) -> bytes:
    """Return the frame of a request."""
    return _REQUEST_HEAD.pack(_REQUEST, token, shard) + body


def encode_answer(token: int, body: Buffer) -> bytes:
    """Return the frame of an answer."""
    return _ANSWER_HEAD.pack(_ANSWER, token) + body


def is_answer(frame: bytes) -> bool:
    """Tell whether a frame of ours is an answer."""
    return frame[0] == _ANSWER


def is_refusal(frame: bytes) -> bool:
    """Tell whether a frame of ours is a `Refused`."""
    return frame[0] == _REFUSED


def decode(frame: memoryview) -> Message:
    """
    Read a frame.

    Raises:
        VersionError: It is the `Hello` of a peer that speaks another version.
        ValueError: It is none of ours.
    """
    kind = frame[0]
    try:
        if kind == _REQUEST:
            _, token, shard = _REQUEST_HEAD.unpack_from(frame)
            return Request(token, shard, frame[_REQUEST_HEAD.size :])
        if kind == _ANSWER:
            return Answer(_ANSWER_HEAD.unpack_from(frame)[1], frame[_ANSWER_HEAD.size :])
        return _decode_rare(kind, frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, struct.error) as error:
        raise ValueError(f"a frame of kind {kind} cannot be read: {error}") from None


def _decode_rare(kind: int, frame: memoryview) -> Message:
    if kind == _CONTROL:
        message: Control = _decode_control(frame[1:])
        return message
    if kind == _REFUSED:
        return _decode_refused(frame[1:])
    if kind != _HELLO or frame[1:6] != _MAGIC or len(frame) < len(_MAGIC) + 2:
        raise ValueError(f"a frame of kind {kind} is none of ours")
    if frame[6] != VERSION:
        raise VersionError(f"this peer speaks version {VERSION} of the protocol, the other one {frame[6]}")
    return _decode_hello(frame[7:])


def in_chunks(shards: Sequence[int]) -> Iterator[list[int]]:
    """Split ``shards`` into what one frame takes."""
    for start in range(0, len(shards), SHARDS_PER_FRAME):
        yield list(shards[start : start + SHARDS_PER_FRAME])


def chunk_ends(sizes: Sequence[int]) -> Iterator[int]:
    """Yield where to cut frames of these sizes, so that each part makes a message that every peer takes."""
    frames = size = 0
    for end, each in enumerate(sizes):
        if frames and (frames == CHUNK_FRAMES or size + each > CHUNK_BYTES):
            yield end
            frames = size = 0
        frames += 1
        size += each + FRAME_OVERHEAD
    if frames:
        yield len(sizes)
