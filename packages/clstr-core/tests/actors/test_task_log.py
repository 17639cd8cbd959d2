"""One line a second says how many spawned tasks were cancelled."""

from __future__ import annotations

import asyncio
import logging

import pytest

import clstr_testing
from clstr._actors.task_log import TaskLog


def test_at_most_one_line_a_second_counts_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        log = TaskLog(logging.getLogger("clstr.test"))
        log.cancelled(0, "Account", "it was idle")
        for _ in range(3):
            log.cancelled(2, "Account", "it was idle")
        await asyncio.sleep(1.1)
        log.cancelled(1, "Account", "it was idle")

    with asyncio.Runner(loop_factory=clstr_testing.VirtualTimeLoop) as runner:
        runner.run(run())
    assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple)] == [2, 5]
