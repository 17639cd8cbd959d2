"""`clstr_redis._errors`: what each refusal means, and whether it proves anything."""

from __future__ import annotations

import pytest
import redis.exceptions
from redis._parsers import _AsyncRESP3Parser

from clstr.errors import (
    AccessDeniedError,
    AuthenticationError,
    ClstrError,
    ConnectionLostError,
    NoShardSubscriberError,
    TransportUnavailableError,
)
from clstr_redis._errors import explain, refusal


def said(text: str) -> Exception:
    """Return the error that redis-py makes of it."""
    error: Exception = _AsyncRESP3Parser.parse_error(text)  # type: ignore[no-untyped-call]  # redis-py's
    return error


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("NOPERM this user has no permissions to run the 'evalsha' command", AccessDeniedError, r"grant \+evalsha"),
        ("NOPERM User u has no permissions to run the 'script|load' command", AccessDeniedError, r"\+script\|load"),
        ("NOPERM No permissions to access a key", AccessDeniedError, "grant ~acme:shard:*"),
        ("NOPERM this user has no permissions to access one of the channels used", AccessDeniedError, "&acme:in:"),
        (
            "ERR ACL failure in script: User u has no permissions to run the 'publish' command script: 1, on @u:7.",
            AccessDeniedError,
            r"grant \+publish",
        ),
        (
            "ERR Error running script: @user_script:4: The user executing the script can't run this command",
            AccessDeniedError,
            r"grant what scripts use, \+publish",
        ),
        ("NOPERM The user executing the script can't run this command", AccessDeniedError, "what scripts use"),
        ("READONLY You can't write against a read only replica.", TransportUnavailableError, "name the primary"),
        ("MISCONF Redis is configured to save", TransportUnavailableError, "MISCONF Redis is configured"),
        ("BUSY Redis is busy", TransportUnavailableError, "BUSY"),
        ("NOSCRIPT No matching script.", AccessDeniedError, r"grant \+script\|load to nodes"),
        ("OOM command not allowed", TransportUnavailableError, "OOM"),
        ("NOREPLICAS Not enough good replicas", TransportUnavailableError, "NOREPLICAS"),
        ("WRONGTYPE Operation against a key", TransportUnavailableError, "WRONGTYPE"),
        ("MASTERDOWN Link with MASTER is down", TransportUnavailableError, "MASTERDOWN"),
        ("LOADING Redis is loading", TransportUnavailableError, "LOADING"),
    ],
)
def test_what_proves_that_nothing_was_published(text: str, kind: type[ClstrError], says: str) -> None:
    error = refusal(said(text), "acme")
    assert type(error) is kind
    assert not error.maybe_executed
    with pytest.raises(kind, match=says):
        raise error


@pytest.mark.parametrize(
    "text",
    ["ERR Error running script: Script killed by user with SCRIPT KILL", "ERR unknown", "STRANGE things happen", ""],
)
def test_what_proves_nothing(text: str) -> None:
    error = refusal(said(text), "clstr")
    assert type(error) is ConnectionLostError
    assert error.maybe_executed


def test_an_error_of_ours_stays_as_it_is() -> None:
    error = NoShardSubscriberError(1)
    assert explain(error, "server", "clstr") is error


def test_a_host_whose_name_speaks_of_authentication_is_no_refusal() -> None:
    error = explain(redis.exceptions.ConnectionError("Error 111 connecting to auth.example:6379"), "auth", "clstr")
    assert type(error) is TransportUnavailableError


@pytest.mark.parametrize("text", ["WRONGPASS invalid username-password pair", "NOAUTH Authentication required."])
def test_refused_credentials(text: str) -> None:
    assert type(explain(said(text), "server", "clstr")) is AuthenticationError


@pytest.mark.parametrize("error", [TimeoutError(), redis.exceptions.TimeoutError("Timeout")])
def test_time_that_is_over(error: Exception) -> None:
    assert str(explain(error, "the server", "clstr")) == "the server cannot be used: it did not answer in time"


def test_an_error_without_words_has_its_type() -> None:
    assert str(explain(OSError(), "the server", "clstr")) == "the server cannot be used: OSError"


def test_a_page_of_explanations_becomes_a_sentence() -> None:
    assert len(str(explain(said("MISCONF " + "why " * 1000), "server", "clstr"))) < 300
