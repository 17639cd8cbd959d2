"""`clstr._text`: what steers a terminal or a log is escaped, and nothing else."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clstr._text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("user 7 not found", "user 7 not found"),
        (
            "Zu wenig Guthaben: 5\xa0€, \u3000\U0001f469\u200d\U0001f680",
            "Zu wenig Guthaben: 5\xa0€, \u3000\U0001f469\u200d\U0001f680",
        ),
        ("paid\n2026 INFO all is well", r"paid\n2026 INFO all is well"),
        ("a\tb\r\x00\x7f\x85", r"a\tb\r\x00\x7f\x85"),
        ("\x1b[2J\x9b2J", r"\x1b[2J\x9b2J"),
        ("invoice\u202efdp.exe\u2066\u200f\u061c", r"invoice\u202efdp.exe\u2066\u200f\u061c"),
        ("one\u2028two\u2029", r"one\u2028two\u2029"),
        ("half a pair: \ud83d", r"half a pair: \ud83d"),
        (r"C:\new", r"C:\new"),
    ],
)
def test_what_steers_is_escaped_and_what_is_shown_is_not(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_what_a_program_reads_may_keep_its_lines() -> None:
    assert printable("one\n\ttwo\x1b", keep="\n\t") == "one\n\ttwo\\x1b"


@given(st.text(st.characters(exclude_categories=[])))
def test_nothing_that_is_left_steers_and_escaping_twice_is_escaping_once(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(each) in {"Cc", "Cs", "Zl", "Zp"} for each in shown)
    assert not any(
        unicodedata.bidirectional(each) in {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
        for each in shown
    )
    assert printable(shown) == shown
    shown.encode()
