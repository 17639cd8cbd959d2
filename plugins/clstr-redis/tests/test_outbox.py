"""`clstr_redis._outbox`: one tick's messages, sorted by destination."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clstr_redis._outbox import MAX_BATCH_BYTES, MAX_BATCH_FRAMES, Item, batches

ITEMS = st.lists(
    st.builds(
        Item,
        frame=st.binary(min_size=1, max_size=8),
        inbox=st.sampled_from([b"", b"a", b"b"]),
        shard=st.integers(0, 3),
        token=st.none() | st.integers(0, 9),
    )
)


@given(ITEMS)
def test_everything_goes_once_in_order_and_to_its_own_destination(items: list[Item]) -> None:
    sent: dict[bytes | int, list[Item]] = {}
    for batch in batches(items):
        (destination,) = {item.inbox or item.shard for item in batch}
        sent.setdefault(destination, []).extend(batch)
    for destination, got in sent.items():
        assert [id(item) for item in got] == [id(item) for item in items if (item.inbox or item.shard) == destination]
    assert sum(map(len, sent.values())) == len(items)


def test_a_message_stays_small_unless_one_frame_alone_is_large() -> None:
    half, large = Item(bytes(MAX_BATCH_BYTES // 2), b"a"), Item(bytes(2 * MAX_BATCH_BYTES), b"a")
    assert [len(batch) for batch in batches([half, half, half, large, half])] == [2, 1, 1, 1]


def test_a_message_has_no_more_frames_than_a_receiver_reads() -> None:
    assert [len(batch) for batch in batches([Item(b"x", b"a")] * (MAX_BATCH_FRAMES + 1))] == [MAX_BATCH_FRAMES, 1]
