"""CURVE: who may connect to whom, and under which name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from clstr.spi import RateLimitedLog
from clstr_zmq._key_files import KEY_BYTES, KEY_CHARACTERS, is_key
from clstr_zmq._sockets import Sockets, set_nothing

DOMAIN = b"clstr"
_ZAP_VERSION, _OK, _DENIED = b"1.0", b"200", b"400"
_ZAP_FRAMES = 9  # route, empty, version, request, domain, address, identity, mechanism, key


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """
    The keys of one peer.

    Attributes:
        name: What its key is called in the list of peers.
        public_key: In Z85.
        secret_key: In Z85.
        peers_file: The list of keys that may connect, see `read_peers`.
    """

    name: str
    public_key: str
    secret_key: str = field(repr=False)
    peers_file: Path


def read_peers(file: Path) -> Mapping[str, str]:
    """
    Read a list of peers: a name and a public key on each line; lines that begin with ``#`` are comments.

    Returns:
        The names by key.

    Raises:
        OSError: The file cannot be read.
        ValueError: A line is malformed.
    """
    names: dict[str, str] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not is_key(words[1]):  # noqa: PLR2004 -- name and key
            raise ValueError(f"{file}, line {number}: write a name and a public key of {KEY_CHARACTERS} characters")
        names[words[1]] = words[0]
    return names


class Security:
    """
    What protects one peer's sockets; without ``curve``, nothing.

    Args:
        curve: Its keys.
        peer_id: What the peer would be called.
        logger: Told who is denied.

    Attributes:
        peer_id: What it is called: with CURVE its key's name comes first, as all others demand.
        public_key: Its public key; empty without CURVE.
    """

    def __init__(self, curve: Curve | None, peer_id: str, logger: logging.Logger) -> None:
        self._curve = curve
        self._log = RateLimitedLog(logger)
        self.peer_id: str = peer_id
        self.public_key: str = ""
        if curve is not None:
            self.public_key = curve.public_key
            if not _may_be_called(curve.name, peer_id):
                self.peer_id = f"{curve.name}.{peer_id}"

    def start(self, sockets: Sockets) -> None:
        """Begin to answer ZeroMQ's question who may connect. Nobody may, as long as nobody answers."""
        if self._curve is not None:
            wire = sockets.zap(lambda frames: self._answer(frames, wire.send))

    def guard(self, router: zmq.Socket[bytes]) -> None:
        """Let only known keys connect to an inbox."""
        if self._curve is not None:
            router.setsockopt(zmq.CURVE_SERVER, 1)
            router.setsockopt_string(zmq.CURVE_SECRETKEY, self._curve.secret_key)
            router.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
            router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # else everybody may, when nobody answers

    def credentials(self, key: str) -> Callable[[zmq.Socket[bytes]], None]:
        """Return what lets a socket connect to the inbox that has this public key, and to no other."""
        curve = self._curve
        if curve is None:
            return set_nothing

        def set_keys(dealer: zmq.Socket[bytes]) -> None:
            dealer.setsockopt_string(zmq.CURVE_SERVERKEY, key)
            dealer.setsockopt_string(zmq.CURVE_PUBLICKEY, curve.public_key)
            dealer.setsockopt_string(zmq.CURVE_SECRETKEY, curve.secret_key)

        return set_keys

    def trusts(self, key: str) -> bool:
        """Tell whether an inbox that a peer told of may be connected to."""
        return key == "" if self._curve is None else key in self._names()

    def check_name(self, key_name: str, peer_id: str) -> str:
        """Return why the owner of the key of this name must not have this id; empty if it may."""
        if self._curve is None or _may_be_called(key_name, peer_id):
            return ""
        return f"the key {key_name!r} may have the peer ids {key_name} and {key_name}.*, not {peer_id!r}"

    def check_host(self, key: str, peer_id: str) -> str:
        """Return why the inbox that has this key must not have this id; empty if it may."""
        return "" if self._curve is None else self.check_name(self._names().get(key, ""), peer_id)

    def _names(self) -> Mapping[str, str]:
        """Read the list of peers, each time: who is taken off it is out. A list that cannot be read has nobody."""
        if self._curve is None:
            return {}
        try:
            return read_peers(self._curve.peers_file)
        except (OSError, ValueError) as error:
            self._log.say(logging.ERROR, "nobody can connect: %s", error)
            return {}

    def _answer(self, frames: list[zmq.Frame], send: Callable[..., bool]) -> None:
        parts = [frame.bytes for frame in frames]
        if len(parts) < 5:  # noqa: PLR2004 -- where the request's number is
            return
        name = self._judge(parts)
        status = (_OK, b"OK", name.encode()) if name else (_DENIED, b"this key is not on the list of peers", b"")
        send(parts[0], b"", _ZAP_VERSION, parts[3], *status, b"")

    def _judge(self, parts: list[bytes]) -> str:
        """Return the name of who wants to connect; empty if it may not."""
        if len(parts) != _ZAP_FRAMES or parts[2] != _ZAP_VERSION or parts[4] != DOMAIN or parts[7] != b"CURVE":
            return ""
        if len(parts[8]) != KEY_BYTES:
            return ""
        name = self._names().get(z85.encode(parts[8]).decode(), "")
        if not name:
            self._log.say(
                logging.WARNING,
                "a peer at %s was refused: its key is not on the list",
                parts[5].decode(errors="replace"),
            )
        return name


def _may_be_called(key_name: str, peer_id: str) -> bool:
    return key_name != "" and (peer_id == key_name or peer_id.startswith(f"{key_name}."))
