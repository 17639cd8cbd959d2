"""An inbox and its reception, without sockets: what strangers say changes nothing for those who are here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, cast

import pytest

from clstr.spi import pack, unpack
from clstr_zmq._counters import Counters
from clstr_zmq._identity import Identity
from clstr_zmq._inbox import Inbox
from clstr_zmq._protocol import (
    Control,
    Hello,
    Introduced,
    Message,
    Peers,
    Ping,
    Place,
    Pong,
    Refused,
    Welcome,
    decode,
    encode,
)

HOME = Place(address="tcp://127.0.0.1:1")
ME = Identity(cluster="clstr", peer_id="me", epoch=7, inbox=HOME, max_bytes=1)


class Frame:
    """What ZeroMQ hands over."""

    def __init__(self, data: bytes) -> None:
        self.bytes = data

    def get(self, _name: str) -> str:
        return ""


class Wire:
    """Notes what is said, by route."""

    read_at = 0.0

    def __init__(self) -> None:
        self.said: list[tuple[bytes, Message]] = []

    def send(self, route: bytes, message: bytes) -> bool:
        self.said += [(route, decode(frame)) for frame in unpack(message)]
        return True

    def heard(self, kind: type[Any]) -> list[tuple[bytes, Any]]:
        return [each for each in self.said if isinstance(each[1], kind)]


class Host:
    """A peer that holds nothing and trusts everybody."""

    sink: Any = None

    def held(self) -> Sequence[int]:
        return ()

    def places(self) -> list[Place]:
        return []

    def check_guest(self, user: str, hello: Hello) -> str:
        return ""

    def visited(self, hello: Hello) -> None:
        """Somebody came."""


@pytest.fixture
async def wire() -> Wire:
    return Wire()


@pytest.fixture
async def inbox(wire: Wire) -> Inbox:
    return Inbox(cast("Any", wire), HOME, ME, Host(), counters=Counters(), logger=logging.getLogger("test"))


async def say(inbox: Inbox, route: bytes, *messages: Hello | Control) -> None:
    inbox.receive(cast("Any", [Frame(route), Frame(pack(map(encode, messages)))]))
    await asyncio.sleep(0)


def hello(peer_id: str, epoch: int = 1, port: int = 2) -> Hello:
    inbox = Place(address=f"tcp://127.0.0.1:{port}")
    return Hello(cluster="clstr", peer_id=peer_id, epoch=epoch, inbox=inbox, max_bytes=1)


async def test_a_newcomer_that_repeats_its_hello_is_tried_once(inbox: Inbox, wire: Wire) -> None:
    """Each trial would end with the dismissal of the id's holder, of which only the last one is called off."""
    await say(inbox, b"holder", hello("twin"))
    for _ in range(3):
        await say(inbox, b"newcomer", hello("twin", epoch=2))
    [(route, ping)] = wire.heard(Ping)
    assert route == b"holder"
    await say(inbox, b"holder", Pong(number=ping.number))
    [(route, refusal)] = wire.heard(Refused)
    assert (route, refusal.code) == (b"newcomer", "taken")
    assert inbox._reception._trials == {}


async def test_nobody_is_waited_for_by_nobody(inbox: Inbox) -> None:
    """Of other peers everybody is told, and has to acknowledge it only for the sake of a newcomer."""
    await say(inbox, b"mute", hello("mute"))
    for port in range(3, 10):
        inbox.tell([Place(address=f"tcp://127.0.0.1:{port}")])
    assert inbox._guests._rounds == []


async def test_who_comes_in_our_own_name_is_welcome_and_nobody_is_told(inbox: Inbox, wire: Wire) -> None:
    """It is this very peer, whom its guests know; others who say so must not make them dial."""
    await say(inbox, b"guest", hello("guest"))
    for port in range(3, 10):
        await say(inbox, b"me", hello("me", ME.epoch, port))
    for kind in (Welcome, Introduced):
        assert sum(route == b"me" for route, _ in wire.heard(kind)) == 7
    assert wire.heard(Peers) == []
    assert [guest.route for guest in inbox.guests] == [b"guest"]
