"""Errors on the wire: type, text, facts and proof survive both codecs, Go's texts have types, any frame is an error."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clstr import errors
from clstr._limits import MAX_ERROR_BYTES
from clstr._messages.error_wire import clip, decode_error, encode_error
from clstr._messages.wire import CODECS, Codec, ReplyFrame, decode_reply
from clstr._text import printable
from clstr.errors import ClstrError, Fact, HandlerError

SAMPLES: list[ClstrError] = [
    errors.TransportClosedError(),
    errors.NoShardSubscriberError(7),
    errors.NotOwnerError(7),
    errors.DrainingError(7),
    errors.OverloadedError("max_queue", 1000),
    errors.EnvelopeExpiredError(7, 0.25),
    errors.HandlerTimeoutError(7, 30.0),
    errors.HandlerError("KeyError", "'x'"),
    errors.CallCycleError("a -> b -> a"),
    errors.InvalidEnvelopeError("type", "has 257 characters"),
    errors.ReservedHeaderError("x-clstr-<é>"),
    errors.KeyRequiredError(),
    errors.MissingKeyHeaderError(),
    errors.UnknownMessageError("Get", "Put, Set"),
    errors.PayloadTooLargeError(11, 10),
    errors.PayloadTooLargeError(11, 10, is_reply=True),
]
CODES = {error.code for error in SAMPLES}
FACTS = {name for error in SAMPLES for name in error.facts}
both_codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
codecs = st.sampled_from(list(CODECS.values()))

GO_TEXTS = {
    "no subscriber for shard": errors.NoShardSubscriberError,
    "transport closed": errors.TransportClosedError,
    "envelope TTL expired": errors.EnvelopeExpiredError,
    "cannot set reserved header": errors.ReservedHeaderError,
    "handler exceeded deadline": errors.HandlerTimeoutError,
    "key is required": errors.KeyRequiredError,
    "missing x-clstr-key header": errors.MissingKeyHeaderError,
    "no handler registered": errors.UnknownMessageError,
}


def travel(error: ClstrError, codec: Codec) -> ClstrError:
    """Return what the caller gets when a node answers with ``error``."""
    return decode_error(decode_reply(encode_error(codec, error)))


def shown(fact: str) -> str:
    """Return a fact as it arrives: programs may read its lines."""
    return printable(fact, keep="\n\t")


def details(**facts: Any) -> dict[str, Fact]:
    """Return facts as a peer may send them, whatever their types."""
    return facts


# There and back


def test_every_error_with_a_code_has_a_sample() -> None:
    every = [getattr(errors, name) for name in errors.__all__]
    assert {kind for kind in every if kind.code} == {type(error) for error in SAMPLES}


@both_codecs
@pytest.mark.parametrize("maybe_executed", [True, False])
@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: f"{error.code}-{error.maybe_executed}")
def test_an_error_survives_with_type_text_facts_and_proof(
    error: ClstrError, maybe_executed: bool, codec: Codec
) -> None:
    error = type(error).restore(str(error), {**error.details(), "maybe_executed": maybe_executed})
    arrived = travel(error, codec)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert arrived.details() == error.details()
    assert {name: type(fact) for name, fact in arrived.details().items()} == error.facts
    assert arrived.maybe_executed is maybe_executed


@given(codecs, st.text(), st.text())
def test_any_text_survives_up_to_its_bound(codec: Codec, field: str, reason: str) -> None:
    error = errors.InvalidEnvelopeError(field, reason)
    arrived = travel(error, codec)
    assert isinstance(arrived, errors.InvalidEnvelopeError)
    assert (arrived.field, arrived.reason) == (shown(clip(field)), shown(clip(reason)))
    assert str(arrived) == clip(str(error))


@both_codecs
def test_text_that_steers_a_terminal_or_a_log_arrives_escaped(codec: Codec) -> None:
    arrived = travel(HandlerError("ValueError", "gone\x1b[2J\n2026 INFO paid \u202e"), codec)
    assert isinstance(arrived, HandlerError)
    assert str(arrived) == r"ValueError: gone\x1b[2J\n2026 INFO paid \u202e"
    assert arrived.error_message == "gone\\x1b[2J\n2026 INFO paid \\u202e"


@both_codecs
def test_text_and_facts_are_cut_to_1_kib(codec: Codec) -> None:
    arrived = travel(HandlerError("KeyError", "x" * 100_000), codec)
    assert isinstance(arrived, HandlerError)
    assert str(arrived) == "KeyError: " + "x" * (MAX_ERROR_BYTES - 20) + " ... (cut)"
    assert arrived.error_message == "x" * (MAX_ERROR_BYTES - 10) + " ... (cut)"


@both_codecs
def test_a_subclass_arrives_as_the_error_whose_code_it_inherits(codec: Codec) -> None:
    class CacheFullError(errors.OverloadedError):
        pass

    arrived = travel(CacheFullError("cache_size", 3), codec)
    assert type(arrived) is errors.OverloadedError
    assert (arrived.limit, arrived.bound, arrived.maybe_executed) == ("cache_size", 3, False)


@both_codecs
def test_an_error_without_a_code_arrives_as_the_text_of_a_handler_error(codec: Codec) -> None:
    """Text proves nothing, so the caller must not believe that the handler did not run."""
    arrived = travel(errors.TransportUnavailableError("the database is down"), codec)
    assert type(arrived) is HandlerError
    assert str(arrived) == "the database is down"
    assert arrived.maybe_executed


@both_codecs
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ClstrError(""), "ClstrError"),
        (errors.CallCycleError.restore("", {"chain": ""}), "CallCycleError"),
        (errors.KeyRequiredError(""), "key is required"),
    ],
    ids=["without code", "with code", "with a text of Go"],
)
def test_an_error_without_text_is_no_success(codec: Codec, error: ClstrError, text: str) -> None:
    frame = decode_reply(encode_error(codec, error))
    assert frame.err == text
    assert str(decode_error(frame)) == text


@both_codecs
@pytest.mark.parametrize(("text", "kind"), GO_TEXTS.items())
def test_what_a_go_caller_reads_begins_with_the_text_that_go_has_for_it(
    text: str, kind: type[ClstrError], codec: Codec
) -> None:
    usual = next(error for error in SAMPLES if type(error) is kind)
    own_words = kind.restore("in other words", usual.details())
    assert str(usual).startswith(text)
    assert decode_reply(encode_error(codec, usual)).err == str(usual)
    assert decode_reply(encode_error(codec, own_words)).err == f"{text}: in other words"


@both_codecs
@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"limit": None, "bound": None},
        {"limit": 5, "bound": "5"},
        {"limit": b"x", "bound": 2**64},
        {"limit": [], "bound": object()},
    ],
)
def test_facts_that_nobody_could_read_become_zero_values(codec: Codec, facts: dict[str, Any]) -> None:
    """A handler may refuse with an error of its own making; its caller shall have an answer all the same."""
    arrived = travel(errors.OverloadedError.restore("full", {"limit": "", "bound": 0, **facts}), codec)
    assert isinstance(arrived, errors.OverloadedError)
    assert (str(arrived), arrived.limit, arrived.bound) == ("full", "", 0)


@both_codecs
@pytest.mark.parametrize("timeout", [math.inf, -math.inf, math.nan, 10**400, 2**63, "1", True, None])
def test_seconds_that_json_cannot_carry_become_zero(codec: Codec, timeout: Any) -> None:
    error = errors.HandlerTimeoutError.restore("late", {"shard": 1, "timeout": timeout})
    arrived = travel(error, codec)
    assert isinstance(arrived, errors.HandlerTimeoutError)
    assert (type(arrived.timeout), arrived.timeout) == (float, 0.0)


# What peers send


@pytest.mark.parametrize(
    ("sent", "shard", "ttl"),
    [
        (details(shard=7, ttl=0.5), 7, 0.5),
        (details(shard=7, ttl=2), 7, 2.0),
        (details(), 0, 0.0),
        (details(shard="7", ttl="0.5"), 0, 0.0),
        (details(shard=7.0, ttl=True), 0, 0.0),
        (details(shard=True, ttl=math.inf), 0, 0.0),
        (details(shard=10**400, ttl=10**400), 0, 0.0),
        (details(shard=7, ttl=0.5, other="ignored", maybe_executed=False, args="x"), 7, 0.5),
    ],
)
def test_facts_have_the_declared_types_whatever_a_peer_sends(sent: dict[str, Fact], shard: int, ttl: float) -> None:
    error = decode_error(ReplyFrame(err="late", code="expired", details=sent))
    assert isinstance(error, errors.EnvelopeExpiredError)
    assert (error.shard, error.ttl, error.args) == (shard, ttl, ("late",))
    assert (type(error.shard), type(error.ttl)) == (int, float)
    assert error.maybe_executed
    assert set(error.__dict__) == {"shard", "ttl", "maybe_executed"}


@pytest.mark.parametrize(("executed", "maybe_executed"), [(None, True), (True, True), (False, False)])
@pytest.mark.parametrize("code", sorted(CODES))
def test_only_a_peer_that_says_so_proves_that_the_handler_did_not_run(
    code: str, executed: bool | None, maybe_executed: bool
) -> None:
    error = decode_error(ReplyFrame(err="text", code=code, executed=executed))
    assert error.code == code
    assert error.maybe_executed is maybe_executed


@pytest.mark.parametrize(("executed", "maybe_executed"), [(None, True), (True, True), (False, False)])
def test_an_unknown_code_of_a_later_version_keeps_its_text_and_proof(
    executed: bool | None, maybe_executed: bool
) -> None:
    frame = ReplyFrame(err="too hot", code="melting", details=details(error_type="x", degrees=99), executed=executed)
    error = decode_error(frame)
    assert isinstance(error, HandlerError)
    assert (str(error), error.error_type, error.error_message) == ("too hot", "", "too hot")
    assert error.maybe_executed is maybe_executed


def test_a_handler_error_without_facts_has_the_text_alone() -> None:
    error = decode_error(ReplyFrame(err="text", code="handler_error"))
    assert isinstance(error, HandlerError)
    assert (str(error), error.error_type, error.maybe_executed) == ("text", "", True)


def test_text_of_a_peer_that_keeps_no_bound_is_cut() -> None:
    for frame in (
        ReplyFrame(err="x" * 5000),
        ReplyFrame(err="x" * 5000, code="melting"),
        ReplyFrame(err="x" * 5000, code="call_cycle", details=details(chain="x" * 5000)),
        ReplyFrame(err="transport closed: " + "x" * 5000),
    ):
        error = decode_error(frame)
        assert len(str(error)) == MAX_ERROR_BYTES
        assert all(len(str(fact)) <= MAX_ERROR_BYTES for fact in error.details().values())


# Text of Go peers


@pytest.mark.parametrize(("text", "kind"), GO_TEXTS.items())
def test_a_text_of_go_has_the_type_that_it_names_and_proves_nothing(text: str, kind: type[ClstrError]) -> None:
    error = decode_error(ReplyFrame(err=text))
    assert type(error) is kind
    assert str(error) == text
    assert error.maybe_executed
    assert error.details() == {name: type_() for name, type_ in kind.facts.items()}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "user not found",
        "failed to send message to actor: actor stopped",
        "failed to send message to actor: send failed: context deadline exceeded",
        "failed to send message to actor: context canceled",
        "failed to send message to actor: no handler for msg: msg_type=. go_type=[]uint8 msg=[1]",
        "cluster: shard 999 out of range (numShards=64)",
        "the customer's transport closed early",
        "api key is required",
        "Transport Closed",
        "transport closed.",
        "transport closed: mqtt broker went away",
        "the relay says: transport closed",
        "failed to send message to actor: missing x-clstr-key header",
    ],
)
def test_any_other_text_of_go_is_a_handler_error(text: str) -> None:
    error = decode_error(ReplyFrame(err=text))
    assert isinstance(error, HandlerError)
    assert (str(error), error.error_type, error.error_message) == (text, "", text)
    assert error.maybe_executed


def test_the_executed_field_means_nothing_beside_text_alone() -> None:
    assert decode_error(ReplyFrame(err="key is required", executed=False)).maybe_executed


# Any frame

facts: st.SearchStrategy[Fact] = st.text() | st.integers() | st.floats() | st.booleans()
frames = st.builds(
    ReplyFrame,
    data=st.binary() | st.none(),
    err=st.text() | st.sampled_from(sorted(GO_TEXTS)),
    code=st.sampled_from(sorted(CODES)) | st.text(),
    details=st.dictionaries(st.sampled_from(sorted(FACTS)) | st.text(), facts),
    executed=st.booleans() | st.none(),
)


@given(frames, codecs)
def test_any_frame_gives_an_error_that_can_be_shown_and_sent_on(frame: ReplyFrame, codec: Codec) -> None:
    error = decode_error(frame)
    assert isinstance(error, ClstrError)
    assert str(error) == printable(clip(frame.err))
    assert repr(error)
    assert {name: type(fact) for name, fact in error.details().items()} == error.facts
    if error.code and frame.err:
        arrived = travel(error, codec)
        assert (type(arrived), arrived.details()) == (type(error), error.details())
        assert str(arrived).endswith(("(cut)", str(error)))
        assert arrived.maybe_executed is error.maybe_executed


# Clipping


@given(st.text(st.characters(), max_size=40), st.integers(0, 60))
def test_clipped_text_is_a_prefix_within_its_bound_and_says_that_it_was_cut(text: str, max_bytes: int) -> None:
    clipped = clip(text, max_bytes)
    whole = text.encode("utf-8", "replace").decode()
    assert len(clipped.encode()) <= max_bytes
    assert whole.startswith(clipped.removesuffix(" ... (cut)"))
    assert clipped == whole or len(clipped.encode()) > max_bytes - 4
    assert clipped == whole or max_bytes <= len(" ... (cut)") or clipped.endswith(" ... (cut)")
    assert clip(clipped, max_bytes) == clipped


def test_a_character_is_never_cut_in_half_and_a_lone_surrogate_is_replaced() -> None:
    assert clip("a\xe4\xe4", 4) == "a\xe4"
    assert clip("\U0001f600", 3) == ""
    assert clip("a\ud800b") == "a?b"
