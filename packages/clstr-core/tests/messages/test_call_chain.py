"""Names on call chains: short ones as they are, long ones told from one another all the same."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clstr._limits import MAX_CHAIN_BYTES, MAX_CHAIN_KEYS
from clstr._messages.call_chain import (
    MAX_NAME_BYTES,
    CallIds,
    chain_name,
    describe,
    extend,
    is_name_of,
    latest_call,
    new_call,
)


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


def test_as_many_calls_as_there_may_be_fit_whatever_their_names() -> None:
    ids, chain = CallIds(), list[str]()
    for number in range(MAX_CHAIN_KEYS + 1):
        chain = extend(chain, new_call(f"{number:02} " + "x" * 600, ids))
    assert [name[:2] for name in chain] == [f"{number:02}" for number in range(1, MAX_CHAIN_KEYS + 1)]
    assert sum(len(call.encode()) for call in chain) <= MAX_CHAIN_BYTES


def test_longer_names_of_other_implementations_are_forgotten_oldest_first() -> None:
    long = "x" * (MAX_CHAIN_BYTES // 2)
    assert extend((long, long), "a#1") == [long, "a#1"]


def test_ids_are_drawn_in_batches_and_each_is_given_once() -> None:
    draws: list[int] = []

    def draw(count: int) -> bytes:
        draws.append(count)
        return os.urandom(count)

    ids = CallIds(draw)
    drawn = {ids.new() for _ in range(600)}
    assert len(drawn) == 600
    assert {len(each) for each in drawn} == {12}
    assert draws == [9 * 256] * 3  # 72 bits for each: nobody guesses one


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.lists(st.text()))
def test_a_call_is_found_by_the_name_of_its_handler_alone(name: str, later: list[str]) -> None:
    ids = CallIds()
    call = new_call(name, ids)
    after = [new_call("another " + each, ids) for each in later]
    assert latest_call([new_call(name, ids), call, *after], name) == call
    assert latest_call(after, name) is None or name.startswith("another ")


def test_a_name_that_holds_the_separator_is_no_call_of_another() -> None:
    assert latest_call(["a#b#1"], "a") is None
    assert latest_call(["a#b#1"], "a#b") == "a#b#1"
    assert latest_call(["a", "a~1", "#1", ""], "a") is None


def test_a_chain_is_described_without_ids() -> None:
    assert describe(["Account:a#b#1", "foreign", "Audit:c#2"], "x" * 600) == (
        f"Account:a#b -> foreign -> Audit:c -> {chain_name('x' * 600)}"
    )


@pytest.mark.parametrize(
    ("name", "key", "is_of_it"),
    [
        ("Account:ada", "ada", True),
        ("a:b:c", "c", True),
        ("a:b:c", "b:c", True),
        ("ada", "ada", False),
        ("Account:ada", "da", False),
        (chain_name("Account:" + 99 * "x"), 99 * "x", True),
        (chain_name("Account:" + 99 * "x"), 98 * "x", False),
    ],
)
def test_a_name_tells_the_key_of_its_actor(name: str, key: str, is_of_it: bool) -> None:
    assert is_name_of(name, key) is is_of_it
