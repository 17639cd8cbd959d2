"""`clstr_redis._names`: no prefix and no peer id can mean another key or channel."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clstr_redis._names import Names, check_prefix

WORDS = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=20)
PREFIXES = st.lists(WORDS, min_size=1, max_size=3).map(":".join)


@pytest.mark.parametrize(
    "prefix", ["", ":", "a:", ":a", "a::b", "a*", "a?", "a[b]", "a b", "a\n", "a\r\nb", "\u00e4", "a{b}", "x" * 129]
)
def test_a_prefix_that_could_mean_something_else_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="as in acme:prod"):
        check_prefix(prefix)


@given(st.text())
def test_any_prefix_is_refused_or_spells_itself(prefix: str) -> None:
    try:
        check_prefix(prefix)
    except ValueError:
        return
    assert Names(prefix, "peer").shard(7) == f"{prefix}:shard:7".encode()
    assert not set(prefix) & set("*?[]{} \r\n")


@given(PREFIXES, WORDS)
def test_an_inbox_is_known_as_one_and_never_given_twice(prefix: str, peer_id: str) -> None:
    names = Names(check_prefix(prefix), peer_id)
    inbox = names.new_inbox()
    assert names.is_inbox(inbox)
    assert names.new_inbox() != inbox


@given(PREFIXES, PREFIXES, WORDS)
def test_an_inbox_of_another_cluster_is_none_of_ours(prefix: str, other: str, peer_id: str) -> None:
    if prefix != other:
        assert not Names(other, "me").is_inbox(Names(prefix, peer_id).new_inbox())


@given(PREFIXES, st.binary())
def test_a_stranger_s_bytes_are_an_inbox_only_if_they_spell_one(prefix: str, name: bytes) -> None:
    names = Names(prefix, "me")
    assert not names.is_inbox(name)
    assert not names.is_inbox(names.new_inbox() + name + b"x")
    assert not names.is_inbox(names.shard(1))
