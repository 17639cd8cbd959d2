"""`clstr_redis._server`: which servers can be used."""

from __future__ import annotations

import pytest

from clstr_redis._server import why_unusable

GOOD = {b"version": b"7.2.4", b"mode": b"standalone", b"role": b"master", b"modules": []}


@pytest.mark.parametrize("version", [b"6.2.0", b"7.0.15", b"8.0-rc1", b"9", b"9.1.2", b"10.0.0"])
def test_a_primary_that_is_new_enough_can_be_used(version: bytes) -> None:
    assert why_unusable(GOOD | {b"version": version}) == ""


@pytest.mark.parametrize(
    ("hello", "says"),
    [
        (GOOD | {b"version": b"6.0.16"}, "version 6.0.16: Redis 6.2 is the oldest"),
        (GOOD | {b"version": b"6"}, "version 6: Redis"),
        (GOOD | {b"version": b"5.0.3"}, "version 5.0.3"),
        (GOOD | {b"mode": b"cluster"}, "Redis Cluster, which clstr-redis does not support"),
        (GOOD | {b"mode": b"sentinel"}, "it is a sentinel"),
        (GOOD | {b"role": b"replica"}, "read-only replica"),
        (GOOD | {b"role": b"slave"}, "read-only replica"),
        (GOOD | {b"version": b"new"}, "what no Redis says"),
        (GOOD | {b"version": 7}, "what no Redis says"),
        (GOOD | {b"role": None}, "what no Redis says"),
        ({}, "what no Redis says"),
        (b"OK", "what no Redis says"),
        (None, "what no Redis says"),
    ],
)
def test_any_other_is_refused_with_the_reason(hello: object, says: str) -> None:
    assert says in why_unusable(hello)
