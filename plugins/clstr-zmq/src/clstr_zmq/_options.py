"""What a ZeroMQ URL and its options say."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from clstr.errors import TransportUnavailableError
from clstr.plugins import TransportURL
from clstr_zmq._curve import Curve
from clstr_zmq._directory import Seed
from clstr_zmq._key_files import is_key, read_key_file
from clstr_zmq._parameters import parse_heartbeat
from clstr_zmq._peers_file import Listed, Role, read_peers

DEFAULT_PORT = 5555
MAX_IPC_PATH = 107  # what a UNIX socket's address holds
_TCP = re.compile(r"(?:tcp://)?(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\[\]:/\s]+)(?::(?P<port>\*|[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """
    Where the inbox is.

    Attributes:
        endpoint: As ZeroMQ writes it; the port may be ``*``.
        host: How others call this machine; empty for a UNIX socket.
        port: The port that others use; 0 is the one that is bound.
    """

    endpoint: str
    host: str = ""
    port: int = 0

    def advertised(self, bound: str) -> str:
        """Return the address that others are told, of the endpoint that was bound."""
        if not self.host:
            return bound
        return f"tcp://{self.host}:{self.port or bound.rpartition(':')[2]}"

    def check_free(self) -> None:
        """
        Check that nobody listens on a UNIX socket: ZeroMQ would take it away.

        Raises:
            TransportUnavailableError: Somebody does.
        """
        if self.host:
            return
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(self.endpoint.removeprefix("ipc://"))
            except (FileNotFoundError, ConnectionRefusedError):
                return
            except OSError as error:
                raise TransportUnavailableError(f"cannot bind {self.endpoint}: {error.strerror}") from error
        raise TransportUnavailableError(f"cannot bind {self.endpoint}: Address already in use")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """
    How to reach the others, and how to be reached.

    Attributes:
        carrier: ``tcp`` or ``ipc``.
        seeds: The inboxes that the URL names.
        bind: Our own; ``None`` for a peer that only asks.
        cluster: The cluster's name.
        heartbeat: Seconds between heartbeats; a peer that misses three is dead.
        curve: Our keys; ``None`` without CURVE.
    """

    carrier: str = "tcp"
    seeds: tuple[Seed, ...] = ()
    bind: Bind | None = None
    cluster: str = "clstr"
    heartbeat: float = 1.0
    curve: Curve | None = None

    @classmethod
    def of(cls, url: TransportURL, extra: Mapping[str, Any]) -> Options:
        """
        Read them.

        Raises:
            ValueError: They contradict each other, or one is malformed.
            TypeError: A keyword has the wrong type.
        """
        if url.username is not None or url.password is not None:
            raise ValueError("ZeroMQ knows no users and passwords: peers have keys, see curve_key")
        _check_types(extra)
        is_ipc = url.scheme == "zmq+ipc"
        seeds = _ipc_seeds(url) if is_ipc else _tcp_seeds(url)
        bind = None
        if "bind" in extra:
            bind = _ipc_bind(extra) if is_ipc else _tcp_bind(extra)
        elif "advertise" in extra:
            raise ValueError("advertise says how others reach what bind binds: give bind too")
        if not seeds and bind is None:
            raise ValueError(f"the URL names no peer, and there is no bind: write {url.scheme}://{_example(is_ipc)}")
        curve = _curve(extra)
        if curve is None and not is_ipc and not extra.get("insecure", False):
            _check_loopback(bind, seeds)
        names = ("cluster", "heartbeat")
        return cls(
            carrier="ipc" if is_ipc else "tcp",
            seeds=_with_keys(seeds, extra.get("server_key"), curve),
            bind=bind,
            curve=curve,
            **{name: extra[name] for name in names if name in extra},
        )


def _check_types(extra: Mapping[str, Any]) -> None:
    """Check what came as a keyword and not as text."""
    kinds: dict[str, type | tuple[type, ...]] = {
        "curve_key": (str, Path),
        "curve_peers": (str, Path),
        "heartbeat": (int, float),
        "insecure": bool,
    }
    for name, value in extra.items():
        kind = kinds.get(name, str)
        if not isinstance(value, kind) or (name == "heartbeat" and isinstance(value, bool)):
            raise TypeError(f"{name} has the wrong type: {type(value).__name__}")
    if "heartbeat" in extra:
        parse_heartbeat(str(extra["heartbeat"]))


def _example(is_ipc: bool) -> str:  # noqa: FBT001 -- which of two texts
    return "/run/app/a.sock?bind=/run/app/b.sock" if is_ipc else "host:5555?bind=tcp://127.0.0.1:5555"


def _tcp_seeds(url: TransportURL) -> tuple[Seed, ...]:
    if url.path:
        raise ValueError("malformed zmq URL: it has no path; write zmq://host:5555")
    return tuple(Seed(host=host, port=DEFAULT_PORT if port is None else port) for host, port in url.hosts)


def _ipc_seeds(url: TransportURL) -> tuple[Seed, ...]:
    if url.hosts:
        raise ValueError("malformed zmq+ipc URL: write absolute paths, as in zmq+ipc:///run/app/a.sock")
    return tuple(Seed(path=_check_path(path)) for path in url.path.split(",")) if url.path else ()


def _check_path(path: str) -> str:
    if not path.startswith("/") or path.endswith("/") or len(path.encode()) > MAX_IPC_PATH:
        raise ValueError(f"a UNIX socket's path is absolute and has at most {MAX_IPC_PATH} bytes; {path!r} is no such")
    return path


def _ipc_bind(extra: Mapping[str, Any]) -> Bind:
    if "advertise" in extra:
        raise ValueError("advertise is for addresses of TCP: a UNIX socket has the same path for all")
    return Bind(endpoint=f"ipc://{_check_path(extra['bind'].removeprefix('ipc://'))}")


def _tcp_bind(extra: Mapping[str, Any]) -> Bind:
    host, port = _split("bind", extra["bind"])
    if port is None:
        raise ValueError("bind needs a port: write tcp://127.0.0.1:5555, or tcp://127.0.0.1:* for any that is free")
    if "advertise" in extra:
        public, public_port = _split("advertise", extra["advertise"])
        if _is_wildcard(public) or public_port == "*":
            raise ValueError("advertise must be an address that others can connect to")
        return Bind(endpoint=f"tcp://{host}:{port}", host=public, port=int(public_port or 0))
    if _is_wildcard(host):
        raise ValueError("bind is every interface of this machine: say with advertise=host:port how others reach it")
    return Bind(endpoint=f"tcp://{host}:{port}", host=host)


def _split(name: str, text: str) -> tuple[str, str | None]:
    match = _TCP.fullmatch(text)
    if match is None or (match["port"] not in {None, "*"} and int(match["port"]) > 65535):  # noqa: PLR2004 -- ports end there
        raise ValueError(f"{name} must be tcp://host:port, not {text!r}")
    if not text.isascii():
        raise ValueError(f"{name} must be ASCII: write an international name in its form xn--..., not {text!r}")
    return match["host"], match["port"]


def _is_wildcard(host: str) -> bool:
    return host in {"*", "0.0.0.0", "[::]"}  # noqa: S104 -- to look for it


def _check_loopback(bind: Bind | None, seeds: tuple[Seed, ...]) -> None:
    hosts = [seed.host for seed in seeds]
    if bind is not None:
        hosts.append(bind.endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]"))
    open_hosts = [host for host in hosts if not _is_loopback(host)]
    if open_hosts:
        raise ValueError(
            f"{open_hosts[0]} is beyond this machine, where others could read and send messages: give curve_key and "
            "curve_peers, made by python -m clstr_zmq keygen, or insecure=True if the network is protected"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def _curve(extra: Mapping[str, Any]) -> Curve | None:
    given = [name for name in ("curve_key", "curve_peers") if name in extra]
    if not given:
        if "server_key" in extra:
            raise ValueError("server_key is a part of CURVE: give curve_key and curve_peers too")
        return None
    if len(given) == 1:
        raise ValueError("CURVE needs both curve_key, our own key, and curve_peers, the list of keys that may connect")
    public_key, secret_key = read_key_file(Path(extra["curve_key"]))
    peers_file = Path(extra["curve_peers"])
    owner = read_peers(peers_file).get(public_key)
    if owner is None:
        raise ValueError(
            f"our own public key is not in curve_peers: add 'node NAME {public_key}', or 'client NAME {public_key}' if "
            "this peer only asks, everywhere"
        )
    _check_role(owner, extra)
    return Curve(owner=owner, public_key=public_key, secret_key=secret_key, peers_file=peers_file)


def _check_role(owner: Listed, extra: Mapping[str, Any]) -> None:
    if owner.role is Role.NODE:
        return
    if "bind" in extra:
        raise ValueError(
            f"the key {owner.name!r} is a client's in curve_peers, and a client has no inbox: leave bind out, or write "
            f"'node {owner.name} KEY' there, everywhere"
        )
    if "server_key" not in extra:
        raise ValueError("a client's key is no inbox's: give server_key, the public key of the peers in the URL")


def _with_keys(seeds: tuple[Seed, ...], server_key: str | None, curve: Curve | None) -> tuple[Seed, ...]:
    """Give each seed its public key: one for all, or one for each, in order."""
    if curve is None or not seeds:
        return seeds
    keys = (server_key or curve.public_key).split(",")
    if len(keys) == 1:
        keys *= len(seeds)
    if len(keys) != len(seeds) or not all(map(is_key, keys)):
        raise ValueError("server_key must be one public key, or one for each host of the URL, joined by commas")
    return tuple(Seed(host=s.host, port=s.port, path=s.path, key=key) for s, key in zip(seeds, keys, strict=True))
