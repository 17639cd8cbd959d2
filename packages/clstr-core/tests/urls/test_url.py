"""Transport URLs: what they hold, what they hide, and what is wrong with the malformed ones."""

import traceback
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clstr._urls.url import TransportURL, is_secret_name

MARK = "S3CR3T"

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
secrets = texts.map(lambda text: f"{text}{MARK}{text}")
ports = st.none() | st.integers(0, 65535)
hosts = st.tuples(st.from_regex(r"[a-z0-9_.~*-]{1,12}", fullmatch=True) | st.ip_addresses(v=6).map(str), ports)
parameters = st.dictionaries(st.from_regex(r"x[a-d_]{0,8}", fullmatch=True), texts, max_size=3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("memory://", TransportURL(scheme="memory")),
        ("memory://bus", TransportURL(scheme="memory", hosts=(("bus", None),))),
        ("NATS://Host", TransportURL(scheme="nats", hosts=(("Host", None),))),
        ("nats://h:4222", TransportURL(scheme="nats", hosts=(("h", 4222),))),
        ("nats://h1:1,h2,[::1]:3", TransportURL(scheme="nats", hosts=(("h1", 1), ("h2", None), ("::1", 3)))),
        ("nats://[fe80::1%25eth0]", TransportURL(scheme="nats", hosts=(("fe80::1%eth0", None),))),
        ("nats+tls://u:p@h", TransportURL(scheme="nats+tls", username="u", password="p", hosts=(("h", None),))),
        ("nats://token@h", TransportURL(scheme="nats", username="token", hosts=(("h", None),))),
        ("nats://@h", TransportURL(scheme="nats", hosts=(("h", None),))),
        ("redis://:p@h/2", TransportURL(scheme="redis", password="p", hosts=(("h", None),), path="/2")),
        ("redis://u:@h", TransportURL(scheme="redis", username="u", password="", hosts=(("h", None),))),
        ("redis://a%40b:c%2F%3F%23:%2Cd@", TransportURL(scheme="redis", username="a@b", password="c/?#:,d")),
        ("redis+unix:///run/x.s?db=1", TransportURL(scheme="redis+unix", path="/run/x.s", parameters={"db": "1"})),
        ("redis+unix://u:p@/x", TransportURL(scheme="redis+unix", username="u", password="p", path="/x")),
        ("zmq+ipc:///tmp/x", TransportURL(scheme="zmq+ipc", path="/tmp/x")),
        ("zmq+ipc:///tmp/a%20b", TransportURL(scheme="zmq+ipc", path="/tmp/a b")),
        ("zmq://*:0", TransportURL(scheme="zmq", hosts=(("*", 0),))),
        ("nats://höst", TransportURL(scheme="nats", hosts=(("höst", None),))),
        ("memory://?", TransportURL(scheme="memory")),
        ("memory://?a=1&b=&c=x%26y=+", TransportURL(scheme="memory", parameters={"a": "1", "b": "", "c": "x&y=+"})),
    ],
)  # fmt: skip
def test_a_url_is_read(text: str, expected: TransportURL) -> None:
    assert TransportURL.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "does not begin with scheme://"),
        ("nats", "does not begin with scheme://"),
        ("nats:h:4222", "does not begin with scheme://"),
        ("://h", "does not begin with scheme://"),
        ("4nats://h", "does not begin with scheme://"),
        (" nats://h", "does not begin with scheme://"),
        ("nats://h\n", "malformed nats URL: it holds control characters"),
        ("nats://\ud800", "lone surrogates"),
        ("nats://h#x", "it holds '#'"),
        ("nats://h/a@b", "it holds '@' behind the hosts: write %40"),
        ("nats://h?a=b@c", "it holds '@' behind the hosts"),
        ("nats://a:b@h1,a:b@h2", "write user and password once"),
        ("nats://h1,u:p@h2", "write user and password once"),
        ("nats://h:x", "host 1 has a port that is not a number from 0 to 65535"),
        ("nats://h:65536", "host 1 has a port"),
        ("nats://h,h:", "host 2 has a port"),
        ("nats://h:-1", "host 1 has a port"),
        ("nats://h:٣", "host 1 has a port"),
        ("nats://h,,h", "host 2 is empty: write host:port,host:port"),
        ("nats://:4222", "host 1 is empty"),
        ("nats://a b", "host 1 is not a name or an address"),
        ("nats://a%20b", "host 1 is not a name or an address"),
        ("nats://::1", "host 1 holds several ':': write IPv6 addresses in brackets"),
        ("nats://[::1", "host 1 has brackets that are not closed"),
        ("nats://[::1]4222", "brackets that are not closed right before the port"),
        ("nats://[::1]:", "host 1 has a port"),
        ("nats://[h]", "host 1 is in brackets, but is not an IPv6 address"),
        ("memory://?a=1&a=2", "parameter 'a' is there twice"),
        ("memory://?a", "a parameter is not of the form name=value"),
        ("memory://?a=1&", "a parameter is not of the form name=value"),
        ("memory://?=1", "a parameter is not of the form name=value"),
        ("memory://?a%62=1", "with letters, digits and '_' in its name"),
        ("memory:///%zz", "the path holds '%' without two hexadecimal digits: write %25"),
        ("memory://?a=%", "parameter 'a' holds '%' without"),
        ("memory://u%:p@h", "the user name holds '%'"),
        ("memory://u:%ff@h", "the password holds percent escapes that are not UTF-8"),
        ("memory://u:%0a@h", "the password holds control characters"),
        ("memory:///%00", "the path holds control characters"),
    ],
)
def test_a_malformed_url_names_the_fact_and_the_way_out(text: str, fact: str) -> None:
    with pytest.raises(ValueError, match=r"^malformed ") as caught:
        TransportURL.parse(text)
    assert fact in str(caught.value)


@pytest.mark.parametrize("text", [None, 7, b"memory://"])
def test_a_url_that_is_no_str_is_refused(text: Any) -> None:
    with pytest.raises(TypeError, match=f"a transport URL must be a str, not {type(text).__name__}"):
        TransportURL.parse(text)


@pytest.mark.parametrize(("text", "name"), [("memory://", ""), ("memory://bus", "bus"), ("memory:///x", "")])
def test_a_name_is_the_one_host_without_a_port(text: str, name: str) -> None:
    assert TransportURL.parse(text).name == name


@pytest.mark.parametrize("text", ["memory://a,b", "memory://a:1"])
def test_several_hosts_or_a_port_are_no_name(text: str) -> None:
    with pytest.raises(ValueError, match="write one name without a port, as in memory://name"):
        _ = TransportURL.parse(text).name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nats://u:hidden@h:1,[::1]:2,[::2]/p?a=b", "nats://u:***@h:1,[::1]:2,[::2]/p?a=b"),
        ("redis://:hidden@h", "redis://:***@h"),
        ("redis://u:@h", "redis://u:***@h"),
        ("nats://hidden@h", "nats://***@h"),
        ("memory://?password=hidden&auth_token=hidden&SECRET=hidden&a=b", None),
        ("memory://", "memory://"),
    ],
)
def test_secrets_are_hidden(text: str, shown: str | None) -> None:
    """A user name without a password is a token at NATS, and hidden like one."""
    url = TransportURL.parse(text)
    assert str(url) == (shown or "memory://?password=***&auth_token=***&SECRET=***&a=b")
    assert repr(url) == f"TransportURL({str(url)!r})"
    assert f"{url}" == str(url)


@pytest.mark.parametrize("name", ["password", "passwd", "user_token", "clientSecret", "nkey", "credentials", "seed"])
def test_a_name_that_may_mean_a_secret_is_one(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["prefix", "db", "max_concurrent", "insecure", "name"])
def test_a_plain_name_is_no_secret(name: str) -> None:
    assert not is_secret_name(name)


def test_a_url_is_frozen_hashable_and_owns_its_parameters() -> None:
    given_parameters = {"a": "1"}
    url = TransportURL(scheme="memory", parameters=given_parameters)
    given_parameters["a"] = "2"
    assert url.parameters == {"a": "1"}
    assert hash(url) == hash(TransportURL.parse("memory://?a=1"))
    with pytest.raises(TypeError):
        url.parameters["a"] = "3"  # type: ignore[index]  # read-only: that is the test
    with pytest.raises(AttributeError):
        url.scheme = "nats"  # type: ignore[misc]  # frozen: that is the test


@given(st.lists(hosts, max_size=3), texts, parameters)
def test_a_url_without_secrets_survives_being_shown(
    given_hosts: list[tuple[str, int | None]], path: str, given_parameters: Mapping[str, str]
) -> None:
    url = TransportURL(scheme="a+b", hosts=tuple(given_hosts), path=f"/{path}", parameters=given_parameters)
    assert TransportURL.parse(str(url)) == url


@given(texts, secrets, texts)
def test_user_password_and_secret_parameters_are_decoded(username: str, password: str, value: str) -> None:
    encoded = [quote(text, safe="") for text in (username, password, value)]
    url = TransportURL.parse("redis://{}:{}@h?token={}".format(*encoded))
    assert (url.username, url.password, url.parameters["token"]) == (username or None, password, value)


@given(st.text())
def test_any_text_is_a_url_or_a_value_error(text: str) -> None:
    for candidate in (text, f"nats://{text}"):
        try:
            url = TransportURL.parse(candidate)
        except ValueError:
            continue
        assert isinstance(str(url), str)


@given(secrets, st.sampled_from("@:/?#%,[]&="), st.integers(0, 200), st.booleans())
def test_a_password_never_shows(password: str, noise: str, position: int, is_encoded: bool) -> None:
    """Nor does it in the errors about a password that was not percent-encoded, or about a slip elsewhere."""
    encoded = quote(password, safe="")
    text = f"nats://user:{encoded if is_encoded else password}@h1:4222,[::1]:4223/path"
    query = f"?token={encoded}&a=b"
    for candidate in (text + query, insert(text, noise, position) + query, text.replace("user:", "") + query):
        try:
            url = TransportURL.parse(candidate)
        except ValueError as error:
            shown = "".join((str(error), repr(error), *traceback.format_exception(error)))
        else:
            shown = f"{url} {url!r}"
        assert MARK not in shown, candidate


def insert(text: str, noise: str, position: int) -> str:
    position = min(position, len(text))
    return text[:position] + noise + text[position:]
