"""
A cluster at work: three nodes, many callers, a shard map, a hand-over, an error, and figures.

    python docs/examples/demo.py [--broker nats|redis|zmq | --url URL] [--input FILE]

With ``--broker`` it starts a real one from a wheel, for ``redis`` that is Valkey, and stops it at the end; ZeroMQ has
none, and gets a first peer that the others find each other by.

Each line of the input is an order, ``CART ITEM QUANTITY``; ``--input -`` reads them from standard input. The cart is
the key: all orders of one cart reach the one node that owns it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import textwrap
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from itertools import cycle, islice
from pathlib import Path
from statistics import median, quantiles
from types import SimpleNamespace
from typing import Any

import msgspec

import clstr
import clstr_testing


@asynccontextmanager
async def first_peer() -> AsyncIterator[SimpleNamespace]:
    """Start a peer of ZeroMQ by which all others find each other; there is no broker."""
    port = clstr_testing.free_port()
    async with clstr.connect(f"zmq://?bind=tcp://127.0.0.1:{port}"):
        yield SimpleNamespace(url=f"zmq://127.0.0.1:{port}?bind=tcp://127.0.0.1:*")


BROKERS: dict[str, Callable[[], AbstractAsyncContextManager[Any]]] = {
    "nats": clstr_testing.nats_server,
    "redis": clstr_testing.valkey_server,
    "zmq": first_peer,
}
NODES = ["node-a", "node-b", "node-c"]
NUM_SHARDS = 64
ORDERS = Path(__file__).with_name("orders.txt")


class Receipt(msgspec.Struct):
    """The reply to an order."""

    node_id: str
    items: int


class AddItem(msgspec.Struct, clstr.Message[Receipt]):
    """The request: ``quantity`` of ``item`` go into the cart that is the key."""

    item: str
    quantity: int


class Order(msgspec.Struct):
    """One line of the input."""

    cart: str
    message: AddItem


class Shop:
    """What one node keeps: the carts of the keys that it owns."""

    def __init__(self, node_id: str) -> None:
        """Start with no carts."""
        self._node_id = node_id
        self._carts: dict[str, Counter[str]] = {}

    async def handle(self, envelope: clstr.Envelope) -> bytes:
        """Put an item into its cart."""
        order = msgspec.json.decode(envelope.data, type=AddItem)
        cart = self._carts.setdefault(envelope.key or "", Counter())
        cart[order.item] += order.quantity
        return msgspec.json.encode(Receipt(self._node_id, cart.total()))


def read_orders(lines: Iterable[str]) -> Iterator[Order]:
    """Parse the input; a line that is not an order is named and skipped."""
    for number, line in enumerate(lines, 1):
        match line.split():
            case [cart, item, quantity] if quantity.isdecimal():
                yield Order(cart, AddItem(item, int(quantity)))
            case []:
                pass
            case _:
                print(f"   line {number} is not 'CART ITEM QUANTITY', skipped: {line.strip()[:40]!r}")


def load_orders(name: str) -> list[Order]:
    """Read the orders of a file, or of standard input if its name is ``-``."""
    if name == "-":
        return list(read_orders(sys.stdin))
    with Path(name).open(encoding="utf-8") as lines:
        return list(read_orders(lines))


def heading(number: int, text: str) -> None:
    """Print a section's title, in bold on a terminal."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}{number}. {text}{plain}")


def say(text: str) -> None:
    """Print a sentence below its section's title, in lines that fit a terminal of 80 columns."""
    print(textwrap.fill(text, width=80, initial_indent="   ", subsequent_indent="   "))


def show_map(nodes: Iterable[clstr.Node]) -> None:
    """Print who owns how many shards, and which."""
    print(f"   {'node':8} {'shards':>6}  which")
    for node in nodes:
        first = " ".join(map(str, sorted(node.shards)[:12])) or "none"
        more = " ..." if len(node.shards) > 12 else ""  # noqa: PLR2004 -- what fits a line
        print(f"   {node.node_id:8} {len(node.shards):6}  {first}{more}")


async def show_orders(client: clstr.Client, orders: Iterable[Order]) -> None:
    """Send a few orders and print the way that each took."""
    for order in orders:
        receipt = await client.key(order.cart).request(order.message)
        shard = clstr.shard_for_key(order.cart, NUM_SHARDS)
        what = f"{order.message.quantity} x {order.message.item}"
        print(f"   {order.cart:9} -> shard {shard:2} -> {receipt.node_id}   {what:14} {receipt.items:3} in the cart")


async def send_all(client: clstr.Client, orders: list[Order], requests: int, callers: int) -> list[float]:
    """Send ``requests`` orders from ``callers`` callers at once; return the seconds that each took."""
    todo = islice(cycle(orders), requests)
    seconds: list[float] = []

    async def call() -> None:
        for order in todo:
            start = time.perf_counter()
            await client.key(order.cart).request(order.message)
            seconds.append(time.perf_counter() - start)

    await asyncio.gather(*(call() for _ in range(callers)))
    return seconds


async def hand_over(leaver: clstr.Node, others: list[clstr.Node]) -> None:
    """Release a node's shards, then acquire them where rendezvous hashing now puts them; nothing else moves."""
    leaving = leaver.shards
    await leaver.release(leaving)
    owners = clstr.assign_shards([node.node_id for node in others], NUM_SHARDS)
    for node in others:
        await node.acquire(leaving.intersection(owners[node.node_id]))


async def show_unowned(client: clstr.Client, node: clstr.Node) -> None:
    """Ask for a shard that nobody owns."""
    shard = min(node.shards)
    await node.release([shard])
    try:
        await client.shard(shard).request(AddItem("tea", 1))
    except clstr.NoShardSubscriberError as error:
        say(f"{type(error).__name__}: {error}")
        say(f"maybe_executed={error.maybe_executed}: it certainly did not run, so it is safe to send again")
    await node.acquire([shard])


@asynccontextmanager
async def running(broker: str) -> AsyncIterator[str]:
    """Start a broker and yield its URL; it ends with the block."""
    async with BROKERS[broker]() as server:
        print(f"   {'the first peer' if broker == 'zmq' else 'a real broker'} runs at {server.url}")
        yield server.url


async def run_on(broker: str | None, url: str, orders: list[Order], requests: int, callers: int) -> None:
    """Show everything, on a broker that is started for it or at ``url``."""
    async with running(broker) if broker else nullcontext(url) as address:
        await run(address, orders, requests, callers)


async def run(url: str, orders: list[Order], requests: int, callers: int) -> None:
    """Show everything over one broker."""
    async with AsyncExitStack() as stack:
        nodes = []
        for node_id in NODES:
            transport = await stack.enter_async_context(clstr.connect(url))
            shop = Shop(node_id)
            node = clstr.Node(transport, shop.handle, node_id=node_id, nodes=NODES, num_shards=NUM_SHARDS)
            nodes.append(await stack.enter_async_context(node))
        client = clstr.Client(await stack.enter_async_context(clstr.connect(url)), num_shards=NUM_SHARDS)

        heading(1, f"{len(NODES)} nodes share {NUM_SHARDS} shards; each computes the same map, without a coordinator")
        show_map(nodes)

        heading(2, "Typed requests by key: each cart's orders reach the one node that owns it")
        await show_orders(client, orders[:6])

        heading(3, "node-b hands its shards over, and no other shard moves")
        say("This program does it: node-b.release(), then acquire() at the others.")
        await hand_over(nodes[1], [nodes[0], nodes[2]])
        show_map(nodes)
        await show_orders(client, orders[:6])
        say("(a cart that moved begins empty: these nodes keep carts only in memory)")

        heading(4, "A shard without an owner: a typed error at once, without waiting")
        await show_unowned(client, nodes[0])

        heading(5, f"{requests:,} requests from {callers} callers at once")
        start = time.perf_counter()
        seconds = await send_all(client, orders, requests, callers)
        elapsed = time.perf_counter() - start
        p99 = quantiles(seconds, n=100)[98]
        print(f"   {requests / elapsed:,.0f} requests/s; p50 {median(seconds) * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms")
        print("   (callers and nodes share this one process)\n")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="A clstr cluster at work.")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", default="memory://demo", help="any transport's URL (default: %(default)s)")
    where.add_argument("--broker", choices=sorted(BROKERS), help="start a real broker, and use that")
    parser.add_argument("--input", default=str(ORDERS), metavar="FILE", help="orders, one a line; - is standard input")
    parser.add_argument("--requests", type=int, default=20_000, help="how many to measure (default: %(default)s)")
    parser.add_argument("--callers", type=int, default=64, help="how many at once (default: %(default)s)")
    options = parser.parse_args()
    try:
        orders = load_orders(options.input)
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"cannot read {options.input}: {error}")
    if not orders:
        parser.error(f"no orders in {options.input}")
    if options.requests < 2 or options.callers < 1:  # noqa: PLR2004 -- percentiles need two
        parser.error("--requests must be at least 2, --callers at least 1")
    try:
        asyncio.run(run_on(options.broker, options.url, orders, options.requests, options.callers))
        sys.stdout.flush()
    except (clstr.ClstrError, clstr_testing.ServerNotFoundError, ValueError) as error:
        parser.exit(1, f"{type(error).__name__}: {error}\n")
    except BrokenPipeError:  # `demo.py | head -1` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails too


if __name__ == "__main__":
    main()
