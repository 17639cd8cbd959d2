"""
A job over many keys: count the words of every document, on the nodes that own them, so many at a time.

    python docs/examples/fan_out.py [URL]

It prints:

    40 documents on 3 nodes, at most 8 at a time
    39 counted, 806 words
    document-13 failed: ValueError: document-13 is empty
    nothing was counted twice
"""

import asyncio
import sys
from collections import Counter
from contextlib import AsyncExitStack

import msgspec

import clstr

NODES = ["node-1", "node-2", "node-3"]
NUM_SHARDS = 64
DOCUMENTS = {f"document-{number}": "word " * (number + 1) for number in range(40)} | {"document-13": ""}
AT_ONCE = 8  # enough to keep the nodes busy, few enough not to be refused by them


class Counted(msgspec.Struct):
    """The reply."""

    words: int


class CountWords(msgspec.Struct, clstr.Message[Counted]):
    """Count the words of the document that is the key."""


class Counting:
    """The handlers of all nodes, and what they have counted."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.seen: Counter[str] = Counter()
        self.router = clstr.Router()
        self.router.on(CountWords)(self.count)

    async def count(self, message: CountWords, context: clstr.Context) -> Counted:
        """Count one document, where it lies."""
        name = context.key or ""
        self.seen[name] += 1
        if not (words := DOCUMENTS[name].split()):
            raise ValueError(f"{name} is empty")
        return Counted(len(words))


async def run_job(client: clstr.Client) -> tuple[dict[str, int], dict[str, clstr.ClstrError]]:
    """Ask for every document; one that fails does not end the job."""
    counted: dict[str, int] = {}
    failed: dict[str, clstr.ClstrError] = {}
    places = asyncio.Semaphore(AT_ONCE)

    async def count(name: str) -> None:
        async with places:
            try:
                counted[name] = (await client.key(name).request(CountWords(), timeout=30)).words
            except clstr.ClstrError as error:
                failed[name] = error

    async with asyncio.TaskGroup() as group:
        for name in DOCUMENTS:
            group.create_task(count(name))
    return counted, failed


async def main(url: str) -> None:
    """Start the nodes and run the job."""
    counting = Counting()
    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(clstr.connect(url))
        for node_id in NODES:
            node = clstr.Node(transport, counting.router, node_id=node_id, nodes=NODES, num_shards=NUM_SHARDS)
            await stack.enter_async_context(node)
        # What was refused for a passing reason is sent again, within the timeout; what may have run never is.
        client = clstr.Client(transport, num_shards=NUM_SHARDS, retry_undelivered=True)
        print(len(DOCUMENTS), "documents on", len(NODES), "nodes, at most", AT_ONCE, "at a time")
        counted, failed = await run_job(client)
        print(len(counted), "counted,", sum(counted.values()), "words")
        for name, error in failed.items():
            print(name, "failed:", error)
        print("nothing was counted twice" if set(counting.seen.values()) == {1} else counting.seen)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2] or ["memory://"]))
