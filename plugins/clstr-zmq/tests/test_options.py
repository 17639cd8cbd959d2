"""What a URL says, and which ones say nothing sensible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import clstr
from clstr.errors import TransportUnavailableError
from clstr.plugins import TransportURL
from clstr_zmq.__main__ import make_key
from clstr_zmq._directory import Seed
from clstr_zmq._options import Bind, Options
from clstr_zmq._peers_file import Role


def options(url: str, **extra: Any) -> Options:
    return Options.of(TransportURL.parse(url), extra)


def test_hosts_are_seeds_and_the_port_is_5555_unless_given() -> None:
    chosen = options("zmq://127.0.0.1,localhost:7000,[::1]:7001")
    assert chosen.seeds == (
        Seed(host="127.0.0.1", port=5555),
        Seed(host="localhost", port=7000),
        Seed(host="::1", port=7001),
    )
    assert (chosen.carrier, chosen.bind, chosen.cluster, chosen.heartbeat) == ("tcp", None, "clstr", 1.0)


def test_paths_are_seeds_of_unix_sockets() -> None:
    chosen = options("zmq+ipc:///run/a.sock,/run/b.sock", bind="/run/c.sock")
    assert chosen.seeds == (Seed(path="/run/a.sock"), Seed(path="/run/b.sock"))
    assert chosen.bind == Bind(endpoint="ipc:///run/c.sock")
    assert options("zmq+ipc://", bind="ipc:///run/c.sock").bind == chosen.bind


@pytest.mark.parametrize(
    ("extra", "bound", "advertised"),
    [
        ({"bind": "tcp://127.0.0.1:7000"}, "tcp://127.0.0.1:7000", "tcp://127.0.0.1:7000"),
        ({"bind": "127.0.0.1:*"}, "tcp://127.0.0.1:41234", "tcp://127.0.0.1:41234"),
        ({"bind": "[::1]:7000"}, "tcp://[::1]:7000", "tcp://[::1]:7000"),
        ({"bind": "0.0.0.0:7000", "advertise": "pod-1:80", "insecure": True}, "tcp://0.0.0.0:7000", "tcp://pod-1:80"),
        ({"bind": "*:*", "advertise": "tcp://pod-1", "insecure": True}, "tcp://0.0.0.0:41234", "tcp://pod-1:41234"),
    ],
    ids=repr,
)
def test_others_are_told_an_address_that_they_can_reach(extra: dict[str, Any], bound: str, advertised: str) -> None:
    bind = options("zmq://", **extra).bind
    assert bind is not None
    assert bind.advertised(bound) == advertised


@pytest.mark.parametrize(
    ("url", "extra", "reason"),
    [
        ("zmq://", {}, "names no peer, and there is no bind"),
        ("zmq+ipc://", {}, "names no peer, and there is no bind"),
        ("zmq://user:password@host", {}, "no users and passwords"),
        ("zmq://127.0.0.1/path", {}, "it has no path"),
        ("zmq+ipc://host/a.sock", {}, "write absolute paths"),
        ("zmq+ipc:///run/a.sock,b.sock", {}, "'b.sock' is no such"),
        ("zmq+ipc:///" + "x" * 120, {}, "at most 107 bytes"),
        ("zmq+ipc:///run/a.sock", {"bind": "/run/b.sock", "advertise": "host:1"}, "for addresses of TCP"),
        ("zmq://127.0.0.1", {"advertise": "host:1"}, "give bind too"),
        ("zmq://127.0.0.1", {"bind": "tcp://127.0.0.1"}, "bind needs a port"),
        ("zmq://127.0.0.1", {"bind": "tcp://127.0.0.1:99999"}, "must be tcp://host:port"),
        ("zmq://127.0.0.1", {"bind": "udp://127.0.0.1:1"}, "must be tcp://host:port"),
        ("zmq://127.0.0.1", {"bind": "0.0.0.0:1"}, "say with advertise"),
        ("zmq://127.0.0.1", {"bind": "0.0.0.0:1", "advertise": "*:1"}, "others can connect to"),
        ("zmq://127.0.0.1", {"bind": "0.0.0.0:1", "advertise": "a:1"}, "0.0.0.0 is beyond this machine"),
        ("zmq://127.0.0.1", {"bind": "192.0.2.1:1"}, "python -m clstr_zmq keygen"),
        ("zmq://example.org", {}, "example.org is beyond this machine"),
        ("zmq://127.0.0.1", {"server_key": "k" * 40}, "give curve_key and curve_peers"),
        ("zmq://127.0.0.1", {"curve_key": Path("a")}, "CURVE needs both"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_makes_no_sense_is_explained(url: str, extra: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        options(url, **extra)


@pytest.mark.parametrize(
    "extra", [{"heartbeat": True}, {"heartbeat": []}, {"insecure": 1}, {"bind": 5}, {"cluster": b"x"}], ids=repr
)
def test_keywords_of_the_wrong_type_are_named(extra: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(extra))} has the wrong type"):
        options("zmq://127.0.0.1", **extra)


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        ("heartbeat=0.001", "seconds from 0.01"),
        ("heartbeat=soon", "must be seconds above 0"),
        ("insecure=yes", "true or false"),
        ("cluster=a%20b", "1 to 128"),
        ("curve_peers=no/such/file", "names no file"),
    ],
)
async def test_malformed_parameters_are_named_at_the_call(parameter: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"{parameter.partition('=')[0]}.*{reason}"):
        await clstr.connect(f"zmq://127.0.0.1?{parameter}")


def test_a_heartbeat_keyword_out_of_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="seconds from"):
        options("zmq://127.0.0.1", heartbeat=0.001)


def test_our_own_key_must_be_on_the_list(tmp_path: Path) -> None:
    key, peers = tmp_path / "key", tmp_path / "peers"
    make_key(Role.NODE, "node", key)
    peers.write_text("")
    with pytest.raises(ValueError, match="our own public key is not in curve_peers"):
        options("zmq://127.0.0.1", curve_key=key, curve_peers=peers)


def test_a_client_has_no_inbox_and_says_whose_key_the_seeds_have(tmp_path: Path) -> None:
    key, peers = tmp_path / "key", tmp_path / "peers"
    peers.write_text(make_key(Role.CLIENT, "web", key))
    curve = {"curve_key": key, "curve_peers": peers}
    with pytest.raises(ValueError, match=r"'web' is a client's in curve_peers.*write 'node web KEY'"):
        options("zmq://127.0.0.1", bind="tcp://127.0.0.1:5555", server_key="a" * 40, **curve)
    with pytest.raises(ValueError, match="give server_key"):
        options("zmq://127.0.0.1", **curve)
    [seed] = options("zmq://127.0.0.1", server_key="a" * 40, **curve).seeds
    assert seed.key == "a" * 40


@pytest.mark.parametrize("name", ["bind", "advertise"])
def test_an_address_that_others_would_refuse_is_refused_here(name: str) -> None:
    with pytest.raises(ValueError, match="must be ASCII"):
        options("zmq://127.0.0.1", **{"bind": "tcp://127.0.0.1:5555", name: "tcp://b\u00fccher:5555"})


def test_each_seed_has_its_key_or_all_have_ours(tmp_path: Path) -> None:
    key, peers = tmp_path / "key", tmp_path / "peers"
    peers.write_text(make_key(Role.NODE, "node", key))
    curve = {"curve_key": key, "curve_peers": peers}
    own = peers.read_text().split()[2]
    a, b = "a" * 40, "b" * 40
    hosts = "zmq://10.0.0.1,10.0.0.2"
    assert [seed.key for seed in options(hosts, **curve).seeds] == [own, own]
    assert [seed.key for seed in options(hosts, server_key=a, **curve).seeds] == [a, a]
    assert [seed.key for seed in options(hosts, server_key=f"{a},{b}", **curve).seeds] == [a, b]
    for wrong in ("short", f"{a},{b},{a}", "#" * 40):
        with pytest.raises(ValueError, match="one public key, or one for each host"):
            options(hosts, server_key=wrong, **curve)


def test_a_unix_socket_that_cannot_be_tried_is_explained(tmp_path: Path) -> None:
    with pytest.raises(TransportUnavailableError, match="cannot bind ipc://"):
        Bind(endpoint=f"ipc://{tmp_path / ('x' * 200)}").check_free()
