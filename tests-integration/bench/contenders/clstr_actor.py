"""clstr with a typed actor: a counter for each key."""

from __future__ import annotations

import msgspec

import clstr
from bench.contender import Ask, Load
from bench.contenders.clstr_raw import Raw


class Total(msgspec.Struct):
    """What was counted, and what came with the question: replies are as large as requests."""

    value: int
    note: str


class Add(msgspec.Struct, clstr.Message[Total]):
    """Count."""

    by: int
    note: str


class Counter(Raw):
    """Counts, and sends the note back."""

    def handler(self) -> clstr.Handler:
        """Return what a node runs."""
        contender = self

        class Counting(clstr.Actor):
            async def on_start(self) -> None:
                self.value = 0

            @clstr.handles(Add)
            async def add(self, message: Add, _context: clstr.Context) -> Total:
                contender.handled += 1
                self.value += message.by
                return Total(self.value, message.note)

        return clstr.ActorHandler(Counting)

    def ask(self, client: clstr.Client, load: Load) -> Ask:
        """Send what ``load`` says by key."""
        keys, note = [f"key-{number}" for number in range(load.keys)], load.payload.decode()

        async def request(number: int) -> bytes:
            total = await client.key(keys[number]).request(Add(1, note))
            return total.note.encode()

        async def notify(number: int) -> None:
            await client.key(keys[number]).notify(Add(1, note))

        return notify if load.oneway else request
