"""
Actors: one object per account, one message at a time, stored before it goes.

    python docs/examples/accounts.py [URL]

It prints:

    load ada
    ada has 30
    refused: 50 are more than the 30 that there are
    load bob
    bob has 7, ada has 23
    store bob: 7
    store ada: 23
    load ada
    ada has 23
    store ada: 23
"""

import asyncio
import sys

import msgspec

import clstr

SHARDS = range(8)
STORE: dict[str, int] = {}  # a database, in a real program


class Balance(msgspec.Struct):
    """The reply to every message."""

    amount: int


class Deposit(msgspec.Struct, clstr.Message[Balance]):
    """Put money in."""

    amount: int


class Withdraw(msgspec.Struct, clstr.Message[Balance]):
    """Take money out."""

    amount: int


class Account(clstr.Actor):
    """The account that is the key."""

    async def on_start(self) -> None:
        """Load it: before the first message, once, however many come at once."""
        print("load", self.key)
        self.amount = STORE.get(self.key, 0)

    async def on_stop(self) -> None:
        """Store it: when it has been idle, is in the way, or its shard moves to another node."""
        print(f"store {self.key}: {self.amount}")
        STORE[self.key] = self.amount

    @clstr.handles(Deposit)
    async def deposit(self, message: Deposit, context: clstr.Context) -> Balance:
        """Nobody else touches the account meanwhile: no lock is needed."""
        self.amount += message.amount
        return Balance(self.amount)

    @clstr.handles(Withdraw)
    async def withdraw(self, message: Withdraw, context: clstr.Context) -> Balance:
        """Refuse what is not there."""
        if message.amount > self.amount:
            raise ValueError(f"{message.amount} are more than the {self.amount} that there are")
        self.amount -= message.amount
        return Balance(self.amount)


async def main(url: str) -> None:
    """Move money, then let another node take over."""
    async with clstr.connect(url) as transport:
        client = clstr.Client(transport, num_shards=len(SHARDS))
        ada, bob = client.key("ada"), client.key("bob")

        async with clstr.Node(transport, clstr.ActorHandler(Account), shards=SHARDS) as node:
            replies = await asyncio.gather(*(ada.request(Deposit(10)) for _ in range(3)))
            print("ada has", max(reply.amount for reply in replies))
            try:
                await ada.request(Withdraw(50))
            except clstr.HandlerError as error:
                print("refused:", str(error).removeprefix("ValueError: "))
            taken = await ada.request(Withdraw(7))
            given = await bob.request(Deposit(7))
            print(f"bob has {given.amount}, ada has {taken.amount}")
            for key in ("bob", "ada"):
                await node.release([clstr.shard_for_key(key, len(SHARDS))])  # stored on return

        async with clstr.Node(transport, clstr.ActorHandler(Account), shards=SHARDS):
            print("ada has", (await ada.request(Deposit(0))).amount)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2] or ["memory://"]))
