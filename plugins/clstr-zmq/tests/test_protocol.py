"""What is said is read as it was, and nothing else is read at all."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clstr_zmq import _protocol as protocol
from clstr_zmq._protocol import (
    Ack,
    Answer,
    Bye,
    Control,
    Drops,
    Hello,
    Holds,
    Introduced,
    Peers,
    Ping,
    Place,
    Pong,
    Refused,
    Request,
    TooLarge,
    VersionError,
    Welcome,
    chunk_ends,
    decode,
    encode,
    encode_answer,
    encode_request,
    in_chunks,
)

PLACE = Place(address="tcp://[::1]:5555", key="k" * 40)
HELLO = Hello(cluster="c", peer_id="p", epoch=2**62, inbox=PLACE, max_bytes=1)


@pytest.mark.parametrize(
    "message",
    [
        HELLO,
        Hello(cluster="c", peer_id="p", epoch=0, inbox=None, max_bytes=0),
        Refused(code="taken", reason="because"),
        Welcome(peer_id="p", epoch=1, inbox=Place(address="ipc:///run/a b.sock"), max_bytes=1),
        Introduced(),
        Holds(number=1, shards=[0, 2**32 - 1]),
        Drops(number=2, shards=[]),
        Peers(number=3, places=[PLACE]),
        Ack(number=4),
        Ping(number=5),
        Pong(number=6),
        TooLarge(token=2**64 - 1, size=8),
        Bye(),
    ],
    ids=repr,
)
def test_what_peers_say_to_each_other_is_read_as_it_was(message: Hello | Refused | Control) -> None:
    assert decode(memoryview(encode(message))) == message


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=100))
def test_requests_and_answers_are_read_as_they_were(token: int, shard: int, body: bytes) -> None:
    assert decode(memoryview(encode_request(token, shard, body))) == Request(token, shard, memoryview(body))
    assert decode(memoryview(encode_answer(token, body))) == Answer(token, memoryview(body))


@given(st.binary(min_size=1, max_size=200), st.sampled_from(b"HXQACZ\x00"))
def test_what_is_not_ours_is_a_value_error(data: bytes, kind: int) -> None:
    for frame in (data, bytes((kind,)) + data, b"Hclstr" + data, b"Hclstr\x02" + data):
        with contextlib.suppress(ValueError):
            decode(memoryview(frame))


@given(st.integers(0, 255).filter(lambda version: version != protocol.VERSION), st.binary(max_size=50))
def test_another_version_is_told_apart_whatever_its_hello_looks_like(version: int, rest: bytes) -> None:
    with pytest.raises(VersionError, match=f"version 2 of the protocol, the other one {version}"):
        decode(memoryview(b"Hclstr" + bytes((version,)) + rest))


@pytest.mark.parametrize(
    "fields",
    [
        {"cluster": ""},
        {"cluster": "a b"},
        {"cluster": "a\n"},
        {"peer_id": "x" * 129},
        {"epoch": -1},
        {"max_bytes": -1},
        {"inbox": ("tcp://host", "")},
        {"inbox": ("http://host:80", "")},
        {"inbox": ("tcp://host:1/path", "")},
        {"inbox": ("ipc://a\n", "")},
        {"inbox": ("tcp://host:1", "short")},
        {"inbox": ("tcp://host:1", "k" * 40 + "\n")},
    ],
    ids=repr,
)
def test_a_hello_with_a_field_out_of_its_bounds_is_garbage(fields: dict[str, object]) -> None:
    values = {"cluster": "c", "peer_id": "p", "epoch": 1, "inbox": None, "max_bytes": 1} | fields
    with pytest.raises(ValueError, match="cannot be read"):
        decode(memoryview(b"Hclstr\x02" + msgspec.msgpack.encode(list(values.values()))))


@pytest.mark.parametrize(
    "values",
    [
        [3, 1, [2**32]],
        [3, 1, [-1]],
        [3, 1, [1.5]],
        [3, 1, list(range(protocol.SHARDS_PER_FRAME + 1))],
        [3, 1, [], "more"],
        [5, 1, [["tcp://a:1", ""]] * (protocol.MAX_PLACES + 1)],
        [99],
        [],
    ],
    ids=lambda values: repr(values)[:30],
)
def test_a_control_message_out_of_its_bounds_is_garbage(values: list[object]) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        decode(memoryview(b"C" + msgspec.msgpack.encode(values)))


@given(st.lists(st.integers(1, 2 * protocol.CHUNK_BYTES), max_size=50))
def test_frames_are_cut_into_messages_that_every_peer_takes(sizes: list[int]) -> None:
    """Each has room, or one frame; none is left out, and none is split without need."""
    begin = 0
    for end in chunk_ends(sizes):
        part = sizes[begin:end]
        assert len(part) == 1 or sum(part) <= protocol.CHUNK_BYTES + protocol.FRAME_OVERHEAD * len(part)
        assert part
        begin = end
    assert begin == len(sizes)


def test_a_message_has_no_more_frames_than_are_unpacked() -> None:
    begin = 0
    for end in chunk_ends([1] * 10_000):
        assert end - begin <= protocol.CHUNK_FRAMES
        begin = end


def test_shards_are_cut_into_what_a_frame_takes() -> None:
    shards = list(range(25_000))
    parts = list(in_chunks(shards))
    assert [len(part) for part in parts] == [10_000, 10_000, 5_000]
    assert [shard for part in parts for shard in part] == shards


@pytest.mark.parametrize(
    ("peer_id", "is_one"),
    [("a", True), ("a.b", True), ("a:b", True), ("a:b:c", False), (":b", False), ("a:", False), ("a b", False)],
)
def test_a_peer_id_is_a_name_and_what_tells_its_peers_apart(peer_id: str, is_one: bool) -> None:
    frame = memoryview(encode(Hello(cluster="c", peer_id=peer_id, epoch=1, inbox=None, max_bytes=1)))
    if is_one:
        assert decode(frame).peer_id == peer_id  # type: ignore[union-attr]  # it is a Hello
    else:
        with pytest.raises(ValueError, match="cannot be read"):
            decode(frame)


@pytest.mark.parametrize("mark", ["\n", "\x1b", "\x9b", "\u202e", "\u2066", "\u061c", "\u2028"], ids=ascii)
@pytest.mark.parametrize("address", ["tcp://a{}b:1", "ipc:///a{}b"])
def test_an_address_holds_nothing_that_steers_a_log_or_a_terminal(address: str, mark: str) -> None:
    place = Place(address=address.format(mark))
    frame = memoryview(encode(Hello(cluster="c", peer_id="a", epoch=1, inbox=place, max_bytes=1)))
    with pytest.raises(ValueError, match="cannot be read"):
        decode(frame)
