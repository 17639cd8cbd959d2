"""CURVE: who may connect to whom, under which name, and who may hold shards."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from clstr.spi import RateLimitedLog, printable
from clstr_zmq._counters import Counters
from clstr_zmq._key_files import KEY_BYTES
from clstr_zmq._peers_file import SEPARATOR, Listed, Peers, Role, read_peers
from clstr_zmq._protocol import Hello
from clstr_zmq._sockets import Sockets, set_nothing

DOMAIN = b"clstr"
_ZAP_VERSION, _OK, _DENIED = b"1.0", b"200", b"400"
_ZAP_FRAMES = 9  # route, empty, version, request, domain, address, identity, mechanism, key


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """
    The keys of one peer.

    Attributes:
        owner: What the list of peers says of its key.
        public_key: In Z85.
        secret_key: In Z85.
        peers_file: The list of keys that may connect, see `read_peers`.
    """

    owner: Listed
    public_key: str
    secret_key: str = field(repr=False)
    peers_file: Path


class Security:
    """
    What protects one peer's sockets; without ``curve``, nothing.

    Args:
        curve: Its keys.
        peer_id: What the peer would be called.
        counters: Where refusals are counted.
        logger: Told who is denied.

    Attributes:
        peer_id: What it is called: with CURVE its key's name comes first, as all others demand.
        public_key: Its public key; empty without CURVE.
    """

    def __init__(self, curve: Curve | None, peer_id: str, *, counters: Counters, logger: logging.Logger) -> None:
        self._curve = curve
        self._counters = counters
        self._log = RateLimitedLog(logger)
        self.peer_id: str = peer_id if curve is None else curve.owner.called(peer_id)
        self.public_key: str = "" if curve is None else curve.public_key

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
        """Tell whether an inbox that a peer told of may be connected to. A client has none."""
        if self._curve is None:
            return key == ""
        owner = self._peers().get(key)
        return owner is not None and owner.role is Role.NODE

    def check_guest(self, user: str, hello: Hello) -> str:
        """Return why the owner of the key that ZeroMQ calls ``user`` must not say so; empty if it may."""
        if self._curve is None:
            return ""
        role, _, name = user.partition(SEPARATOR)
        return _problem(Listed(Role(role), name), hello.peer_id, has_inbox=hello.inbox is not None)

    def check_host(self, key: str, peer_id: str) -> str:
        """Return why the inbox that has this key must not have this id; empty if it may."""
        if self._curve is None:
            return ""
        owner = self._peers().get(key)
        return "its key is not on the list" if owner is None else _problem(owner, peer_id, has_inbox=True)

    def _peers(self) -> Peers:
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
        user = self._judge(parts)
        status = (_OK, b"OK", user.encode()) if user else (_DENIED, b"this key is not on the list of peers", b"")
        send(parts[0], b"", _ZAP_VERSION, parts[3], *status, b"")

    def _judge(self, parts: list[bytes]) -> str:
        """Return the role and the name of the peer that wants to connect; empty if it may not."""
        if len(parts) != _ZAP_FRAMES or parts[2] != _ZAP_VERSION or parts[4] != DOMAIN or parts[7] != b"CURVE":
            return ""
        if len(parts[8]) != KEY_BYTES:
            return ""
        owner = self._peers().get(z85.encode(parts[8]).decode())
        if owner is not None:
            return f"{owner.role.value}{SEPARATOR}{owner.name}"
        self._counters.refused_peers += 1
        address = printable(parts[5].decode(errors="replace"))
        self._log.say(logging.WARNING, "a peer at %s was refused: its key is not on the list", address)
        return ""


def _problem(owner: Listed, peer_id: str, *, has_inbox: bool) -> str:
    if has_inbox and owner.role is Role.CLIENT:
        return f"the key {owner.name!r} is a client's: it may ask, and has no inbox and no shards"
    if not owner.may_be_called(peer_id):
        return f"the key {owner.name!r} may have the peer ids {owner.called('*')} and {owner.name}, not {peer_id!r}"
    return ""
