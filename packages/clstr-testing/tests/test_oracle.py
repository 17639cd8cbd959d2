"""Each rule finds what breaks it, and nothing else does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clstr import errors
from clstr_testing._oracle import RULES, SHOWN, judge
from clstr_testing._records import REFUSALS, Ended, Executed, Records, Sent, digest

YES = digest(b"yes")


def sent(message_id: str = "a", *, shard: int = 1, start: float = 10.0, expected: str | None = YES) -> Sent:
    return Sent(
        id=message_id, shard=shard, start=start, deadline=start + 5.0, expected=expected, journal="client-1.jsonl"
    )


def executed(message_id: str = "a", *, node: str = "node-1", shard: int = 1) -> Executed:
    return Executed(id=message_id, node=node, shard=shard, what="GetUser")


def answered(message_id: str = "a", *, reply: str = YES, end: float = 11.0) -> Ended:
    return Ended(id=message_id, kind="answered", end=end, reply=reply)


def refused(message_id: str = "a", *, maybe_executed: bool | None = False, end: float = 11.0) -> Ended:
    return Ended(id=message_id, kind="refused", end=end, maybe_executed=maybe_executed, error="OverloadedError")


def failed(message_id: str = "a", *, maybe_executed: bool | None = True, end: float = 11.0) -> Ended:
    return Ended(id=message_id, kind="failed", end=end, maybe_executed=maybe_executed, error="RequestTimeoutError")


def records(*each: Sent | Executed | Ended) -> Records:
    found = Records()
    for record in each:
        found.add(record)
    return found


GOOD = {
    "answered": records(sent(), executed(), answered()),
    "answered at the last moment": records(sent(), executed(), answered(end=15.5)),
    "refused": records(sent(), refused()),
    "failed, ran": records(sent(), executed(), failed()),
    "failed, never ran": records(sent(), failed()),
    "failed, denies that it ran": records(sent(), failed(maybe_executed=False)),
    "cancelled, ran": records(sent(), executed(), Ended(id="a", kind="cancelled", end=11.0)),
    "cancelled, never ran": records(sent(), Ended(id="a", kind="cancelled", end=11.0)),
    "notify, ran": records(sent(expected=None), executed(), Ended(id="a", kind="notify", end=11.0)),
    "notify, lost": records(sent(expected=None), Ended(id="a", kind="notify", end=11.0)),
    "nothing": records(),
}
BAD = {
    "ran more than once": (
        records(sent(), executed(), executed(node="node-2"), answered()),
        "ran 2 times: node-1 (shard 1, GetUser), node-2 (shard 1, GetUser)",
    ),
    "nobody sent it": (records(executed()), "ran 1 times: node-1 (shard 1, GetUser)"),
    "ran for another shard": (
        records(sent(), executed(shard=2), answered()),
        "sent to shard 1; ran 1 times: node-1 (shard 2, GetUser)",
    ),
    "id used twice": (
        records(sent(), sent(), executed(), answered(), failed()),
        "sent 2 times, ended 2 times",
    ),
    "answered without running": (records(sent(), answered()), "answered, but it never ran"),
    "wrong reply": (
        records(sent(), executed(), answered(reply=digest(b"no"))),
        f"the reply is {digest(b'no')}, not {YES}",
    ),
    "ran although denied": (
        records(sent(), executed(), refused()),
        "OverloadedError says maybe_executed=False; ran 1 times: node-1 (shard 1, GetUser)",
    ),
    "refusal that proves nothing": (
        records(sent(), refused(maybe_executed=True)),
        "OverloadedError says maybe_executed=True",
    ),
    "error that says nothing": (
        records(sent(), failed(maybe_executed=None)),
        "RequestTimeoutError is no error of clstr",
    ),
    "ended after its deadline": (
        records(sent(), failed(end=15.75)),
        "RequestTimeoutError came 0.750 s after the deadline, 0.5 s are allowed",
    ),
    "never ended": (
        records(sent(), executed()),
        "sent to shard 1 and never ended; ran 1 times: node-1 (shard 1, GetUser)",
    ),
    "lost without a fault": (
        records(sent(expected=None), Ended(id="a", kind="notify", end=11.0)),
        "a notify to shard 1 was out at 11.000, no fault was near, and it never ran",
    ),
    "failed without a fault": (
        records(sent(), failed()),
        "RequestTimeoutError on shard 1, 10.000 to 11.000, and no fault was near",
    ),
}


def test_every_rule_is_tested() -> None:
    assert list(BAD) == list(RULES)


@pytest.mark.parametrize("name", GOOD)
def test_what_clstr_promises_is_safe(name: str) -> None:
    verdict = judge(GOOD[name], margin=0.5)
    assert verdict.is_safe, str(verdict)


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_is_the_only_violation(rule: str) -> None:
    broken, facts = BAD[rule]
    verdict = judge(broken, margin=0.5, faults=[] if "without a fault" in rule else None)
    assert not verdict.is_safe
    [violation] = verdict.violations
    assert (violation.rule, violation.id, violation.facts) == (rule, "a", facts)


def test_a_refusal_by_its_error_is_one_whatever_it_was_called() -> None:
    ended = replace(failed(), error="NotOwnerError")
    [violation] = judge(records(sent(), ended), margin=0.5).violations
    assert violation.rule == "refusal that proves nothing"


@pytest.mark.parametrize("maybe_executed", [True, None])
def test_a_refusal_must_say_false(maybe_executed: bool | None) -> None:
    [violation] = judge(records(sent(), refused(maybe_executed=maybe_executed)), margin=0.5).violations
    assert violation.rule == "refusal that proves nothing"


def test_one_message_can_break_several_rules() -> None:
    verdict = judge(records(sent(), executed(), executed(), refused(end=20.0)), margin=0.5)
    assert [violation.rule for violation in verdict.violations] == [
        "ran more than once",
        "ran although denied",
        "ended after its deadline",
    ]


def test_the_last_calls_of_a_killed_client_are_open() -> None:
    verdict = judge(records(sent(), executed()), margin=0.5, killed={"client-1.jsonl"})
    assert verdict.is_safe
    assert verdict.counts == {"open": 1}


def test_a_killed_client_excuses_its_own_calls_alone() -> None:
    verdict = judge(records(sent()), margin=0.5, killed={"client-2.jsonl"})
    assert [violation.rule for violation in verdict.violations] == ["never ended"]


def test_what_a_killed_client_sent_runs_once_at_most() -> None:
    verdict = judge(records(sent(), executed(), executed()), margin=0.5, killed={"client-1.jsonl"})
    assert [violation.rule for violation in verdict.violations] == ["ran more than once"]


@pytest.mark.parametrize(
    ("fault", "is_near"),
    [
        ((0.0, 8.9), False),
        ((0.0, 9.0), True),
        ((10.2, 10.4), True),
        ((0.0, 99.0), True),
        ((11.0, 99.0), True),
        ((11.1, 99.0), False),
    ],
    ids=["over", "just detected", "within", "all the time", "begins", "later"],
)
@pytest.mark.parametrize("ended", [refused(), failed()], ids=["refused", "failed"])
def test_a_call_may_fail_from_the_begin_of_a_fault_to_its_detection(
    fault: tuple[float, float], is_near: bool, ended: Ended
) -> None:
    verdict = judge(records(sent(), ended), margin=0.5, faults=[(-9.0, -8.0), fault], detection=1.0)
    assert verdict.is_safe is is_near


@pytest.mark.parametrize(
    ("fault", "is_near"),
    [((0.0, 8.9), False), ((15.0, 99.0), True), ((15.1, 99.0), False)],
    ids=["over", "while it may be under way", "later"],
)
def test_a_notify_that_is_under_way_may_be_lost_to_a_fault(fault: tuple[float, float], is_near: bool) -> None:
    assert judge(GOOD["notify, lost"], margin=0.5, faults=[fault], detection=1.0).is_safe is is_near


@pytest.mark.parametrize("name", ["answered", "notify, ran", "cancelled, never ran"])
def test_what_did_not_fail_needs_no_fault(name: str) -> None:
    assert judge(GOOD[name], margin=0.5, faults=[]).is_safe


def test_the_summary_counts_everything_in_a_line() -> None:
    found = records(sent(), executed(), answered(), sent("b"), refused("b"), sent("c"), executed("c"), executed("c"))
    found.torn.append("node-1")
    verdict = judge(found, margin=0.5)
    assert verdict.summary == (
        "3 calls (1 answered, 1 open, 1 refused), 3 executions, 1 torn: 1 x never ended, 1 x ran more than once"
    )
    assert (verdict.counts, verdict.executions, verdict.torn) == ({"answered": 1, "refused": 1, "open": 1}, 3, 1)
    assert judge(records(), margin=0.5).summary == "0 calls (none), 0 executions, 0 torn: no violation"


def test_a_report_shows_the_first_violations() -> None:
    found = records(*(sent(f"m{number}") for number in range(SHOWN + 5)))
    lines = str(judge(found, margin=0.5)).splitlines()
    assert lines[1] == "  never ended: m0: sent to shard 1 and never ended; never ran"
    assert len(lines) == 1 + SHOWN + 1
    assert lines[-1] == "  and 5 more"
    assert len(str(judge(records(sent()), margin=0.5)).splitlines()) == 2


def test_refusals_are_the_errors_that_never_ran() -> None:
    """A new error of clstr has to be sorted in: does it always prove that the message never ran?"""
    kinds = [getattr(errors, name) for name in errors.__all__]
    never_run = {
        each.__name__ for each in kinds if not each.maybe_executed and not issubclass(each, errors.PluginError)
    }
    depends = {"ClstrError", "PayloadTooLargeError", "TransportClosedError"}
    ends_no_message = {"NodeIdInUseError"}
    assert never_run - depends - ends_no_message == REFUSALS
