"""What an idle actor costs."""

from __future__ import annotations

import gc
import tracemalloc

import msgspec

import clstr

ACTORS = 100_000
MOST_BYTES = 2048


class Ping(msgspec.Struct, clstr.Message[None]):
    pass


class Idler(clstr.Actor):
    @clstr.handles(Ping)
    async def ping(self, _message: Ping, _context: clstr.Context) -> None:
        return None


async def test_an_idle_actor_takes_little_memory() -> None:
    handler = clstr.ActorHandler(Idler)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(ACTORS):
            await handler(clstr.Envelope(shard=0, type="Ping", data=b"{}", headers={"x-clstr-key": f"key-{number}"}))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(handler) == ACTORS
    each = (after - before) / ACTORS
    print(f"{each:.0f} bytes for each of {ACTORS:,} idle actors, their keys included")  # noqa: T201 -- the figure
    assert each <= MOST_BYTES
    await handler.aclose()
