"""How late the loop is, as a node tells its metrics: on a real transport, in virtual time."""

from __future__ import annotations

import asyncio

import clstr
import clstr_testing


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
