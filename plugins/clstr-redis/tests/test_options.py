"""`clstr_redis._options`: what a URL says, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import clstr
from clstr.plugins import TransportURL
from clstr_redis._options import Options


def read(url: str, **extra: Any) -> Options:
    return Options.of(TransportURL.parse(url), extra)


def test_the_defaults() -> None:
    options = read("redis://a")
    assert (options.hosts, options.prefix, options.codec) == ((("a", 6379),), "clstr", "msgpack")
    assert (options.database, options.heartbeat) == (0, 1.0)
    assert options.credentials == {"username": None, "password": None}


@pytest.mark.parametrize(
    ("url", "hosts", "path"),
    [
        ("redis://a:1", (("a", 1),), ""),
        ("rediss://[::1]", (("::1", 6379),), ""),
        ("redis+unix:///run/redis.sock", (), "/run/redis.sock"),
        ("redis+sentinel://a,b:2,[::1]:3/shop", (("a", 26379), ("b", 2), ("::1", 3)), "shop"),
    ],
)
def test_where_the_server_is(url: str, hosts: tuple[tuple[str, int], ...], path: str) -> None:
    options = read(url)
    assert (options.hosts, options.path) == (hosts, path)


@pytest.mark.parametrize(
    ("url", "extra"), [("redis://a/7", {}), ("redis://a", {"db": 7}), ("redis+sentinel://a/s", {"db": 7})]
)
def test_which_database(url: str, extra: dict[str, Any]) -> None:
    assert read(url, **extra).database == 7


def test_who_we_are() -> None:
    assert read("redis://u:p@a").credentials == {"username": "u", "password": "p"}
    sentinels = {"sentinel_username": "s", "sentinel_password": "q"}
    assert read("redis+sentinel://a/s", **sentinels).sentinel_credentials == {"username": "s", "password": "q"}


def test_files_for_tls(tmp_path: Path) -> None:
    assert read("rediss://a", tls_ca="ca", tls_cert="cert", tls_key="key").tls == {
        "ssl_ca_certs": "ca",
        "ssl_certfile": "cert",
        "ssl_keyfile": "key",
    }


@pytest.mark.parametrize(
    ("url", "extra", "says"),
    [
        ("redis://", {}, "names no host"),
        ("redis://a,b", {}, "one server only"),
        ("redis://a/1", {"db": 1}, "give it once"),
        ("redis://a/x", {}, "number of a database"),
        ("redis+unix://a/run/redis.sock", {}, "write the socket's path"),
        ("redis+unix://", {}, "write the socket's path"),
        ("redis+sentinel://a", {}, "redis\\+sentinel://host,host/service"),
        ("redis://a", {"tls_ca": "x"}, "write rediss://"),
    ],
)
def test_a_contradiction_is_an_error(url: str, extra: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read(url, **extra)


@pytest.mark.parametrize(
    ("extra", "error"),
    [
        ({"heartbeat": 0}, ValueError),
        ({"heartbeat": float("nan")}, ValueError),
        ({"heartbeat": True}, TypeError),
        ({"heartbeat": "1"}, TypeError),
        ({"prefix": 5}, TypeError),
    ],
)
def test_a_keyword_is_checked_too(extra: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        read("redis://a", **extra)


@pytest.mark.parametrize(
    "query",
    [
        "codec=xml",
        "db=x",
        "db=-1",
        "heartbeat=0",
        "heartbeat=inf",
        "heartbeat=x",
        "prefix=",
        "prefix=a:*",
        "prefix=a%20b",
        "tls_ca=/nowhere/at/all",
        "nonsense=1",
    ],
)
async def test_a_malformed_parameter_is_an_error_of_the_call(query: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        await clstr.connect(f"redis://a?{query}")


def test_secrets_do_not_show() -> None:
    options = read("redis+sentinel://u:PLANTED@a/s", sentinel_password="PLANTED")
    assert "PLANTED" not in repr(options)
