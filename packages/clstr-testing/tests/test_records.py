"""Journals: what is written survives, and is read as it was."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clstr.errors import HandlerError, NoShardSubscriberError, RequestTimeoutError
from clstr_testing._records import Ended, Executed, Journal, Record, Records, Sent, digest, read_journals

WRITER = """
import os, signal, sys
from pathlib import Path
from clstr_testing._records import Journal

with Journal(Path(sys.argv[1])) as journal:
    for number in range(1000):
        journal.executing(f"message-{number}", node="n", shard=number)
    os.kill(os.getpid(), signal.SIGKILL)
"""
SENT = Sent(id="a", shard=1, start=1.5, deadline=2.5, expected=digest(b"yes"), journal="client")
EXECUTED = Executed(id="a", node="node-1", shard=1, what="GetUser")
ENDED = [
    Ended(id="a", kind="answered", end=1.75, reply=digest(b"yes")),
    Ended(id="b", kind="failed", end=1.75, maybe_executed=True, error="RequestTimeoutError"),
]
RECORDS: list[Record] = [SENT, EXECUTED, *ENDED]


class Clock:
    """Advances by a second at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "client"


def test_what_is_written_is_read(path: Path) -> None:
    with Journal(path) as journal:
        for record in RECORDS:
            journal.write(record)
    assert read_journals([path]) == Records(sent=[SENT], executed=[EXECUTED], ended=ENDED)


def test_a_record_is_in_the_file_before_the_next_step(path: Path) -> None:
    with Journal(path) as journal:
        journal.executing("a", node="node-1", shard=1, what="GetUser")
        assert read_journals([path]).executed == [EXECUTED]


def test_each_line_is_json_with_its_kind(path: Path) -> None:
    with Journal(path) as journal:
        for record in RECORDS:
            journal.write(record)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["record"] for line in lines] == ["sent", "executed", "ended", "ended"]


def test_a_journal_is_never_continued(path: Path) -> None:
    """The end of what a killed process wrote would run into the next line."""
    path.touch()
    with pytest.raises(FileExistsError):
        Journal(path)


def test_a_journal_that_is_full_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        name = "client"

        def write(self, data: bytes) -> int:
            return len(data) - 1

        def close(self) -> None:
            pass

    with Journal(path) as journal:
        journal._file.close()
        monkeypatch.setattr(journal, "_file", Full())
        with pytest.raises(OSError, match="client took only a part of a record"):
            journal.executing("a", node="node-1", shard=1)


def test_journals_of_several_processes_are_read_together(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with Journal(tmp_path / name) as journal:
            journal.write(Sent(id=name, shard=1, start=1.0, deadline=2.0, expected=None))
    records = read_journals(sorted(tmp_path.iterdir()))
    assert [(sent.id, sent.journal) for sent in records.sent] == [("one", "one"), ("two", "two")]


@pytest.mark.parametrize("size", [1, 20, -1])
def test_a_last_line_that_is_cut_off_is_left_out(path: Path, size: int) -> None:
    with Journal(path) as journal:
        for record in RECORDS:
            journal.write(record)
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    path.write_bytes(whole[: -len(last)] + last[:size])
    records = read_journals([path])
    assert records.ended == ENDED[:1]
    assert records.torn == ["client"]


@pytest.mark.parametrize("line", ["{", "7", "{}", '{"record":"lost"}', '{"record":"sent","id":"a"}'])
def test_any_other_line_that_is_no_record_is_an_error(path: Path, line: str) -> None:
    path.write_text(f'{{"record":"ended","id":"a","kind":"notify","end":1.0}}\n{line}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="client:2 is not a record"):
        read_journals([path])


def test_nothing_that_was_written_is_lost_by_a_kill(path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", WRITER, str(path)], check=False, timeout=30)
    assert result.returncode == -signal.SIGKILL
    records = read_journals([path])
    assert [each.shard for each in records.executed] == list(range(1000))
    assert not records.torn


async def observe(path: Path, result: bytes | Exception | None, expected: bytes | None = b"yes") -> Records:
    async def call() -> bytes | None:
        assert read_journals([path]).sent, "a call is recorded before it is made"
        if isinstance(result, Exception):
            raise result
        return result

    with Journal(path, clock=Clock()) as journal:
        ended = await journal.observe(call, message_id="a", shard=3, timeout=5.0, expected=expected)
    records = read_journals([path])
    assert records.ended == [ended]
    return records


async def test_an_answered_request_is_recorded_with_its_reply(path: Path) -> None:
    records = await observe(path, b"no")
    assert records.sent == [Sent(id="a", shard=3, start=1.0, deadline=6.0, expected=digest(b"yes"), journal="client")]
    assert records.ended == [Ended(id="a", kind="answered", end=2.0, reply=digest(b"no"))]


async def test_a_notify_is_recorded(path: Path) -> None:
    records = await observe(path, None, expected=None)
    assert records.sent[0].expected is None
    assert records.ended == [Ended(id="a", kind="notify", end=2.0)]


@pytest.mark.parametrize(
    ("error", "kind", "maybe_executed"),
    [
        (NoShardSubscriberError(3), "refused", False),
        (RequestTimeoutError(3, 5.0), "failed", True),
        (RequestTimeoutError(3, 5.0, maybe_executed=False), "failed", False),
        (HandlerError("ValueError", "no"), "failed", True),
        (ZeroDivisionError(), "failed", None),
    ],
    ids=["refusal", "timeout", "timeout before sending", "handler", "not clstr's"],
)
async def test_an_error_is_recorded_with_what_it_says(
    path: Path, error: Exception, kind: str, maybe_executed: bool | None
) -> None:
    [ended] = (await observe(path, error)).ended
    assert (ended.kind, ended.error, ended.maybe_executed) == (kind, type(error).__name__, maybe_executed)
    assert ended.reply is None


async def test_a_cancelled_call_is_recorded_and_stays_cancelled(path: Path) -> None:
    async def call() -> bytes:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    started = asyncio.Event()
    with Journal(path, clock=Clock()) as journal:
        task = asyncio.create_task(journal.observe(call, message_id="a", shard=3, timeout=5.0, expected=b""))
        await started.wait()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
    assert read_journals([path]).ended == [Ended(id="a", kind="cancelled", end=2.0)]
