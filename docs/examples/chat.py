"""
Chat rooms: each room is an actor, so what is said in it has one order. People are connected to fronts, several each.

    python docs/examples/chat.py [URL]

It prints:

    ada hears ada: is anybody here?
    ada hears bob: yes
    bob hears bob: yes
    eve hears bob: yes
    fronts that were told: 2
    fronts that were told: 1
    ada hears ada: where have they gone?
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

import clstr

ROOMS = 64  # shards 0 to 63 are the rooms': a room's name is a key
FRONTS = 16  # the shards after those are the fronts': each front owns the one of its number


class Told(msgspec.Struct, clstr.Message[None]):
    """What a room tells the fronts; nobody waits for an answer."""

    room: str
    text: str


class Enter(msgspec.Struct, clstr.Message[int]):
    """Somebody at this front is in the room from now on. The reply: how many fronts the room reaches."""

    front: int


class Say(msgspec.Struct, clstr.Message[int]):
    """Say something. The reply: how many fronts were told."""

    text: str


class Room(clstr.Actor):
    """The room whose name is the key. It knows fronts, not people: a thousand people at one front are told once."""

    def __init__(self, transport: clstr.Transport) -> None:
        """Tell fronts over ``transport``."""
        self._client = clstr.Client(transport, num_shards=ROOMS + FRONTS)
        self._fronts: list[int] = []

    @clstr.handles(Enter)
    async def enter(self, message: Enter, context: clstr.Context) -> int:
        """Let a front in."""
        if message.front not in self._fronts:
            self._fronts.append(message.front)
        return len(self._fronts)

    @clstr.handles(Say)
    async def say(self, message: Say, context: clstr.Context) -> int:
        """Tell every front; forget one that has gone."""
        for front in list(self._fronts):
            try:
                await self._client.shard(ROOMS + front).notify(Told(self.key, message.text))
            except clstr.NoShardSubscriberError:
                self._fronts.remove(front)
        return len(self._fronts)


class Front:
    """What a web server with its open connections would be: here a connection is a queue."""

    def __init__(self, number: int, transport: clstr.Transport) -> None:
        """Ask rooms over ``transport``."""
        self._number = number
        self._rooms = clstr.Client(transport, num_shards=ROOMS)
        self._connections: dict[str, list[asyncio.Queue[str]]] = {}

    async def connect(self, room: str) -> asyncio.Queue[str]:
        """Connect somebody who will hear what is said in ``room``."""
        heard: asyncio.Queue[str] = asyncio.Queue()
        self._connections.setdefault(room, []).append(heard)
        await self._rooms.key(room).request(Enter(self._number))
        return heard

    async def say(self, room: str, text: str) -> int:
        """Say something in ``room``."""
        return await self._rooms.key(room).request(Say(text))

    async def handle(self, envelope: clstr.Envelope) -> None:
        """Pass on what a room tells."""
        told = msgspec.json.decode(envelope.data, type=Told)
        for heard in self._connections.get(told.room, ()):
            heard.put_nowait(told.text)


@asynccontextmanager
async def front(url: str, number: int) -> AsyncIterator[Front]:
    """Run a front."""
    async with clstr.connect(url) as transport:
        front = Front(number, transport)
        async with clstr.Node(transport, front.handle, node_id=f"front-{number}", shards=[ROOMS + number]):
            yield front


async def talk(one: Front, url: str) -> None:
    """Let people at two fronts talk; then one of the fronts goes."""
    ada = await one.connect("lobby")
    await one.say("lobby", "ada: is anybody here?")
    print("ada hears", await ada.get())
    async with front(url, 2) as two:
        bob, eve = await two.connect("lobby"), await two.connect("lobby")
        reached = await two.say("lobby", "bob: yes")
        for name, heard in (("ada", ada), ("bob", bob), ("eve", eve)):
            print(name, "hears", await heard.get())
        print("fronts that were told:", reached)
    reached = await one.say("lobby", "ada: where have they gone?")
    print("fronts that were told:", reached)
    print("ada hears", await ada.get())


async def main(url: str) -> None:
    """Run one node for all rooms, and a front."""
    async with clstr.connect(url) as transport:
        rooms = clstr.ActorHandler(lambda _: Room(transport))
        async with clstr.Node(transport, rooms, node_id="rooms", shards=range(ROOMS)), front(url, 1) as one:
            await talk(one, url)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2] or ["memory://chat"]))
