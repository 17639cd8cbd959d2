"""`clstr_redis._outbox`: one tick's messages, sorted by destination."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clstr_redis._outbox import MAX_BATCH_BYTES, MAX_BATCH_FRAMES, Item, batches

ANSWERS = st.builds(Item, frame=st.binary(min_size=1, max_size=8), inbox=st.sampled_from([b"a", b"b"]))
MESSAGES = st.builds(
    Item,
    frame=st.binary(min_size=1, max_size=8),
    inbox=st.sampled_from([b"", b"a", b"b"]),
    shard=st.integers(0, 3),
    token=st.integers(0, 9),
)


@given(st.lists(ANSWERS | MESSAGES))
def test_everything_goes_once_and_to_its_own_destination(items: list[Item]) -> None:
    """To the inbox that is known, unless the owner of another message for the same shard is to be looked up."""
    looked_up = {item.shard for item in items if not item.inbox}
    sent: dict[bytes | int, list[bytes]] = {}
    for batch in batches(items):
        (destination,) = {item.inbox or item.shard for item in batch}
        sent.setdefault(destination, []).extend(item.frame for item in batch)
    wanted: dict[bytes | int, list[bytes]] = {}
    for item in items:
        is_looked_up = item.token is not None and item.shard in looked_up
        wanted.setdefault(item.shard if is_looked_up else item.inbox or item.shard, []).append(item.frame)
    assert sent == wanted


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans())))
def test_no_message_overtakes_another_for_the_same_shard(messages: list[tuple[int, bool]]) -> None:
    """Though notifies have their owner looked up, and requests go to the inbox that is known."""
    numbered = [
        Item(b"%d" % number, b"" if is_notify else b"ab"[shard % 2 :][:1], shard, number, is_notify)
        for number, (shard, is_notify) in enumerate(messages)
    ]
    sent = [item for batch in batches(numbered) for item in batch]
    for shard in range(4):
        numbers = [int(item.frame) for item in sent if item.shard == shard]
        assert numbers == sorted(numbers)


def test_a_message_stays_small_unless_one_frame_alone_is_large() -> None:
    half, large = Item(bytes(MAX_BATCH_BYTES // 2), b"a"), Item(bytes(2 * MAX_BATCH_BYTES), b"a")
    assert [len(batch) for batch in batches([half, half, half, large, half])] == [2, 1, 1, 1]


def test_a_message_has_no_more_frames_than_a_receiver_reads() -> None:
    assert [len(batch) for batch in batches([Item(b"x", b"a")] * (MAX_BATCH_FRAMES + 1))] == [MAX_BATCH_FRAMES, 1]
