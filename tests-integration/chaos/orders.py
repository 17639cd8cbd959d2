"""A process that is told what to do by lines of JSON on its standard input, and answers each by one on its output."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

Commands = dict[str, Callable[..., Awaitable[object]]]


async def obey(commands: Commands) -> None:
    """Carry out one command after the other; ``stop`` and the end of the input are the last."""
    _say("ready")
    async with _input() as lines:
        async for line in lines:
            command, *arguments = json.loads(line)
            if command == "stop":
                return
            _say(await commands[command](*arguments))


@asynccontextmanager
async def _input() -> AsyncIterator[asyncio.StreamReader]:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    try:
        yield reader
    finally:
        transport.close()


def _say(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
