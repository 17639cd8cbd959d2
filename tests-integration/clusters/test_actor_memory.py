"""What an idle actor costs."""

from __future__ import annotations

import gc
import tracemalloc

import msgspec
import pytest

import clstr

MOST_BYTES = 2048


class Ping(msgspec.Struct, clstr.Message[None]):
    pass


class Idler(clstr.Actor):
    @clstr.handles(Ping)
    async def ping(self, _message: Ping, _context: clstr.Context) -> None:
        return None


class Ticker(Idler):
    @clstr.every(3600)
    async def tick(self) -> None:
        raise AssertionError("an hour is long")


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("kind", "actors"), [(Idler, 100_000), (Ticker, 20_000)], ids=["plain", "periodic work"])
async def test_an_idle_actor_takes_little_memory(
    kind: type[clstr.Actor], actors: int, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = clstr.ActorHandler(kind)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(actors):
            await handler(clstr.Envelope(shard=0, type="Ping", data=b"{}", headers={"x-clstr-key": f"key-{number}"}))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(handler) == actors
    each = (after - before) / actors
    with capsys.disabled():
        print(f"\n{each:.0f} bytes for each of {actors:,} idle {kind.__name__}s, their keys included")  # noqa: T201 -- the figure
    assert each <= MOST_BYTES
    await handler.aclose()
