"""Many frames in one message, and messages that were never packed."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clstr.spi import pack, unpack
from clstr.spi._links.pack import MAX_FRAMES

FRAMES = st.lists(st.binary(min_size=1))


@given(FRAMES)
def test_frames_come_out_as_they_went_in(frames: list[bytes]) -> None:
    assert [bytes(frame) for frame in unpack(pack(frames))] == frames


def test_frames_are_behind_their_length_in_four_bytes() -> None:
    assert pack([b"ab", bytearray(b"d"), memoryview(b"c")]) == b"\0\0\0\2ab\0\0\0\1d\0\0\0\1c"


@given(FRAMES.filter(bool), st.data())
def test_a_message_that_is_cut_off_yields_its_whole_frames_and_then_fails(
    frames: list[bytes], data: st.DataObject
) -> None:
    message = pack(frames)
    cut = message[: data.draw(st.integers(0, len(message) - 1))]
    whole = {len(pack(frames[:count])): frames[:count] for count in range(len(frames))}
    unpacked = []
    try:
        for frame in unpack(cut):
            unpacked.append(bytes(frame))  # noqa: PERF401 -- the frames before the fault count too
    except ValueError:
        assert len(cut) not in whole
        assert pack(unpacked) == message[: len(pack(unpacked))]
    else:
        assert unpacked == whole[len(cut)]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\0", "length is cut off at byte 0"),
        (b"\0\0\0\2a", "from byte 4 to 6 does not fit a message of 5"),
        (b"\xff" * 9, "from byte 4 to 4294967299 does not fit"),
        (b"\0\0\0\1a\0\0\0\0", "from byte 9 to 9 does not fit"),
    ],
)
def test_what_is_wrong_is_named(message: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        list(unpack(message))


@given(st.binary())
def test_arbitrary_bytes_raise_nothing_but_value_errors(message: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert pack(unpack(message)) == message


def test_a_message_of_too_many_frames_is_refused_behind_the_last_that_is_allowed() -> None:
    assert len(list(unpack(pack([b"x"] * MAX_FRAMES)))) == MAX_FRAMES
    frames = unpack(pack([b"x"] * (MAX_FRAMES + 1)))
    assert sum(1 for _ in itertools.islice(frames, MAX_FRAMES)) == MAX_FRAMES
    with pytest.raises(ValueError, match=f"more than {MAX_FRAMES} frames"):
        next(frames)
