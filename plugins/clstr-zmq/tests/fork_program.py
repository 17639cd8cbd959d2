"""
A peer of a cluster whose process forks a worker; both wait until they are killed.

    python fork_program.py URL SHARD

prints the worker's process id, once the peer holds the shard and the worker runs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import warnings

import clstr


async def main(url: str, shard: int) -> None:
    async def echo(message: clstr.Envelope) -> bytes:
        return message.data

    async with clstr.connect(url) as transport:
        await transport.subscribe([shard], echo)
        ready, told = os.pipe()
        worker = os.fork()
        if worker == 0:
            os.close(1)  # the test waits for the end of the node's output
            os.write(told, b"!")
            signal.pause()
        os.read(ready, 1)
        print(worker, flush=True)  # noqa: T201 -- the test reads it
        await asyncio.Event().wait()


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: this process has threads, and forks
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
