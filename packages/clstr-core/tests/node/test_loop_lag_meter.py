"""The lag of a node's loop is measured once a second, whether handlers run or not."""

from __future__ import annotations

import asyncio

import pytest

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
