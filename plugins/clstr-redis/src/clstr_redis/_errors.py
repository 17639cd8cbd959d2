"""What the server says, turned into errors that say what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import redis.exceptions

from clstr.errors import (
    AccessDeniedError,
    AuthenticationError,
    ClstrError,
    ConnectionLostError,
    TransportUnavailableError,
)
from clstr.spi import hide_secrets

MOST_KEYS = 3  # of those that are named in one message


class ForeignKeysError(redis.exceptions.ResponseError):
    """Keys for leases that somebody else has given another type."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        names = ", ".join(key.decode() for key in keys[:MOST_KEYS])
        more = f" and {len(keys) - MOST_KEYS} more" if len(keys) > MOST_KEYS else ""
        super().__init__(
            f"WRONGTYPE {names}{more}: somebody else has written something other than leases there; delete that, or "
            "choose another prefix (shards with other keys are not affected)"
        )


_COMMAND = re.compile(r"'([^']+)' (?:sub)?command")
_DENIED_IN_A_SCRIPT = ("ACL failure in script", "The user executing the script can't")  # by Redis 7, and 6.2
_IN_SCRIPTS = "+publish +time +zrangebyscore, and to nodes +pexpire +pttl +zadd +zrem +zremrangebyscore"
MAX_TEXT = 200  # a server's explanations can fill a page

# How errors begin that prove that a command did nothing. "ERR" may be anything, even a script that was killed halfway.
_PROOFS = frozenset(
    {
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "MOVED",
        "NOPERM",
        "NOREPLICAS",
        "NOSCRIPT",
        "OOM",
        "READONLY",
        "WRONGTYPE",
    }
)


def explain(error: Exception, server: str, prefix: str, secrets: Iterable[str | None] = ()) -> ClstrError:
    """
    Turn what redis-py raised, or a command answered, into an error of ours; it never holds credentials.

    Args:
        error: What happened.
        server: What to call the server.
        prefix: What keys and channels begin with, to say which rights are needed.
        secrets: What the server was sent, and may repeat.
    """
    if isinstance(error, ClstrError):
        return error
    if isinstance(error, ForeignKeysError):
        return TransportUnavailableError(f"{server} cannot be used for these shards: {error}")
    text = hide_secrets(" ".join(str(error).split()), secrets)[:MAX_TEXT]
    if isinstance(error, redis.exceptions.NoScriptError):
        return AccessDeniedError(
            f"{server} has lost the scripts, and the user may not load them: grant +script|load to nodes"
        )
    if _code(error) == "NOPERM":
        return AccessDeniedError(f"the user lacks a right at {server}: {_missing_right(text, prefix)} ({text})")
    if isinstance(error, redis.exceptions.AuthenticationError):
        return AuthenticationError(f"{server} refused the credentials: {text}")
    return TransportUnavailableError(f"{server} cannot be used: {hide_secrets(_reason(error, text), secrets)}")


def refusal(error: Exception, prefix: str, key: bytes = b"") -> ClstrError:
    """Say why the server has not published a message, and whether that is certain; ``key`` is that of its shard."""
    if key and _code(error) == "WRONGTYPE":
        error = ForeignKeysError([key])
    reason = explain(error, "the Redis server", prefix)
    if _code(error) in _PROOFS:
        reason.maybe_executed = False
        return reason
    return ConnectionLostError(f"nobody knows whether the message was sent: {reason}", maybe_executed=True)


def _code(error: Exception) -> str:
    """Return the word that the server's errors begin with; redis-py strips those that it knows."""
    text = str(error)
    if any(phrase in text for phrase in _DENIED_IN_A_SCRIPT):
        return "NOPERM"
    return str(getattr(error, "status_code", None) or text.partition(" ")[0])


def is_about_channels(error: Exception) -> bool:
    """Tell whether a refusal is about the channel, and not about the command."""
    return "channel" in str(error)


def _missing_right(text: str, prefix: str) -> str:
    if "channel" in text:
        return f"grant (+publish &{prefix}:in:*), or &{prefix}:in:<peer id>:* for the peers that it sends to"
    if command := _COMMAND.search(text):
        return f"grant +{command[1].lower()}"
    if "this command" in text:
        return f"grant what scripts use, {_IN_SCRIPTS}"
    return f"grant ~{prefix}:shard:*"


def _reason(error: Exception, text: str) -> str:
    if isinstance(error, TimeoutError | redis.exceptions.TimeoutError):
        return "it did not answer in time"
    if "unknown command" in text.lower() and "hello" in text.lower():
        return "it does not know HELLO: Redis 6.2 is the oldest version that can be used"
    if text.startswith("DENIED"):
        return "it is in protected mode, which lets in this machine alone: give it a password, and us too"
    if isinstance(error, redis.exceptions.ReadOnlyError):
        return "it is a read-only replica: name the primary, or use redis+sentinel://"
    code = getattr(error, "status_code", None)
    return f"{code} {text}" if code and code != "ERR" else text or type(error).__name__
