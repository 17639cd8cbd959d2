"""Envelopes: every field has its type and its bounds, headers are text and never reserved, the TTL runs."""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clstr._limits import MAX_HEADER_BYTES, MAX_HEADERS, MAX_TTL_MS, MAX_TYPE_CHARACTERS
from clstr._messages.envelope import KEY_HEADER, Envelope, has_control_characters
from clstr.errors import InvalidEnvelopeError, ReservedHeaderError

CONTROLS = ["\0", "\n", "\r", "\t", "\x1b", "\x1f", "\x7f", "\x80", "\x85", "\x9f", "\ud800", "\udfff"]
clean_text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)
header_names = clean_text.filter(lambda name: name != "" and not name.lower().startswith("x-clstr-"))


def envelope(**fields: Any) -> Envelope:
    """Make an envelope for shard 1, with some fields as the test wants them."""
    return Envelope(**{"shard": 1, "type": "t", **fields})


# Its parts


def test_an_envelope_has_the_defaults_of_the_reference() -> None:
    message = Envelope(shard=3, type="GetUser")
    assert (message.data, message.headers, message.ttl_ms, message.created_at_ms) == (b"", {}, 0, 0)
    assert (message.key, message.get_header("a"), message.ttl(), message.expired()) == (None, None, None, False)


def test_an_envelope_is_frozen_and_takes_keywords_alone() -> None:
    with pytest.raises(AttributeError):
        envelope().shard = 2  # type: ignore[misc]  # frozen: that is the test
    with pytest.raises(TypeError):
        Envelope(1, "t")  # type: ignore[call-arg]  # keywords only: that is the test


def test_headers_are_copied_in() -> None:
    headers = {"a": "1"}
    message = envelope(headers=headers)
    headers["a"] = "2"
    headers["b"] = "3"
    assert message.headers == {"a": "1"}


def test_headers_may_be_any_mapping() -> None:
    message = envelope(headers=MappingProxyType({"a": "1"}))
    message.validate()
    assert message.headers == {"a": "1"}
    assert envelope(headers=MappingProxyType({})).headers == {}


@pytest.mark.parametrize("headers", [None, "", "ab", 0, 5, [("a", "b")], {"a"}, b""], ids=repr)
def test_headers_that_are_no_mapping_are_refused_at_once(headers: object) -> None:
    kind = type(headers).__name__
    with pytest.raises(
        InvalidEnvelopeError, match=f"^invalid envelope: headers must be a mapping of str to str, not {kind}$"
    ):
        envelope(headers=headers)


def test_two_envelopes_without_headers_share_nothing() -> None:
    first, second = envelope(), envelope()
    assert first.headers is not second.headers


def test_headers_are_found_by_their_exact_name() -> None:
    message = envelope(headers={"Trace-Id": "abc", KEY_HEADER: "user-1"})
    assert message.get_header("Trace-Id") == "abc"
    assert message.get_header("trace-id") is None
    assert message.key == message.get_header("x-clstr-key") == "user-1"


def test_a_replaced_field_leaves_the_others() -> None:
    message = envelope(headers={"a": "1"}, data=b"x")
    assert msgspec.structs.replace(message, shard=9) == envelope(shard=9, headers={"a": "1"}, data=b"x")


# TTL


@pytest.mark.parametrize(
    ("ttl_ms", "created_at_ms", "now_ms", "ttl"),
    [
        (0, 0, 10_000, None),
        (0, 1000, 10_000, None),
        (500, 0, 10_000, 0.5),
        (500, 1000, 1000, 0.5),
        (500, 1000, 1001, 0.499),
        (500, 1000, 1499, 0.001),
        (500, 1000, 1500, 0),
        (500, 1000, 99_999, 0),
    ],
)
def test_the_ttl_runs_from_the_stamp(ttl_ms: int, created_at_ms: int, now_ms: int, ttl: float | None) -> None:
    message = envelope(ttl_ms=ttl_ms, created_at_ms=created_at_ms)
    assert message.ttl(now_ms) == ttl
    assert message.expired(now_ms) is (ttl == 0)


def test_the_ttl_is_read_off_this_process_s_clock() -> None:
    now_ms = time.time_ns() // 1_000_000
    fresh, old = envelope(ttl_ms=60_000, created_at_ms=now_ms), envelope(ttl_ms=1, created_at_ms=now_ms - 60_000)
    left = fresh.ttl()
    assert left is not None
    assert 0 < left <= 60
    assert not fresh.expired()
    assert old.expired()
    assert old.ttl() == 0


@given(st.integers(0, MAX_TTL_MS), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_what_is_left_is_never_negative(ttl_ms: int, created_at_ms: int, now_ms: int) -> None:
    message = envelope(ttl_ms=ttl_ms, created_at_ms=created_at_ms)
    left = message.ttl(now_ms)
    assert left is None if ttl_ms == 0 else left is not None and left >= 0
    assert message.expired(now_ms) is (left == 0)


# What is valid


@given(
    st.builds(
        Envelope,
        shard=st.integers(0, 2**32 - 1),
        type=clean_text,
        data=st.binary(),
        headers=st.dictionaries(header_names | st.just(KEY_HEADER), clean_text, max_size=5),
        ttl_ms=st.integers(0, MAX_TTL_MS),
        created_at_ms=st.integers(0, 2**63 - 1),
    )
)
def test_fields_within_their_bounds_are_valid(message: Envelope) -> None:
    message.validate()


def test_the_bounds_themselves_are_valid() -> None:
    headers = {f"{number:04}": "v" * (MAX_HEADER_BYTES // MAX_HEADERS - 4) for number in range(MAX_HEADERS)}
    assert sum(len(name) + len(value) for name, value in headers.items()) == MAX_HEADER_BYTES
    Envelope(
        shard=2**32 - 1,
        type="t" * MAX_TYPE_CHARACTERS,
        headers=headers,
        ttl_ms=MAX_TTL_MS,
        created_at_ms=2**63 - 1,
    ).validate()


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"shard": -1}, "shard", "must be between 0 and 4294967295, not -1"),
        ({"shard": 2**32}, "shard", "must be between 0 and 4294967295, not 4294967296"),
        ({"shard": "1"}, "shard", "must be an int, not '1'"),
        ({"shard": 1.0}, "shard", "must be an int, not 1.0"),
        ({"shard": True}, "shard", "must be an int, not True"),
        ({"shard": None}, "shard", "must be an int, not None"),
        ({"type": None}, "type", "must be a str, not NoneType"),
        ({"type": b"t"}, "type", "must be a str, not bytes"),
        ({"type": "t" * 257}, "type", "has 257 characters, at most 256 are allowed"),
        ({"type": "a\nb"}, "type", r"'a\nb' holds control characters"),
        ({"data": "text"}, "data", "must be bytes, not str"),
        ({"data": None}, "data", "must be bytes, not NoneType"),
        ({"data": bytearray(b"x")}, "data", "must be bytes, not bytearray"),
        ({"data": memoryview(b"x")}, "data", "must be bytes, not memoryview"),
        ({"ttl_ms": -1}, "ttl_ms", f"must be between 0 and {MAX_TTL_MS}, not -1"),
        ({"ttl_ms": MAX_TTL_MS + 1}, "ttl_ms", f"must be between 0 and {MAX_TTL_MS}, not {MAX_TTL_MS + 1}"),
        ({"ttl_ms": 0.5}, "ttl_ms", "must be an int, not 0.5"),
        ({"ttl_ms": float("nan")}, "ttl_ms", "must be an int, not nan"),
        ({"ttl_ms": float("inf")}, "ttl_ms", "must be an int, not inf"),
        ({"created_at_ms": -1}, "created_at_ms", f"must be between 0 and {2**63 - 1}, not -1"),
        ({"created_at_ms": 2**63}, "created_at_ms", f"must be between 0 and {2**63 - 1}, not {2**63}"),
    ],
)
def test_a_wrong_field_is_named_with_what_it_must_be(fields: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidEnvelopeError) as caught:
        envelope(**fields).validate()
    assert (caught.value.field, caught.value.reason) == (field, reason)
    assert str(caught.value) == f"invalid envelope: {field} {reason}"
    assert not caught.value.maybe_executed


@pytest.mark.parametrize("character", CONTROLS, ids=ascii)
def test_control_characters_are_refused_in_the_type(character: str) -> None:
    with pytest.raises(InvalidEnvelopeError, match=r"type '.*' holds control characters"):
        envelope(type=f"a{character}b").validate()


# Headers


@pytest.mark.parametrize("character", CONTROLS, ids=ascii)
def test_control_characters_are_refused_in_header_names_and_values(character: str) -> None:
    for header in ({f"a{character}": "v"}, {"a": f"v{character}"}, {KEY_HEADER: f"{character}v"}):
        with pytest.raises(InvalidEnvelopeError, match=r"headers hold control characters in '.*' or its value: encode"):
            envelope(headers={"fine": "fine", **header}).validate()


def test_the_header_with_control_characters_is_named_and_its_value_is_not_shown() -> None:
    with pytest.raises(InvalidEnvelopeError) as caught:
        envelope(headers={"fine": "v", "auth": "secret\n", "other": "v"}).validate()
    assert "'auth'" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("headers", [{1: "v"}, {b"a": "v"}, {"a": 1}, {"a": None}, {"a": b"v"}, {None: None}], ids=repr)
def test_headers_that_are_not_text_are_refused(headers: dict[Any, Any]) -> None:
    with pytest.raises(InvalidEnvelopeError, match=r"^invalid envelope: headers must map str to str$"):
        envelope(headers=headers).validate()


def test_too_many_headers_are_refused_with_their_number_and_the_bound() -> None:
    headers = {str(number): "" for number in range(MAX_HEADERS + 1)}
    with pytest.raises(InvalidEnvelopeError, match="headers are 65, at most 64 are allowed"):
        envelope(headers=headers).validate()


@pytest.mark.parametrize(
    ("headers", "size"),
    [
        ({"a": "v" * MAX_HEADER_BYTES}, MAX_HEADER_BYTES + 1),
        ({"n" * (MAX_HEADER_BYTES + 1): ""}, MAX_HEADER_BYTES + 1),
        ({"a": "\xe4" * (MAX_HEADER_BYTES // 2)}, MAX_HEADER_BYTES + 1),
        ({str(number): "v" * 1000 for number in range(9)}, 9009),
    ],
    ids=["value", "name", "bytes of UTF-8", "sum"],
)
def test_too_large_headers_are_refused_with_their_bytes_and_the_bound(headers: dict[str, str], size: int) -> None:
    with pytest.raises(InvalidEnvelopeError, match=f"headers have {size} bytes, at most 8192 are allowed"):
        envelope(headers=headers).validate()


def test_an_empty_header_name_is_refused_and_an_empty_value_is_not() -> None:
    envelope(headers={"a": ""}).validate()
    with pytest.raises(InvalidEnvelopeError, match="headers hold an empty name"):
        envelope(headers={"a": "", "": "v"}).validate()


@pytest.mark.parametrize(
    "name",
    [
        "x-clstr-",
        "x-clstr-other",
        "X-CLSTR-KEY",
        "X-Clstr-Key",
        "x-clstr-Key",
        "x-clstr-key ",
        "x-clstr-keys",
        "x-ClStR-é",
    ],
)
def test_a_reserved_header_is_refused_in_any_case_and_named(name: str) -> None:
    with pytest.raises(ReservedHeaderError, match=f"^cannot set reserved header '{name}': .* clstr's own$") as caught:
        envelope(headers={"a": "v", KEY_HEADER: "k", name: "v"}).validate()
    assert caught.value.header == name


@pytest.mark.parametrize("name", ["x-clstr", "clstr-key", "my-x-clstr-key", "x_clstr_key", "x-clustr-key"])
def test_a_header_that_only_resembles_a_reserved_one_is_valid(name: str) -> None:
    envelope(headers={name: "v"}).validate()


@given(
    st.sampled_from(["x-clstr-"]).flatmap(lambda prefix: st.tuples(*[st.sampled_from([c, c.upper()]) for c in prefix])),
    clean_text,
)
@example(tuple("x-clstr-"), "ke")
def test_any_spelling_of_the_prefix_is_reserved(prefix: tuple[str, ...], rest: str) -> None:
    name = "".join(prefix) + rest
    if name != KEY_HEADER:
        with pytest.raises(ReservedHeaderError):
            envelope(headers={name: "v"}).validate()


@given(st.dictionaries(st.text(st.characters(), max_size=10), st.text(st.characters(), max_size=10), max_size=4))
def test_any_headers_are_valid_or_refused_by_our_own_errors(headers: dict[str, str]) -> None:
    try:
        envelope(headers=headers).validate()
    except (InvalidEnvelopeError, ReservedHeaderError):
        return
    text = "".join((*headers, *headers.values()))
    assert text.encode().decode() == text
    assert not has_control_characters(text)
    assert "" not in headers


# Control characters


@pytest.mark.parametrize("character", CONTROLS, ids=ascii)
def test_controls_and_lone_surrogates_are_control_characters(character: str) -> None:
    assert has_control_characters(character)
    assert has_control_characters(f"text{character}text")


@pytest.mark.parametrize(
    "text",
    ["", "text", " ", "\xa0", "\xad", "\u2028", "\u200b", "\ue000", "\U0001f600", "\U000e0001", "\u00e4"],
    ids=ascii,
)
def test_what_is_merely_unprintable_is_no_control_character(text: str) -> None:
    assert not has_control_characters(text)
