"""`clstr_redis._owners`: what was learned, and for how long it is believed."""

from __future__ import annotations

from clstr_redis._owners import Owners


class Clock:
    """A clock that stands until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_owner_is_believed_as_long_as_its_lease_lasted_when_the_server_was_asked() -> None:
    clock = Clock()
    owners = Owners(clock, 5.0)
    owners.learn(1, b"a", 99.0, 3.0)  # the answer took a second
    clock.now = 101.9
    assert owners.get(1) == b"a"
    clock.now = 102.0
    assert owners.get(1) == b""
    clock.now = 101.0
    assert owners.get(1) == b""  # forgotten is forgotten


def test_nobody_is_believed_for_longer_than_a_lease_of_ours() -> None:
    clock = Clock()
    owners = Owners(clock, 5.0)
    owners.learn(1, b"a", 100.0, 86_400.0)  # the server's clock was set back
    clock.now = 105.0
    assert owners.get(1) == b""


def test_who_is_known_to_own_nothing_is_forgotten_with_all_of_its_shards() -> None:
    owners = Owners(Clock(), 5.0)
    for shard, inbox in enumerate([b"a", b"b", b"a"]):
        owners.learn(shard, inbox, 100.0, 5.0)
    owners.forget_inbox(b"a")
    assert [owners.get(shard) for shard in range(4)] == [b"", b"b", b"", b""]


def test_an_owner_that_was_learned_meanwhile_is_kept() -> None:
    owners = Owners(Clock(), 5.0)
    owners.learn(1, b"new", 100.0, 5.0)
    owners.forget(1, b"old")
    owners.forget(1, None)
    owners.forget(2, b"new")
    assert owners.get(1) == b"new"
    owners.forget(1, b"new")
    assert owners.get(1) == b""
