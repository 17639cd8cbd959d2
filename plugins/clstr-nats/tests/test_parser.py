"""`clstr_nats._parser`: it reads what nats-py's parser reads, however it was cut."""

from __future__ import annotations

import itertools
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from clstr_nats._parser import MessageParser

Message = tuple[int, bytes, bytes, bytes, bytes]

WIRE = (
    b"MSG clstr.shard.7 9 _INBOX.a.b 5\r\nhello\r\n"
    b"MSG _INBOX.a.1_7 1 0\r\n\r\n"
    b"PONG\r\n"
    b"HMSG _INBOX.a.2_7 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"
    b"MSG a 2 12\r\nMSG b 1 1\r\nx\r\n"  # a payload that looks like a message
    b"-ERR 'Permissions Violation for Publish to \"a\"'\r\n"
    b"MSG b 3 c 2\r\n\r\n\r\n"
)


class Seen(Client):
    """A client that notes what its parser says; never connected."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Message] = []
        self.pongs = 0
        self.errors: list[str] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self.messages.append((sid, subject, reply, headers or b"", data))

    async def _process_pong(self) -> None:
        self.pongs += 1

    async def _process_err(self, err_msg: str) -> None:
        self.errors.append(err_msg)

    @property
    def everything(self) -> tuple[list[Message], int, list[str]]:
        """All that it has seen."""
        return self.messages, self.pongs, self.errors


def ours(seen: Seen) -> MessageParser:
    """Return our parser for ``seen``."""
    return MessageParser(seen, lambda *message: seen.messages.append(message))


async def read_by(parser: Parser, *chunks: bytes) -> None:
    """Let ``parser`` read ``chunks``."""
    for chunk in chunks:
        await cast("Any", parser).parse(chunk)


async def expected() -> tuple[list[Message], int, list[str]]:
    """What nats-py's own parser makes of the wire."""
    seen = Seen()
    await read_by(Parser(seen), WIRE)
    return seen.everything


async def test_the_wire_holds_what_it_is_meant_to() -> None:
    messages, pongs, errors = await expected()
    assert (len(messages), pongs, len(errors)) == (5, 1, 1)


@pytest.mark.parametrize("size", range(1, 40))
async def test_chunks_of_any_size_are_read_as_nats_py_reads_them(size: int) -> None:
    seen = Seen()
    await read_by(ours(seen), *(WIRE[at : at + size] for at in range(0, len(WIRE), size)))
    assert seen.everything == await expected()


@given(st.lists(st.integers(0, len(WIRE)), max_size=8))
async def test_any_cuts_are_read_as_nats_py_reads_them(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WIRE)]
    seen = Seen()
    await read_by(ours(seen), *(WIRE[start:end] for start, end in itertools.pairwise(edges)))
    assert seen.everything == await expected()


@pytest.mark.parametrize("size", [7, 20, 1000])
async def test_messages_do_not_reach_nats_py_whatever_is_between_them(size: int) -> None:
    """Else this parser would be of no use, and nobody would know."""
    taken: list[Message] = []
    seen = Seen()
    wire = b"MSG a 1 2\r\nhi\r\nPONG\r\n" * 5
    parser = MessageParser(seen, lambda *message: taken.append(message))
    await read_by(parser, *(wire[at : at + size] for at in range(0, len(wire), size)))
    assert taken == [(1, b"a", b"", b"", b"hi")] * 5
    assert (seen.messages, seen.pongs) == ([], 5)


@pytest.mark.parametrize("line", [b"MSG a b 1\r\nx\r\n", b"MSG a 1 -1\r\nx\r\n", b"MSG a\r\n", b"nonsense\r\n"])
async def test_what_is_malformed_is_left_to_nats_py_which_refuses_it(line: bytes) -> None:
    seen = Seen()
    with pytest.raises(ProtocolError):
        await read_by(ours(seen), b"MSG a 1 2\r\nhi\r\n" + line)
    assert seen.messages == [(1, b"a", b"", b"", b"hi")]
