"""What is fuzzed of clstr-zmq: its frames, both ends of its connections, who may connect, and the files that say so."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import suppress

import zmq
from zmq.utils import z85

from clstr.spi import RateLimitedLog
from clstr_zmq._counters import Counters
from clstr_zmq._curve import DOMAIN, Curve, Security
from clstr_zmq._key_files import read_key_file
from clstr_zmq._peers_file import Listed, Role, read_peers
from clstr_zmq._protocol import Answer, Request, decode, encode, encode_answer, encode_request
from fuzz.folder import folder
from fuzz.zmq_peer import BAD_PLACE, LOGGER, STRANGERS, Frame, Peer, hello, run

KEY_BYTES = 32
JUDGED = (2, 4, 7, 8)  # of a question who may connect: the version, the domain, the mechanism, the key


def zmq_frame(data: bytes) -> None:
    """A frame is read or refused, and what was read is written and read again as the same."""
    if not data:
        return  # `unpack` yields none
    try:
        message = decode(memoryview(data))
    except ValueError:
        return
    match message:
        case Request():
            again = encode_request(message.token, message.shard, message.body)
        case Answer():
            again = encode_answer(message.token, message.body)
        case _:
            again = encode(message)
    assert decode(memoryview(again)) == message


def zmq_inbox(data: bytes) -> None:
    """Whatever strangers say to an inbox, its good neighbour notices nothing, and they leave nothing behind."""

    async def act(peer: Peer) -> None:
        await peer.play(data)
        await peer.check_health()
        await peer.check_calm()
        await peer.check_health()

    run(act)


def zmq_outbox(data: bytes) -> None:
    """Whatever an inbox says that a stranger told of, the good neighbour is asked and answers."""

    async def act(peer: Peer) -> None:
        peer.say(STRANGERS[0], encode(hello("bad", 1, BAD_PLACE)))
        await peer.play_inbox(data)
        if peer.engine.state.is_up:
            if (outbox := peer.outbox(BAD_PLACE)) is not None:
                outbox.hang_up("the test says so")
            await peer.check_health()

    run(act)


@functools.cache
def _security() -> tuple[Security, bytes]:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    peers = folder() / "peers"
    peers.write_text(f"node good {public}\n")
    curve = Curve(owner=Listed(Role.NODE, "home"), public_key=public, secret_key=secret, peers_file=peers)
    security = Security(curve, "home", counters=Counters(), logger=LOGGER)
    security._log = RateLimitedLog(LOGGER, clock=lambda: 0.0)  # no loop runs
    return security, z85.decode(public)


def zmq_zap(data: bytes) -> None:
    """Who may connect: nobody but the owner of the key, who always may, and never an exception."""
    security, key = _security()
    good = [b"route", b"", b"1.0", b"7", DOMAIN, b"127.0.0.1", b"id", b"CURVE", key]
    pieces = [*_pieces(data)]
    questions = [pieces, [*good[:-1], data], [*good[:-1], key, data]]
    questions += [[*good[:at], piece, *good[at + 1 :]] for at, piece in enumerate(pieces[: len(good)])]
    for question in questions:
        is_good = len(question) == len(good) and all(question[at] == good[at] for at in JUDGED)
        for answer in _answers(security, question):
            assert answer == ((b"200", b"node:good") if is_good else (b"400", b""))
    assert _answers(security, good) == [(b"200", b"node:good")]


def _answers(security: Security, question: list[bytes]) -> list[tuple[bytes, bytes]]:
    sent: list[tuple[bytes, ...]] = []

    def note(*parts: bytes) -> bool:
        sent.append(parts)
        return True

    security._answer([Frame(part) for part in question], note)  # type: ignore[misc]  # a part of a frame
    assert all(answer[:2] == (question[0], b"") and answer[3] == question[3] for answer in sent)
    return [(answer[4], answer[6]) for answer in sent]


def _pieces(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        yield data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]


def zmq_files(data: bytes) -> None:
    """A list of peers and a key file are read or refused; what was read, ZeroMQ takes for keys."""
    file = folder() / "file"
    file.write_bytes(data)
    keys: list[str] = []
    with suppress(ValueError):
        keys += read_peers(file)
    with suppress(ValueError):
        keys += read_key_file(file)
    assert all(len(z85.decode(key)) == KEY_BYTES for key in keys)
