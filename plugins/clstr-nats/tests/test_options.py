"""`clstr_nats._options`: what a URL says, and what is wrong with it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

import clstr
from clstr.plugins import TransportURL
from clstr_nats._options import Options


def read(url: str, **extra: Any) -> Options:
    return Options.of(TransportURL.parse(url), extra)


def test_the_defaults_are_those_of_clstr_go() -> None:
    options = read("nats://a")
    assert (options.servers, options.prefix, options.codec) == ((("a", 4222),), "clstr", "json")
    assert not options.needs_tls


def test_several_servers_are_several() -> None:
    assert read("nats://a:1,b,[::1]:3").servers == (("a", 1), ("b", 4222), ("::1", 3))


@pytest.mark.parametrize(
    ("url", "extra", "credentials"),
    [
        ("nats://u:p@a", {}, {"user": "u", "password": "p"}),
        ("nats://tok@a", {}, {"token": "tok"}),
        ("nats://a", {"token": "tok"}, {"token": "tok"}),
        ("nats://a", {"creds": "f"}, {"user_credentials": "f"}),
        ("nats://a", {"nkey": "f"}, {"nkeys_seed": "f"}),
        ("nats://a", {"nkey_seed": "SU"}, {"nkeys_seed_str": "SU"}),
        ("nats://a", {}, {}),
    ],
    ids=["user", "token in the URL", "token", "creds", "nkey", "nkey_seed", "none"],
)
def test_who_we_are(url: str, extra: dict[str, str], credentials: dict[str, str]) -> None:
    assert read(url, **extra).credentials == credentials


def test_two_ways_to_say_who_we_are_are_one_too_many() -> None:
    with pytest.raises(ValueError, match="a user in the URL and token are several ways"):
        read("nats://u:p@a", token="t")


@pytest.mark.parametrize("scheme", ["nats+tls", "tls"])
def test_tls_insists(scheme: str) -> None:
    options = read(f"{scheme}://a")
    assert options.needs_tls
    assert options.tls is not None
    assert options.tls.verify_mode is ssl.CERT_REQUIRED


def test_a_context_is_taken_as_it_is() -> None:
    context = ssl.create_default_context()
    assert read("nats://a", tls=context).tls is context
    assert read("nats://a", tls=context).needs_tls


@pytest.mark.parametrize(
    ("url", "extra", "error", "message"),
    [
        ("nats://", {}, ValueError, "names no host"),
        ("nats://a/b", {}, ValueError, "has no path"),
        ("nats://a", {"tls_ca": "f"}, ValueError, r"write nats\+tls"),
        ("nats://a", {"tls_first": True}, ValueError, r"write nats\+tls"),
        ("nats+tls://a", {"tls_key": "f"}, ValueError, "give tls_cert too"),
        ("nats+tls://a", {"tls": "yes"}, TypeError, "must be an ssl.SSLContext"),
        ("nats+tls://a", {"tls": ssl.create_default_context(), "tls_ca": "f"}, ValueError, "say the same"),
        ("nats://a", {"prefix": 7}, TypeError, "prefix must be a str"),
        ("nats://a", {"heartbeat": "x"}, TypeError, "heartbeat must be seconds"),
        ("nats://a", {"heartbeat": True}, TypeError, "heartbeat must be seconds"),
    ],
    ids=["host", "path", "ca", "first", "key", "tls", "both", "prefix", "heartbeat", "bool"],
)
def test_a_mistake_is_named(url: str, extra: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read(url, **extra)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("prefix=a.*", "prefix must be"),
        ("inbox_prefix=x", "inbox_prefix must be"),
        ("codec=xml", "must be json or msgpack"),
        ("heartbeat=0", "must be seconds above 0"),
        ("heartbeat=soon", "must be seconds above 0"),
        ("tls=yes", "keyword tls"),
        ("credentials=secret", "'credentials': it is malformed"),
        ("tls_first=1", "must be true or false"),
        ("tls_ca=/nowhere", "names no file"),
        ("creds=/nowhere", "is malformed"),
    ],
)
def test_a_malformed_parameter_is_named_at_the_call(query: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _ = clstr.connect(f"nats+tls://a?{query}")


def test_secrets_show_nowhere(tmp_path: Path) -> None:
    options = [read("nats://u:PLANTED@a"), read("nats://PLANTED@a"), read("nats://a", nkey_seed="PLANTED")]
    assert "PLANTED" not in repr(options)
    assert "PLANTED" not in repr(clstr.connect("nats://u:PLANTED@a"))


def test_a_certificate_of_ours_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "cert").write_text("no certificate")
    with pytest.raises(ssl.SSLError):
        read("nats+tls://a", tls_cert=str(tmp_path / "cert"))
