"""
Carts behind FastAPI: three nodes, state in SQLite, and nothing that was acknowledged is lost when a node is killed.

    pip install clstr-nats fastapi uvicorn
    export CLSTR_URL=nats://127.0.0.1:4222 CARTS_DB=carts.sqlite
    python carts.py node-0 & python carts.py node-1 & python carts.py node-2 &
    uvicorn carts:app --workers 2

    $ curl -X POST -H 'Idempotency-Key: 1' http://127.0.0.1:8000/carts/ada/items/apple
    {"apple":1}

A cart is an actor: it is loaded by its first message, and stored in the handler, before the reply leaves. Where it
cannot be known whether a message ran, the front sends it again under the same id, and the cart knows what it has done.
"""

import asyncio
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse

import clstr

NODES = ["node-0", "node-1", "node-2"]
NUM_SHARDS = 256
REMEMBERED = 1000  # ids of messages that a cart has handled: more than can be on their way


class Cart(msgspec.Struct):
    """What is stored: how many of which item, and the ids of the messages that are in it."""

    items: dict[str, int] = {}
    handled: list[str] = []


class Add(msgspec.Struct, clstr.Message[dict[str, int]]):
    """Put one item in; ``id`` is the same for each attempt."""

    id: str
    item: str


class Look(msgspec.Struct, clstr.Message[dict[str, int]]):
    """What is in the cart?"""


class Store:
    """A table of carts. Several processes may share the file, on one machine."""

    def __init__(self, path: str) -> None:
        """Open it, and make the table if there is none."""
        self._db = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS carts (key TEXT PRIMARY KEY, cart BLOB NOT NULL)")
        self._turn = asyncio.Lock()  # a connection executes one statement at a time

    async def execute(self, statement: str, *values: object) -> Any:
        """Return the first row, off the event loop: SQLite blocks."""
        async with self._turn:
            return await asyncio.to_thread(lambda: self._db.execute(statement, values).fetchone())


class CartActor(clstr.Actor):
    """The cart of the user who is the key."""

    def __init__(self, store: Store) -> None:
        """Take what all carts share."""
        self._store = store

    async def on_start(self) -> None:
        """Load it."""
        row = await self._store.execute("SELECT cart FROM carts WHERE key = ?", self.key)
        self.cart = msgspec.json.decode(row[0], type=Cart) if row else Cart()

    @clstr.handles(Add)
    async def add(self, message: Add, context: clstr.Context) -> dict[str, int]:
        """Count each id once. Store first: if that fails, the cart has not changed."""
        items, handled = self.cart.items, self.cart.handled
        if message.id not in handled:
            more = {**items, message.item: items.get(message.item, 0) + 1}
            cart = Cart(more, [*handled, message.id][-REMEMBERED:])
            await self._store.execute("REPLACE INTO carts VALUES (?, ?)", self.key, msgspec.json.encode(cart))
            self.cart = cart
        return self.cart.items

    @clstr.handles(Look)
    async def look(self, message: Look, context: clstr.Context) -> dict[str, int]:
        """Tell what has been stored."""
        return self.cart.items


async def run_node(node_id: str) -> None:
    """Serve a share of the carts until SIGTERM."""
    store = Store(os.environ["CARTS_DB"])

    def create(key: str) -> CartActor:
        return CartActor(store)

    async with clstr.connect(os.environ["CLSTR_URL"], wait=60) as transport:
        node = clstr.Node(transport, clstr.ActorHandler(create), node_id=node_id, nodes=NODES, num_shards=NUM_SHARDS)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, node.stop)
        await node.run()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Connect when the front starts, and close when it ends."""
    async with clstr.connect(os.environ["CLSTR_URL"], wait=60) as transport:
        # It waits for a node that restarts: only what certainly did not run is sent again by itself.
        app.state.client = clstr.Client(transport, num_shards=NUM_SHARDS, timeout=10, retry_undelivered=True)
        yield


app = FastAPI(lifespan=lifespan)
Id = Annotated[str, Header(alias="Idempotency-Key")]


@app.exception_handler(clstr.ClstrError)
async def failed(request: Request, error: clstr.ClstrError) -> JSONResponse:
    """503 invites to try again; after 504 that is right only with the same id."""
    return JSONResponse({"error": str(error)}, 504 if error.maybe_executed else 503)


async def ask(user: str, message: Add | Look) -> dict[str, int]:
    """Ask the user's cart; what may have run is sent again, up to three times, for the cart knows its id."""
    client: clstr.Client = app.state.client
    for _ in range(3):
        with suppress(clstr.RequestTimeoutError, clstr.ConnectionLostError):
            return await client.key(user).request(message)
    return await client.key(user).request(message)


@app.post("/carts/{user}/items/{item}")
async def add(user: str, item: str, message_id: Id) -> dict[str, int]:
    """Put an item in, and tell what is in the cart."""
    return await ask(user, Add(message_id, item))


@app.get("/carts/{user}")
async def look(user: str) -> dict[str, int]:
    """Tell what is in the cart."""
    return await ask(user, Look())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(run_node(sys.argv[1]))
