"""`clstr_nats._subjects`: no name can become another subject than the one that it spells (N15)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clstr_nats._subjects import Subjects, check_inbox_prefix, check_prefix, is_inbox

SUBJECT = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@given(st.text() | st.text("ab.*> \t\r\n_-", max_size=8))
def test_a_prefix_is_refused_or_stays_as_it_is(prefix: str) -> None:
    try:
        subjects = Subjects(check_prefix(prefix), "_INBOX")
    except ValueError:
        return
    assert SUBJECT.fullmatch(prefix)
    assert subjects.shard(7) == f"{prefix}.shard.7"
    assert subjects.read_shard(f"{prefix}.shard.7") == 7


@pytest.mark.parametrize("prefix", ["", ".", "a.", ".a", "a..b", "a b", "a.*", ">", "a\r\nPUB x 0", "ä", "a" * 257])
def test_such_prefixes_are_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix must be"):
        check_prefix(prefix)


@pytest.mark.parametrize("prefix", ["_INBOX", "_INBOX_alice", "_INBOX-7"])
def test_an_inbox_prefix_begins_as_every_node_expects(prefix: str) -> None:
    inbox = Subjects("clstr", check_inbox_prefix(prefix)).reply_to(7, 99)
    assert inbox.startswith(f"{prefix}.")
    assert is_inbox(inbox.encode())


@pytest.mark.parametrize("prefix", ["", "INBOX", "_INBOX.x", "_INBOX_*", "x_INBOX"])
def test_other_inbox_prefixes_are_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="inbox_prefix must be"):
        check_inbox_prefix(prefix)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "_INBOX",
        "_INBOX.",
        "_INBOX.*",
        "_INBOX.>",
        "_INBOX.a b",
        "_INBOX.a\r\nPUB x 0",
        "_INBOX.ä",
        "_INBOX." + "a" * 300,
        "clstr.shard.7",
        "$JS.ACK.stream.consumer.1.1.1.1.0",
        "_R_",
        "_R_.a",
        "_R_.a.*",
        "_R_.a.b.c.d",
        "_GR_.a.b.clstr.shard.7",
        "_GR_.a.b._INBOX",
        "x._INBOX.a",
    ],
)
def test_an_address_that_is_no_inbox_is_not_answered(address: str) -> None:
    assert not is_inbox(address.encode())


@pytest.mark.parametrize(
    "address", ["_INBOX.abcdefghijklmnopqrstuv", "_INBOX_alice.a.7_3", "_R_.mxYZB4.1RYvJz", "_GR_.Cjc.Ix2._INBOX.a.7_3"]
)
def test_an_inbox_of_go_or_of_ours_or_in_a_server_s_words_is_answered(address: str) -> None:
    assert is_inbox(address.encode())


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64))
def test_an_answer_s_address_says_what_it_answers(shard: int, token: int) -> None:
    subjects = Subjects("clstr", "_INBOX")
    assert subjects.read_reply_to(subjects.reply_to(shard, token).encode()) == (shard, token)


@pytest.mark.parametrize("rest", [b"", b"7", b"x_7", b"7_", b"_", b"-7_1", b"7_-1", b"+7_1", b" 7_1", b"7_1_1"])
def test_what_is_no_answer_of_ours_is_told_apart(rest: bytes) -> None:
    subjects = Subjects("clstr", "_INBOX")
    with pytest.raises(ValueError, match="not an address of ours"):
        subjects.read_reply_to(subjects.inbox[:-1].encode() + rest)


def test_every_peer_has_an_inbox_that_nobody_can_guess() -> None:
    inboxes = {Subjects("clstr", "_INBOX").inbox for _ in range(100)}
    assert len(inboxes) == 100
    assert all(re.fullmatch(r"_INBOX\.[0-9a-f]{32}\.\*", inbox) for inbox in inboxes)


@pytest.mark.parametrize("subject", ["", "clstr.shard.x", "clstr.shard.", "other.shard.7", "clstr.shard.7.8"])
def test_other_subjects_are_no_shard_s(subject: str) -> None:
    assert Subjects("clstr", "_INBOX").read_shard(subject) is None
