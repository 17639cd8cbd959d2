"""A node in a process of its own: journals what it executes, answers with the data, until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import clstr
from clstr_testing import Journal


async def main(url: str, peer_id: str, shards: str, journal_file: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with Journal(Path(journal_file)) as journal:

        async def handler(message: clstr.Envelope) -> bytes:
            journal.executing(message.headers["id"], node=peer_id, shard=message.shard)
            await asyncio.sleep(0.001)
            return message.data

        async with clstr.connect(url, peer_id=peer_id) as transport:
            await transport.subscribe([int(shard) for shard in shards.split(",")], handler)
            print("ready", flush=True)  # noqa: T201 -- who started this waits for it
            await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
