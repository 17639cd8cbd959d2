"""The lag of a node's loop is measured once a second, whether handlers run or not."""

from __future__ import annotations

import asyncio

import pytest

import clstr
import clstr_testing
from clstr._node.loop_lag_meter import LoopLagMeter


def test_each_second_says_by_how_much_the_loop_was_late() -> None:
    reported: list[float] = []

    async def run(loop: clstr_testing.VirtualTimeLoop) -> None:
        meter = LoopLagMeter(reported.append)
        meter.start()
        await asyncio.sleep(1.5)
        loop.pass_time(3)  # a callback blocks
        await asyncio.sleep(1)
        meter.stop()
        meter.stop()
        await asyncio.sleep(60)

    with asyncio.Runner(loop_factory=clstr_testing.VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, clstr_testing.VirtualTimeLoop)
        runner.run(run(loop))
    assert reported == pytest.approx([0, 2.5, 0], abs=0.01)


def test_a_node_reports_it_from_its_start_to_its_end() -> None:
    reported: list[tuple[str, float]] = []

    class Lags(clstr.Metrics):
        def loop_lag(self, node_id: str, seconds: float) -> None:
            reported.append((node_id, round(seconds, 1)))

    async def echo(envelope: clstr.Envelope) -> bytes:
        return envelope.data

    async def run() -> None:
        async with clstr.connect("memory://") as transport:
            async with clstr.Node(transport, echo, node_id="n", shards=[1], metrics=Lags()):
                await asyncio.sleep(2.5)
            await asyncio.sleep(5)

    with asyncio.Runner(loop_factory=clstr_testing.VirtualTimeLoop) as runner:
        runner.run(run())
    assert reported == [("n", 0.0)] * 2
