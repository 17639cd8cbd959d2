"""Content that transports have lost: bytes, sizes, headers, types and shards at the edges of what may be."""

from __future__ import annotations

import random
from itertools import chain
from typing import Any

import clstr

SMALL_BYTES = 300
"""Every size up to this is tried: one byte for the length, two for that of a WebSocket frame, short strings."""

_BLOCKS = sorted({near for power in range(9, 21) for near in (2**power - 1, 2**power, 2**power + 1)})
_ROUND = [1_000, 10_000, 65_000, 100_000, 131_000, 500_000, 1_000_000]

BYTES = (
    b"null",
    b"{}",
    b'{"err":"no","code":"draining"}',
    b"\x95\xc0",
    b"\xff\xfe",
    b"\xef\xbb\xbfmarked",
    b"\r\nlines\r\nend\r\n",
    b"line\n",
    b" \t padded \t ",
    b"\0zeros\0\0\0",
    b"\0" * 64,
    b"eA==",
    b"+OK\r\n",
    b"$-1\r\n",
    b"-ERR no\r\n",
    b"%s %d %00 \\x00 \\u0000",
    "k\u00e4se".encode("latin-1"),
    "k\u00e4se".encode("utf-16"),
    "ka\u0308se".encode(),
    bytes(range(256)),
    bytes(reversed(range(256))),
    *(bytes([value]) for value in range(256)),
    *(bytes([value, 120, value]) for value in range(256)),
)
"""Data that is taken for something else, and every byte alone, first and last."""


def small_sizes() -> range:
    """Return the sizes of data that are all tried."""
    return range(SMALL_BYTES + 1)


def large_sizes(maximum: int) -> list[int]:
    """Return sizes of data about which something changes somewhere, up to ``maximum``."""
    return sorted(size for size in {*_BLOCKS, *_ROUND} if SMALL_BYTES < size <= maximum)


def binary(size: int) -> bytes:
    """Return ``size`` bytes that are no text, always the same."""
    return random.Random(size).randbytes(size)  # noqa: S311 -- a pattern, no secret


SHARDS = tuple(
    sorted({0, 1, 2**32 - 1, *chain.from_iterable((2**bits - 1, 2**bits) for bits in (7, 8, 12, 15, 16, 24, 31))})
)
"""Numbers of shards where the room for them ends somewhere."""


def confused_with(shard: int) -> set[int]:
    """Return the shards that are taken for ``shard`` where numbers are cut, signed, rounded, or compared as text."""
    cut = {shard & (2**bits - 1) for bits in (8, 12, 15, 16, 24, 31)}
    grown = {shard ^ 2**bits for bits in range(32)}
    rounded = {shard & ~0xFF, 2**32 - shard, shard + 1, shard - 1}
    text = {int(f"{shard}{digit}") for digit in (0, 1, 7)} | {shard // 10, int(str(shard)[::-1])}
    return {each for each in cut | grown | rounded | text if 0 <= each < 2**32 and each != shard}


HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"x-clstr-key": "k\u00e4se/1", "trace-id": "a b", "h": ""},
    {"Trace-Id": "1", "trace-id": "2", "TRACE-ID": "3", "tRACE-iD": "4", "trace_id": "5"},
    {"Content-Type": "Text/HTML; Charset=UTF-8", "ALL-UPPER": "ALL-UPPER", "camelCase": "camelCase"},
    {"left": "  left", "right": "right  ", "both": " both ", "inside": "two  spaces   three", "only": "   "},
    {"left ": "1", " left": "2", " left ": "3", "l eft": "4", "l  eft": "5", " ": "6"},
    {"empty": "", "e": "", "x-clstr-key": ""},
    {"empty": ""},
    {"null": "null", "None": "None", "true": "True", "zero": "0", "number": "007", "float": "1e3", "list": "[]"},
    {'"quoted"': '"quoted"', "back\\slash": "back\\slash\\", "a:b": "a: b", "a=b": "a=b", "a;b": "a; b", "a,b": "a, b"},
    {"<tag>": "<tag>&amp;", "%20": "%20%00", "{cluster}": "{0}", "$var": "$var", "a.b.c": "*", "#": "'"},
    {"k\u00e4se": "k\u00e4se", "ka\u0308se": "ka\u0308se", "\u212b": "\u212b", "\u00c5": "\u00c5"},
    {"\u0130": "\u0130\u0131\u00df", "\u65e5\u672c": "\u65e5\u672c\u8a9e", "\U0001f600": "\U0001f600" * 20},
    {"nbsp": "\u00a0x\u00a0", "wide": "\u3000x\u3000", "joined": "a\u200db", "rtl": "\u202eabc", "bom": "\ufeffx"},
    {
        "x-clstr": "1",
        "x-clst-key": "2",
        "clstr-key": "3",
        "x-clstrkey": "4",
        "key": "5",
        "reply-to": "6",
        "ttl_ms": "7",
    },
    {
        "reply-to": "6",
        "ttl_ms": "7",
        "shard": "9",
        "type": "no",
        "data": "no",
        "headers": "{}",
        "v": "2",
        "oneway": "true",
        "depth": "7",
    },
    {f"h{number}": str(number) for number in range(63)},
    {f"h{number:02}": f"{number}" * 60 for number in range(64)},
    {f"{number:02}" * 30: "" for number in range(64)},
    *({f"n{size}".ljust(size, "n"): f"v{size}".ljust(size, "v")} for size in (31, 63, 64, 127, 128, 255, 256, 1024)),
    {"long": "v" * 8188},
    {"long": "\u00e4" * 4090},
    {"n" * 8191: "v"},
    *({"x-clstr-key": "k" * size} for size in (1, 63, 64, 127, 128, 255, 256, 257, 512, 1024, 1025, 4096, 8181)),
    {"x-clstr-key": " Key with  spaces ", "x": "y"},
    {"x-clstr-key": "\u65e5\u672c/" * 200},
    {"x-clstr-key": "a/b?c=d&e#f.*>$ %00\\n'\"", "X": "Y"},
)
"""Headers that some transports change."""

TYPES = (
    "check",
    "",
    "Check",
    "CHECK",
    " check ",
    "two  words",
    "a.B<c>&",
    "v1/orders:create?now=1#x*>$%00",
    '"quoted\\"',
    "null",
    "123",
    "k\u00e4se",
    "ka\u0308se",
    "\u65e5\u672c\u8a9e",
    "\U0001f600",
    *("t" * size for size in (1, 2, 31, 32, 63, 64, 100, 127, 128, 129, 200, 255, 256)),
    *("\u00e4" * size for size in (64, 127, 128, 129, 255, 256)),
    "\U0001f600" * 256,
)
"""Message types that some transports change."""


def envelopes() -> list[clstr.Envelope]:
    """Make messages with these headers and types, without data and with some, each for a shard of its own."""
    fields: list[dict[str, Any]] = [
        *({"type": "check", "headers": headers, "data": data} for headers in HEADERS for data in (b"", b"data")),
        *({"type": name, "headers": {"x-clstr-key": "key"}} for name in TYPES),
        *({"type": name, "data": b"data"} for name in TYPES),
    ]
    return [clstr.Envelope(shard=shard, **each) for shard, each in enumerate(fields)]
