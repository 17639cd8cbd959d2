"""Names on call chains: short ones as they are, long ones told from one another all the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clstr._chain import MAX_NAME_BYTES, chain_name, extend
from clstr._limits import MAX_CHAIN_BYTES, MAX_CHAIN_KEYS


def test_a_short_name_stands_for_itself_and_a_long_one_is_shortened_to_a_prefix_and_a_digest() -> None:
    assert chain_name("Account:ada") == "Account:ada"
    assert chain_name("x" * MAX_NAME_BYTES) == "x" * MAX_NAME_BYTES
    assert chain_name("Account:" + "x" * 600) == "Account:xxxxxxxxxxxxxxxxxxxxxxx~605156a62cb7bd0e"


@given(st.text(st.characters(exclude_categories=[]), max_size=200))
def test_every_name_fits_and_its_short_form_stands_for_itself(name: str) -> None:
    short = chain_name(name)
    assert len(short.encode("utf-8", "surrogatepass")) <= MAX_NAME_BYTES
    assert chain_name(short) == short


def test_long_names_that_differ_at_their_end_differ() -> None:
    assert chain_name("x" * 600 + "1") != chain_name("x" * 600 + "2")


def test_as_many_names_as_there_may_be_fit_whatever_their_length() -> None:
    assert MAX_CHAIN_KEYS * MAX_NAME_BYTES <= MAX_CHAIN_BYTES
    chain: list[str] = []
    for number in range(MAX_CHAIN_KEYS + 1):
        chain = extend(chain, f"{number:02} " + "x" * 600)
    assert [name[:2] for name in chain] == [f"{number:02}" for number in range(1, MAX_CHAIN_KEYS + 1)]


def test_a_message_without_a_key_adds_nothing() -> None:
    assert extend(("a", "b"), None) == ["a", "b"]
    assert extend(("a", "b"), "") == ["a", "b"]


def test_longer_names_of_other_implementations_are_forgotten_oldest_first() -> None:
    long = "x" * (MAX_CHAIN_BYTES // 2)
    assert extend((long, long), "a") == [long, "a"]
