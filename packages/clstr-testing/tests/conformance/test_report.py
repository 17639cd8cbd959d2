"""Running a suite without pytest, and what its results say."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import clstr
from clstr_testing import CONTRACT, Check, Result, TransportSuite, VirtualTimeLoop, run_suite, sentences
from conformance.loopback import LoopbackSuite

SMALL = ["test_none_becomes_empty_bytes"]


class Unreachable(TransportSuite):
    """Cannot connect."""

    error: Exception = ConnectionError("nobody is there\nand nobody will be")

    async def connect(self, **options: Any) -> clstr.Transport:
        raise self.error


class Silent(LoopbackSuite):
    """Its messages go nowhere."""

    async def connect(self, **options: Any) -> clstr.Transport:
        transport = await super().connect(**options)
        self.hub.pick = lambda shard: self.hub.links[0]  # type: ignore[method-assign]  # the sender itself
        self.hub.links[0].arrive = lambda *_: None  # type: ignore[method-assign]  # which is deaf
        return transport


def result(status: str, *numbers: str) -> Result:
    check = Check(name="test_x", proves=numbers, needs=frozenset(), capability="")
    return Result(check=check, status=status)


def test_checks_run_one_by_one_in_the_order_of_their_names() -> None:
    names = [result.check.name for result in run_suite(LoopbackSuite, loop_factory=VirtualTimeLoop)]
    assert names == sorted(names)
    assert names == [check.name for check in LoopbackSuite.checks()]


def test_only_the_named_checks_run() -> None:
    """On a loop that asyncio makes, unless another is given."""
    [passed] = run_suite(LoopbackSuite, only=SMALL)
    assert (passed.check.name, passed.status, passed.reason) == (*SMALL, "passed", "")


def test_what_needs_a_missing_hook_is_not_checked() -> None:
    class Bare(TransportSuite):
        connect = LoopbackSuite.connect
        new_engine = LoopbackSuite.new_engine
        hub = LoopbackSuite.hub

    results = list(run_suite(Bare, loop_factory=VirtualTimeLoop))
    unchecked = {result.check.name: result.reason for result in results if result.status == "not checked"}
    assert {check.name for check in LoopbackSuite.checks() if check.needs} == unchecked.keys()
    hooks = "cut", "cut_peer", "inject"
    assert set(unchecked.values()) == {f"there is no hook {hook!r}" for hook in hooks}
    numbers = {number for number, status in sentences(results).items() if status == "not checked"}
    assert numbers == {"T13.1", "T13.2", "T13.3", "T13.4", "T13.5", "T15.1"}


def test_the_reason_is_the_first_line_of_the_error_and_its_place() -> None:
    class TwoLines(Unreachable):
        error = ConnectionError("nobody is there\nand nobody will be")  # clstr's own errors escape their line breaks

    [failed] = run_suite(TwoLines, only=SMALL)
    assert failed.status == "failed"
    assert failed.reason.startswith("ConnectionError (_message_checks.py:")
    assert failed.reason.endswith("): nobody is there")


def test_an_error_without_a_message_has_no_colon() -> None:
    class Suite(Unreachable):
        error = LookupError()

    [failed] = run_suite(Suite, only=SMALL)
    assert failed.reason.startswith("LookupError (_message_checks.py:")
    assert failed.reason.endswith(")")


def test_the_reason_of_a_check_that_is_stuck_says_where_it_waited() -> None:
    [failed] = run_suite(Silent, only=SMALL, loop_factory=VirtualTimeLoop)
    assert failed.reason.startswith("stuck until its guard's time was over (_message_checks.py:")
    assert failed.reason.endswith('): assert await asyncio.gather(*requests) == [b""] * 20')


def test_a_failed_assertion_is_quoted() -> None:
    class Suite(LoopbackSuite):
        async def connect(self, **options: Any) -> clstr.Transport:
            transport = await super().connect(**options)
            assert transport.max_payload_bytes == 7
            return transport

    [failed] = run_suite(Suite, only=SMALL)
    assert failed.reason.startswith("AssertionError (_message_checks.py:")
    assert "== 7" in failed.reason


def test_the_reason_says_if_only_closing_failed() -> None:
    class Suite(LoopbackSuite):
        async def connect(self, **options: Any) -> clstr.Transport:
            transport = await super().connect(**options)
            transport.aclose = self.fail  # type: ignore[method-assign]  # as a broken one does
            return transport

        async def fail(self) -> clstr.CloseReport:
            raise ConnectionError("already gone")

    [failed] = run_suite(Suite, only=SMALL, loop_factory=VirtualTimeLoop)
    assert failed.reason == "ConnectionError (when the transports of the check were closed): already gone"


def test_an_interrupt_ends_the_run() -> None:
    class Suite(LoopbackSuite):
        async def connect(self, **options: Any) -> clstr.Transport:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_suite(Suite, only=SMALL))


def test_the_loop_of_a_check_is_closed() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    def new_loop() -> asyncio.AbstractEventLoop:
        loops.append(VirtualTimeLoop())
        return loops[-1]

    list(run_suite(LoopbackSuite, only=SMALL, loop_factory=new_loop))
    assert [loop.is_closed() for loop in loops] == [True]


def test_a_sentence_fails_with_any_check_and_passes_only_with_one() -> None:
    results = [
        result("passed", "T1.1", "T1.2"),
        result("failed", "T1.2", "T1.3"),
        result("not checked", "T1.1", "T1.3", "T1.4"),
    ]
    statuses = sentences(results)
    assert statuses.keys() == CONTRACT.keys()
    assert [statuses[number] for number in ("T1.1", "T1.2", "T1.3", "T1.4", "T2.1")] == [
        "passed",
        "failed",
        "failed",
        "not checked",
        "not checked",
    ]


def test_an_expected_failure_is_no_failure_and_its_absence_is_one() -> None:
    reason = "nobody is there yet"
    broken = type("Broken", (Unreachable,), {"expected_failures": dict.fromkeys(SMALL, reason)})
    [result] = run_suite(broken, only=SMALL)
    assert (result.status, result.reason) == ("failed as expected", reason)
    assert sentences([result])["T1.2"] == "failed as expected"
    healthy = type("Healthy", (LoopbackSuite,), {"expected_failures": dict.fromkeys(SMALL, reason)})
    [result] = run_suite(healthy, only=SMALL)
    assert result.status == "failed"
    assert result.reason == f"it passed, but was expected to fail: {reason}"


def test_a_name_that_is_no_check_is_refused() -> None:
    with pytest.raises(ValueError, match="no checks: test_nothing"):
        list(run_suite(LoopbackSuite, only=["test_nothing"]))
