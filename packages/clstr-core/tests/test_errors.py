"""Errors: each refines a built-in, carries its facts, says what to do, and survives pickling."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from clstr import errors
from clstr._context import refuse
from clstr.errors import ClstrError

# Each error, made as the library makes it: the built-in that it refines, its default of maybe_executed, its text.
ERRORS: list[tuple[ClstrError, type[Exception], bool, str]] = [
    (errors.ClstrError("text"), Exception, False, "text"),
    (errors.TransportClosedError(), ConnectionError, False, "transport closed: connect again"),
    (errors.TransportUnavailableError("no link"), ConnectionError, False, "no link"),
    (errors.ConnectionLostError("the link is gone"), ConnectionError, True, "the link is gone"),
    (errors.AuthenticationError("wrong password"), PermissionError, False, "wrong password"),
    (errors.AccessDeniedError("may not publish"), PermissionError, False, "may not publish"),
    (
        errors.NoShardSubscriberError(7),
        LookupError,
        False,
        "no subscriber for shard 7: start a node that owns it, or check num_shards and seed",
    ),
    (
        errors.NotOwnerError(7),
        LookupError,
        False,
        "the receiver does not own shard 7: send it again, its owner is changing",
    ),
    (
        errors.DrainingError(7),
        ConnectionError,
        False,
        "the owner of shard 7 is draining: try again once another node owns it",
    ),
    (
        errors.OverloadedError("max_queue", 1000),
        RuntimeError,
        False,
        "overloaded: max_queue=1000 is reached; slow down, or raise the limit",
    ),
    (
        errors.EnvelopeExpiredError(7, 0.5),
        TimeoutError,
        False,
        "envelope TTL expired: shard 7 could not run it within its 0.5 s; its owner is busy, or it was sent late",
    ),
    (
        errors.HandlerTimeoutError(7, 30.0),
        TimeoutError,
        True,
        "handler exceeded deadline: 30 s on shard 7; raise handler_timeout or the ttl",
    ),
    (errors.RequestTimeoutError(7, 5.0), TimeoutError, True, "no reply from shard 7 within 5 s"),
    (errors.HandlerError("KeyError", "'x'"), RuntimeError, True, "KeyError: 'x'"),
    (
        errors.CallCycleError("a -> b -> a"),
        RuntimeError,
        False,
        "the call chain a -> b -> a comes back to a busy key; use notify, or let the actor be reentrant",
    ),
    (errors.InvalidEnvelopeError("type", "is odd"), ValueError, False, "invalid envelope: type is odd"),
    (
        errors.ReservedHeaderError("X-Clstr-A"),
        ValueError,
        False,
        "cannot set reserved header 'X-Clstr-A': the names under 'x-clstr-' are clstr's own",
    ),
    (errors.KeyRequiredError(), ValueError, False, "key is required: routing by key needs a non-empty string"),
    (
        errors.MissingKeyHeaderError(),
        ValueError,
        False,
        "missing x-clstr-key header: send by key, not by shard",
    ),
    (
        errors.UnknownMessageError("Get", "Put, Set"),
        LookupError,
        False,
        "no handler registered for message type 'Get'; known: Put, Set",
    ),
    (
        errors.PayloadTooLargeError(11, 10),
        ValueError,
        False,
        "the payload has 11 bytes, the limit is 10: send less, or raise max_payload_bytes",
    ),
    (errors.InvalidReplyError("not a User"), ValueError, True, "not a User"),
    (
        errors.NodeIdInUseError("node-1", 7),
        RuntimeError,
        False,
        (
            "node id 'node-1' is in use: another node of that id holds shard 7; "
            "stop that one first, or give this one an id of its own"
        ),
    ),
    (
        errors.StateNotStoredError(["b", "a"]),
        RuntimeError,
        True,
        "the state of 2 keys is not stored: 'a', 'b'; the log says what failed",
    ),
    (errors.PluginError("broken"), RuntimeError, False, "broken"),
    (errors.UnknownSchemeError("nats", "pip install clstr-nats"), LookupError, False, "pip install clstr-nats"),
    (
        errors.PluginConflictError("x", ("a", "b")),
        RuntimeError,
        False,
        "a and b provide the same scheme 'x': uninstall all but one",
    ),
    (errors.PluginImportError("clstr-x", "no driver"), ImportError, False, "no driver"),
    (errors.PluginApiError("clstr-x", "is for API 2"), RuntimeError, False, "is for API 2"),
]
each_error = pytest.mark.parametrize("error", [row[0] for row in ERRORS], ids=lambda error: type(error).__name__)

# Part of the protocol: a line may be added, none may change.
CODES = {
    "call_cycle": errors.CallCycleError,
    "closed": errors.TransportClosedError,
    "draining": errors.DrainingError,
    "expired": errors.EnvelopeExpiredError,
    "handler_error": errors.HandlerError,
    "handler_timeout": errors.HandlerTimeoutError,
    "invalid_envelope": errors.InvalidEnvelopeError,
    "key_required": errors.KeyRequiredError,
    "missing_key_header": errors.MissingKeyHeaderError,
    "no_subscriber": errors.NoShardSubscriberError,
    "not_owner": errors.NotOwnerError,
    "overloaded": errors.OverloadedError,
    "reserved_header": errors.ReservedHeaderError,
    "too_large": errors.PayloadTooLargeError,
    "unknown_message": errors.UnknownMessageError,
}


def defined() -> dict[str, type[ClstrError]]:
    """Return the error classes that the module defines, by name."""
    named = vars(errors).items()
    return {name: value for name, value in named if isinstance(value, type) and issubclass(value, ClstrError)}


def test_every_error_is_public_tested_here_and_in_the_tree_of_the_docstring() -> None:
    names = sorted(defined())
    assert errors.__all__ == names
    assert sorted(type(row[0]).__name__ for row in ERRORS) == names
    assert errors.__doc__ is not None
    assert all(f" {name} " in errors.__doc__.replace("\n", " ") for name in names)


@pytest.mark.parametrize(
    ("error", "builtin", "maybe_executed", "text"), ERRORS, ids=[type(row[0]).__name__ for row in ERRORS]
)
def test_an_error_refines_a_built_in_and_names_the_fact(
    error: ClstrError, builtin: type[Exception], maybe_executed: bool, text: str
) -> None:
    assert isinstance(error, builtin)
    assert error.maybe_executed is maybe_executed
    assert str(error) == text
    assert error.args == (text,)


def test_the_codes_are_those_of_the_protocol() -> None:
    assert {kind.code: kind for kind in defined().values() if kind.code} == CODES
    assert len({kind for kind in defined().values() if kind.code}) == len(CODES)


@each_error
def test_the_facts_of_an_error_are_its_attributes_of_the_types_that_it_declares(error: ClstrError) -> None:
    details = error.details()
    assert details.keys() == error.facts.keys()
    for name, value in details.items():
        assert type(value) is error.facts[name] or (type(value), error.facts[name]) == (int, float)  # an int is a float
    assert details == {name: getattr(error, name) for name in error.facts}


@each_error
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickling(error: ClstrError, protocol: int) -> None:
    assert_same(pickle.loads(pickle.dumps(error, protocol)), error)


@each_error
def test_an_error_survives_copying(error: ClstrError) -> None:
    assert_same(copy.copy(error), error)
    assert_same(copy.deepcopy(error), error)


def assert_same(one: Any, other: ClstrError) -> None:
    assert one is not other
    assert type(one) is type(other)
    assert (str(one), repr(one), one.args) == (str(other), repr(other), other.args)
    assert one.__dict__ == other.__dict__
    assert one.maybe_executed is other.maybe_executed


def test_pickling_keeps_what_differs_from_the_class_and_the_notes() -> None:
    error = errors.RequestTimeoutError(7, 5.0, maybe_executed=False)
    error.add_note("shard 7 was moving")
    restored = pickle.loads(pickle.dumps(error))
    assert not restored.maybe_executed
    assert restored.__notes__ == ["shard 7 was moving"]


def test_a_refusal_is_pickled_without_the_message_that_it_refuses() -> None:
    error = refuse(errors.OverloadedError("cache_size", 3))
    error.__dict__["_refused"] = lambda: "what no pickle takes"
    restored = pickle.loads(pickle.dumps(error))
    assert (restored.limit, restored.bound, restored.maybe_executed) == ("cache_size", 3, False)
    assert "_refused" not in restored.__dict__


@each_error
def test_an_error_can_be_raised_with_a_cause_and_caught_as_any_clstr_error(error: ClstrError) -> None:
    cause = OSError("driver")
    with pytest.raises(ClstrError) as caught:
        raise copy.copy(error) from cause
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize("maybe_executed", [True, False])
def test_an_instance_may_differ_from_its_class_in_maybe_executed(maybe_executed: bool) -> None:
    closed = errors.TransportClosedError(maybe_executed=maybe_executed)
    timeout = errors.RequestTimeoutError(1, 1.0, maybe_executed=maybe_executed)
    lost = errors.ConnectionLostError("gone", maybe_executed=maybe_executed)
    assert [error.maybe_executed for error in (closed, timeout, lost)] == [maybe_executed] * 3
    assert errors.RequestTimeoutError.maybe_executed
    assert not errors.TransportClosedError.maybe_executed


def test_a_reply_that_is_too_large_says_so_and_that_the_handler_ran() -> None:
    error = errors.PayloadTooLargeError(11, 10, is_reply=True)
    assert str(error).startswith("the reply has 11 bytes, the limit is 10")
    assert error.maybe_executed


def test_a_handler_error_of_text_alone_shows_no_empty_part() -> None:
    assert str(errors.HandlerError("", "text")) == "text"
    assert str(errors.HandlerError("KeyError", "")) == "KeyError"


def test_an_unknown_message_of_a_node_without_handlers_knows_none() -> None:
    assert str(errors.UnknownMessageError("Get", "")) == "no handler registered for message type 'Get'; known: none"


def test_a_restored_error_skips_its_constructor() -> None:
    error = errors.OverloadedError.restore("text", {"limit": "l", "bound": 2, "maybe_executed": True})
    assert (str(error), error.limit, error.bound, error.maybe_executed) == ("text", "l", 2, True)
