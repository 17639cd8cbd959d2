"""Limits: every bound has its default, its type and its range, from a keyword and from a URL alike."""

from __future__ import annotations

import dataclasses
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clstr._limits import LIMIT_NAMES, MAX_SECONDS, Limits, check_limit, check_seconds, parse_limit

SECONDS = {"handler_timeout", "drain_timeout", "reconnect_wait"}
MAY_BE_ZERO = {"max_queue", "drain_timeout", "reconnect_wait"}
every_limit = pytest.mark.parametrize("name", sorted(LIMIT_NAMES))


def test_the_defaults_are_those_of_the_contract() -> None:
    assert dataclasses.asdict(Limits()) == {
        "max_payload_bytes": 1024**2,
        "max_inflight_requests": 10_000,
        "max_inflight_bytes": 16 * 1024**2,
        "max_concurrent": 100,
        "max_queue": 1000,
        "max_queue_bytes": 64 * 1024**2,
        "handler_timeout": 30.0,
        "drain_timeout": 10.0,
        "reconnect_wait": 2.0,
    }


def test_the_names_are_those_of_the_limits() -> None:
    assert {field.name for field in dataclasses.fields(Limits)} == LIMIT_NAMES
    assert SECONDS | MAY_BE_ZERO <= LIMIT_NAMES


def test_limits_are_frozen_and_take_keywords_alone() -> None:
    limits = Limits(max_concurrent=2, handler_timeout=1)
    assert (limits.max_concurrent, limits.handler_timeout) == (2, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.max_queue = 3  # type: ignore[misc]  # frozen: that is the test
    with pytest.raises(TypeError):
        Limits(3)  # type: ignore[call-arg]  # keywords only: that is the test


@every_limit
def test_a_limit_that_is_no_number_is_a_type_error_that_names_the_kind(name: str) -> None:
    kind = "a number of seconds" if name in SECONDS else "an int"
    for value in ("5", None, True, [1], 1j):
        with pytest.raises(TypeError, match=f"^{name} must be {kind}, not "):
            Limits(**{name: value})  # type: ignore[arg-type]  # wrong on purpose


@every_limit
def test_only_seconds_may_have_a_fraction(name: str) -> None:
    if name in SECONDS:
        assert getattr(Limits(**{name: 0.5}), name) == 0.5  # type: ignore[arg-type]  # a dict hides the types
    else:
        with pytest.raises(TypeError, match=f"^{name} must be an int, not 5.0$"):
            check_limit(name, 5.0)


@every_limit
def test_a_limit_out_of_range_is_a_value_error_that_names_the_range(name: str) -> None:
    numbers: list[float] = [-1, -(10**400)]
    numbers += [math.nan, math.inf, -math.inf, -0.5] if name in SECONDS else []
    bound = "at least 0" if name in MAY_BE_ZERO else "above 0"
    for number in numbers:
        with pytest.raises(ValueError, match=f"^{name} must be finite and {bound}, not "):
            check_limit(name, number)


@every_limit
def test_zero_is_a_limit_only_where_it_means_something(name: str) -> None:
    if name in MAY_BE_ZERO:
        assert parse_limit(name, "0") == getattr(Limits(**{name: 0}), name) == 0
    else:
        with pytest.raises(ValueError, match=f"^{name} must be finite and above 0, not 0$"):
            check_limit(name, 0)


@every_limit
@pytest.mark.parametrize(
    "text", ["", "ten", "1e3", "inf", "nan", "1_000", " 5", "5 ", "+5", "0x10", "\u0665", "9" * 16]
)
def test_a_url_parameter_that_is_no_plain_number_is_refused(name: str, text: str) -> None:
    kind = "a number of seconds" if name in SECONDS else "an integer"
    with pytest.raises(ValueError, match=f"^{name} must be {kind}, not '") as caught:
        parse_limit(name, text)
    assert len(str(caught.value)) < 120


@every_limit
def test_a_url_parameter_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be finite and .* 0, not -1"):
        parse_limit(name, "-1")


@every_limit
def test_a_url_parameter_has_the_type_of_its_limit(name: str) -> None:
    value = parse_limit(name, "12")
    assert value == 12
    assert type(value) is (float if name in SECONDS else int)


def test_only_seconds_may_have_a_fraction_in_a_url() -> None:
    assert parse_limit("handler_timeout", "2.5") == 2.5
    with pytest.raises(ValueError, match=r"^max_queue must be an integer, not '2\.5'$"):
        parse_limit("max_queue", "2.5")


@every_limit
def test_a_limit_too_large_is_a_value_error_that_names_the_largest(name: str) -> None:
    largest = MAX_SECONDS if name in SECONDS else 2**63 - 1
    check_limit(name, largest)
    for number in (largest + 1, 10**400):
        with pytest.raises(ValueError, match=f"^{name} must be at most {largest}, not {number}$"):
            check_limit(name, number)


@given(st.floats(min_value=0, max_value=MAX_SECONDS, exclude_min=True) | st.integers(1, MAX_SECONDS))
def test_finite_seconds_above_zero_are_returned(value: float) -> None:
    assert check_seconds("timeout", value) == value


@pytest.mark.parametrize("value", [0, 0.0, -0.0, -1, -1e-9, math.nan, math.inf, -math.inf, -(10**400)])
def test_seconds_that_are_zero_negative_or_not_finite_are_a_value_error(value: float) -> None:
    with pytest.raises(ValueError, match=r"^timeout must be finite and above 0 seconds, not "):
        check_seconds("timeout", value)


@pytest.mark.parametrize("value", ["5", None, True, False, b"5", [5], 5j], ids=repr)
def test_seconds_that_are_no_number_are_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match=r"^ttl must be a number of seconds, not "):
        check_seconds("ttl", value)


@pytest.mark.parametrize("value", [MAX_SECONDS + 1, sys.float_info.max, 10**400])
def test_more_seconds_than_a_year_has_are_a_mistake(value: float) -> None:
    with pytest.raises(ValueError, match=rf"^timeout must be at most {MAX_SECONDS} seconds, a year, not "):
        check_seconds("timeout", value)
