"""
Handler patterns: bytes in and out, typed functions, fire and forget, and what an error says.

    python docs/examples/handlers.py [URL]

It prints:

    raw: b'HELLO'
    typed: Greeting(text='hello, ada')
    notified: ada was seen
    node: node-1 owns 8 shards
    refused: no handler registered for message type 'Dance'; known: Greet, Seen
    maybe_executed=False
    failed: ValueError: nobody is called ''
    maybe_executed=True
"""

import asyncio
import sys

import msgspec

import clstr

SHARDS = range(8)


class Greeting(msgspec.Struct):
    """The reply to `Greet`."""

    text: str


class Greet(msgspec.Struct, clstr.Message[Greeting]):
    """A request."""

    name: str


class Seen(msgspec.Struct, clstr.Message[None]):
    """A message that nobody waits for."""

    name: str


async def shout(envelope: clstr.Envelope) -> bytes:
    """The raw form: an envelope in, bytes out."""
    return envelope.data.upper()


async def use_bytes(transport: clstr.Transport) -> None:
    """Send bytes by key."""
    async with clstr.Node(transport, shout, shards=SHARDS):
        client = clstr.Client(transport, num_shards=len(SHARDS))
        print("raw:", await client.request_key("ada", "Shout", b"hello"))


def new_router(seen: asyncio.Queue[str]) -> clstr.Router:
    """Return typed handlers: each message finds the function that was written for its type."""
    router = clstr.Router()

    @router.on(Greet)
    async def greet(message: Greet, context: clstr.Context) -> Greeting:
        if not message.name:
            raise ValueError("nobody is called ''")
        return Greeting(f"hello, {message.name}")

    @router.on(Seen)
    async def note(message: Seen, context: clstr.Context) -> None:
        seen.put_nowait(message.name)

    return router


async def use_types(transport: clstr.Transport) -> None:
    """Send objects by key, and look at what errors say."""
    seen: asyncio.Queue[str] = asyncio.Queue()
    async with clstr.Node(transport, new_router(seen), shards=SHARDS, node_id="node-1"):
        ada = clstr.Client(transport, num_shards=len(SHARDS)).key("ada")
        print("typed:", await ada.request(Greet("ada")))

        await ada.notify(Seen("ada"))  # returns when the message is on its way, not when it was handled
        print("notified:", await seen.get(), "was seen")

        info = await ada.get_node_info()
        print("node:", info.node_id, "owns", len(info.shards), "shards")

        try:
            await clstr.Client(transport, num_shards=len(SHARDS)).request_key("ada", "Dance")
        except clstr.UnknownMessageError as error:
            print("refused:", error)
            print(f"maybe_executed={error.maybe_executed}")
        try:
            await ada.request(Greet(""))
        except clstr.HandlerError as error:
            print("failed:", error)
            print(f"maybe_executed={error.maybe_executed}")


async def main(url: str) -> None:
    """Show one after the other."""
    async with clstr.connect(url) as transport:
        await use_bytes(transport)
        await use_types(transport)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2] or ["memory://"]))
