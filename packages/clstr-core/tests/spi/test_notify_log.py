"""What the log says of notifies that failed."""

from __future__ import annotations

import logging

import pytest

from clstr.spi._notify_log import NotifyLog


def test_one_line_a_second_counts_them_all(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    log = NotifyLog(logging.getLogger("test"), lambda: now)
    for number in range(1000):
        log.failed(f"shard {number}", "no")
    assert caplog.messages == ["1 notifies failed since the last such line; now shard 0: no"]
    now = 101.0
    log.failed("shard 7", "still no")
    assert caplog.messages[1:] == ["1000 notifies failed since the last such line; now shard 7: still no"]
