"""Engines on fake links, on a loop with virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from clstr._limits import Limits
from clstr.spi._engine import Engine
from spi.fakes import FakeLink, OpenEngine, Stubborn, armed_timers, leftovers, ticks
from spi.virtual_time import VirtualLoop

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory] | None:
    """Use virtual time; with ``--uvloop`` only where a test asks for it. Sockets and threads need the root's choice."""
    names: list[str] = getattr(item, "fixturenames", [])
    is_real = "real_loop" in names or (config.getoption("uvloop") and "clock" not in names)
    return None if is_real else {"virtual": VirtualLoop}


@pytest.fixture
def real_loop() -> None:
    """Run on a loop that waits: for sockets and threads, whose events virtual time does not know of."""


@pytest.fixture
async def clock() -> VirtualLoop:
    """The loop as a clock; a test that lets time pass asks for it."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


@pytest.fixture
async def open_engine(link: FakeLink) -> AsyncIterator[OpenEngine]:
    """Open an engine on ``link``, or on another; afterwards all are closed, and must have kept nothing."""
    engines: list[Engine] = []

    async def open_(
        own_link: FakeLink | None = None, codec: str = "msgpack", **limits: Any
    ) -> Engine:  # Any: of Limits
        engine = Engine(own_link or link, limits=Limits(**limits), codec=codec)
        engines.append(engine)
        return await engine.open()

    yield open_
    for engine in engines:
        await engine.aclose()
    await ticks()
    for engine in engines:
        assert leftovers(engine) == {}
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert armed_timers() == []


@pytest.fixture
async def stubborn(open_engine: OpenEngine) -> AsyncIterator[Stubborn]:
    """Something that ignores cancellation until the test is over; the engines close after it."""
    stubborn = Stubborn()
    yield stubborn
    stubborn.let_go.set()
    await ticks()


@pytest.fixture
async def engine(open_engine: OpenEngine) -> Engine:
    return await open_engine()
