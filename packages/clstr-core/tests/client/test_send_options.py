"""`clstr._client.send_options`: what a message is sent with, and the checks of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clstr._client.send_options import SendOptions
from clstr._limits import MAX_TTL_MS
from clstr.errors import InvalidEnvelopeError, ReservedHeaderError

DEFAULTS = SendOptions.of(None, None, 5.0)


def test_nothing_given_keeps_the_options() -> None:
    options = SendOptions.of({"a": "1"}, 2.0, 3.0)
    assert options == SendOptions(headers={"a": "1"}, ttl_ms=2000, timeout=3.0)
    assert options.override(None, None, None) is options


def test_what_is_given_takes_the_place_of_what_was() -> None:
    options = SendOptions.of({"a": "1", "b": "2"}, 2.0, 3.0)
    changed = options.override({"b": "3"}, 4.0, 6.0)
    assert changed == SendOptions(headers={"a": "1", "b": "3"}, ttl_ms=4000, timeout=6.0)
    assert options.headers == {"a": "1", "b": "2"}


def test_headers_are_copied() -> None:
    headers = {"a": "1"}
    options = DEFAULTS.override(headers, None, None)
    headers["a"] = "2"
    assert options.headers == {"a": "1"}


@given(st.floats(min_value=0, max_value=MAX_TTL_MS / 1000, exclude_min=True))
def test_a_ttl_is_rounded_up_to_milliseconds_and_never_becomes_none(ttl: float) -> None:
    ttl_ms = DEFAULTS.override(None, ttl, None).ttl_ms
    assert ttl_ms >= 1
    assert ttl * 1000 <= ttl_ms <= ttl * 1000 + 1


@pytest.mark.parametrize("seconds", [0, 0.0, -1, -0.001, math.inf, -math.inf, math.nan], ids=str)
@pytest.mark.parametrize("name", ["ttl", "timeout"])
def test_seconds_must_be_finite_and_above_zero(name: str, seconds: float) -> None:
    options: dict[str, Any] = {"headers": None, "ttl": None, "timeout": None, name: seconds}
    with pytest.raises(ValueError, match=f"{name} must be finite and above 0"):
        DEFAULTS.override(**options)
    with pytest.raises(ValueError, match=f"{name} must be finite and above 0"):
        SendOptions.of(**(options | {"timeout": options["timeout"] or (5.0 if name == "ttl" else seconds)}))


@pytest.mark.parametrize("seconds", ["1", True, b"1", [1]], ids=repr)
@pytest.mark.parametrize("name", ["ttl", "timeout"])
def test_seconds_must_be_a_number(name: str, seconds: Any) -> None:
    options: dict[str, Any] = {"headers": None, "ttl": None, "timeout": None, name: seconds}
    with pytest.raises(TypeError, match=f"{name} must be a number of seconds"):
        DEFAULTS.override(**options)


@pytest.mark.parametrize("ttl", [MAX_TTL_MS / 1000 + 1, 1e308, 10**20], ids=["a second more", "a float", "an int"])
def test_a_ttl_of_more_than_a_year_is_a_mistake(ttl: float) -> None:
    with pytest.raises(ValueError, match="ttl must be at most 31622400 seconds, a year"):
        DEFAULTS.override(None, ttl, None)


@pytest.mark.parametrize("name", ["x-clstr-key", "x-clstr-chain", "X-Clstr-Key", "X-CLSTR-", "x-clstr-"])
def test_reserved_headers_are_refused_in_any_case(name: str) -> None:
    with pytest.raises(ReservedHeaderError) as caught:
        DEFAULTS.override({name: "1"}, None, None)
    assert caught.value.header == name


@pytest.mark.parametrize(
    "headers",
    [
        {"a\n": "1"},
        {"a": "1\r"},
        {"a": "\ud800"},
        {"": "1"},
        {1: "1"},
        {"a": 1},
        {"a": None},
        {"a": "x" * 9000},
        {str(number): "" for number in range(65)},
    ],
    ids=["name", "value", "surrogate", "empty", "name type", "value type", "none", "too large", "too many"],
)
def test_malformed_headers_are_refused(headers: Any) -> None:
    with pytest.raises(InvalidEnvelopeError, match="header"):
        DEFAULTS.override(headers, None, None)


@pytest.mark.parametrize("headers", [[("a", "1")], "a", 1, []], ids=repr)
def test_headers_must_be_a_mapping(headers: Any) -> None:
    with pytest.raises(TypeError, match="headers must be a mapping"):
        DEFAULTS.override(headers, None, None)
