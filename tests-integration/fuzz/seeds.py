"""Bytes to begin with: real messages, from which a fuzzer gets to unreal ones sooner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clstr._messages.error_wire import encode_error
from clstr._messages.wire import CODECS
from clstr.errors import OverloadedError
from clstr.spi import pack
from clstr_redis import _frames as redis_frames
from clstr_zmq import _protocol as zmq
from clusters.unix_frames import Frame, Kind
from fuzz.zmq_peer import BAD_PLACE, REQUEST, hello
from fuzz.zmq_script import BEAT, DEAF, LEAVE, LONG, RAW, SEVERAL, passes, says

URLS = ("nats://user:secret@host:4222,[::1]:4223/path?prefix=a.b&codec=json", "memory://name", "redis+unix:///a/b")
CREDENTIALS = (b"NATS USER JWT", b"USER NKEY SEED")
Z85 = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
PING = zmq.Ping(number=1)
PLACES = [zmq.Place(address=f"tcp://127.0.0.1:{port}") for port in range(10, 30)]

# What fuzzing has found: each is run against every target by the tests.
FOUND = (
    b'{"SHARD":' + b"8" * 90 + b',"data":[]}',  # a number that no codec could write again
    b"-7_2\nNATS0 .0 503\n",  # a number that is no token of ours
    b"k",  # no key of 32 bytes, about which ZeroMQ asks
    b"node " + b'"' * 40,  # 40 characters that are no key
    says(0, hello("good", 2)) * 2 + passes(BEAT),  # two trials for one id, of which one is called off
    says(0, hello("deaf", 1), DEAF) + says(0, PING, DEAF) * 9,  # who makes us speak ...
    says(0, PING, DEAF) * 9,  # ... and read nothing
    b"".join(says(0, hello("home", 5, place)) for place in PLACES),  # inboxes that are nobody's, told to everybody
    b"".join(says(0, zmq.Welcome(peer_id="bad", epoch=1, inbox=place, max_bytes=1)) for place in PLACES),  # the same
    says(0, hello("mute", 1)) + b"".join(says(1, hello("new", 1, place)) + says(1, zmq.Bye()) for place in PLACES),
    b"".join(says(who, hello(f"mute-{who}", 1, PLACES[who])) for who in range(3)),  # told of each other, and silent
)


def seeds() -> Iterator[bytes]:
    """Yield them."""
    for codec in CODECS.values():
        frame = codec.new_request(1, "Type", b"data", "_INBOX.x", {"x-clstr-key": "k"}, 5000, 1, 1, True, 2, ["a", "b"])
        yield codec.encode(frame)
        yield codec.encode(codec.new_request(1, "Type", b"data"))
        yield codec.encode(codec.new_reply(b"data"))
        yield encode_error(codec, OverloadedError("max_queue", 1000))
    yield b'{"SHARD":1,"Type":null,"data":[1,2,255]}'
    yield pack([b"one", b"two"])
    inbox = b"clstr:in:other:0123456789abcdef"
    yield redis_frames.join(inbox, [redis_frames.request(1, 7, b"{}"), redis_frames.answer(7, b"{}")])
    yield b"7_1\nNATS/1.0 503\n"
    yield b'INFO {"headers":true}\r\nMSG clstr.shard.7 9 _INBOX.a 2\r\nhi\r\nPONG\r\n'
    yield b"HMSG a 1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"
    yield b"-ERR 'Permissions Violation for Publish to \"clstr.shard.1\"'\r\n"
    yield b"".join(b"-----BEGIN %s-----\nx\n------END %s------\n" % (name, name) for name in CREDENTIALS)
    yield b'{"id":"12345678-1234-5678-1234-567812345678","at":"2020-01-01T00:00:00Z","lines":{"a":[[1,2.5],[3,null]]}}'
    yield b"".join(Frame(kind, 1, 7, b"{}").encode() for kind in Kind)
    yield from _zmq_scripts()
    yield f"# peers\nnode a {Z85}\n".encode()
    yield f'curve\n    public-key = "{Z85}"\n    secret-key = "{Z85}"\n'.encode()
    yield from (url.encode() for url in URLS)
    yield from FOUND


def _zmq_scripts() -> Iterator[bytes]:
    """Yield what peers say to each other over ZeroMQ: frames, and scripts of `fuzz.zmq_peer`."""
    frames = [
        zmq.encode(hello("good", 2)),
        zmq.encode(zmq.Welcome(peer_id="bad", epoch=1, inbox=BAD_PLACE, max_bytes=4096)),
        zmq.encode(zmq.Holds(number=1, shards=[1, 7])),
        zmq.encode(zmq.Drops(number=2, shards=[7])),
        zmq.encode(zmq.Peers(number=3, places=[zmq.Place(address=f"tcp://127.0.0.1:{n}") for n in range(4, 9)])),
        zmq.encode(zmq.Refused(code="stranger", reason="?")),
        zmq.encode(zmq.Ping(number=1)),
        zmq.encode(zmq.TooLarge(token=1, size=9999)),
        zmq.encode(zmq.Introduced()),
        zmq.encode_answer(1, b"{}"),
    ]
    yield from frames
    yield b"".join(says(0, frame) for frame in frames) + passes(BEAT)
    yield b"".join(says(0, zmq.Holds(number=1, shards=[*half])) for half in (range(6), range(6, 12)))
    yield b"".join(says(0, zmq.Peers(number=1, places=half)) for half in (PLACES[:6], PLACES[6:12]))
    yield says(0, pack(frames), RAW) + says(0, frames[0], SEVERAL)
    guest: list[Any] = [
        hello("guest", 1, BAD_PLACE),
        zmq.encode_request(1, 0, REQUEST),
        zmq.Ack(number=1),
        zmq.Pong(number=1),
    ]
    yield b"".join(says(1, each) for each in [*guest, zmq.Ping(number=2), zmq.Bye()]) + passes(LONG)
    yield says(2, hello("guest", 1)) + says(2, hello("home", 5), DEAF) + passes(LEAVE, 2) + says(2, b"?")
