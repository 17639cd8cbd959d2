"""The judge of what journals say: was anything run twice, lost without an error, or answered wrongly?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from clstr_testing._records import REFUSALS, Ended, Executed, Records, Sent

SHOWN = 20  # violations in a report: the first ones say most


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """
    A promise that was broken.

    Attributes:
        rule: The name of the rule, a key of `RULES`.
        id: The message.
        facts: What shows it.
    """

    rule: str
    id: str
    facts: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.id}: {self.facts}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """
    The result of a run.

    Attributes:
        counts: How many calls ended how; ``open`` are those of killed clients.
        executions: How many executions were recorded.
        torn: How many journals end in the middle of a record.
        violations: The broken promises.
    """

    counts: dict[str, int]
    executions: int
    torn: int
    violations: tuple[Violation, ...]

    @property
    def is_safe(self) -> bool:
        """Whether every promise was kept."""
        return not self.violations

    @property
    def summary(self) -> str:
        """One line."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items())) or "none"
        broken = Counter(violation.rule for violation in self.violations)
        result = ", ".join(f"{count} x {rule}" for rule, count in sorted(broken.items())) or "no violation"
        return f"{sum(self.counts.values())} calls ({kinds}), {self.executions} executions, {self.torn} torn: {result}"

    def __str__(self) -> str:
        """Return the summary, and a line for each of the first violations."""
        more = len(self.violations) - SHOWN
        lines = [self.summary, *map(str, self.violations[:SHOWN]), *([f"and {more} more"] if more > 0 else [])]
        return "\n  ".join(lines)


@dataclass(frozen=True, slots=True)
class _Terms:
    """What the run allows."""

    margin: float
    killed: Collection[str]
    faults: Sequence[tuple[float, float]] | None
    detection: float

    def excuse(self, start: float, end: float) -> bool:
        """Return whether a fault may have hit a call."""
        return self.faults is None or any(
            start <= last + self.detection and first <= end for first, last in self.faults
        )


@dataclass(slots=True)
class _Case:
    """All that is known of one message."""

    sent: list[Sent] = field(default_factory=list)
    executed: list[Executed] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)

    def where(self) -> str:
        """Say where it ran."""
        ran = [f"{each.node} (shard {each.shard}{f', {each.what}' if each.what else ''})" for each in self.executed]
        return f"ran {len(ran)} times: {', '.join(ran)}" if ran else "never ran"

    def calls(self) -> Iterator[tuple[Sent, Ended]]:
        """Yield the call with its end, if both are known."""
        yield from zip(self.sent, self.ended, strict=False)


def _ran_twice(case: _Case, _: _Terms) -> Iterator[str]:
    if len(case.executed) > 1:
        yield case.where()


def _unknown(case: _Case, _: _Terms) -> Iterator[str]:
    if not case.sent:
        yield case.where()


def _ran_elsewhere(case: _Case, _: _Terms) -> Iterator[str]:
    shards = {sent.shard for sent in case.sent}
    if shards and any(each.shard not in shards for each in case.executed):
        yield f"sent to shard {shards.pop()}; {case.where()}"


def _id_used_twice(case: _Case, _: _Terms) -> Iterator[str]:
    if len(case.sent) > 1 or len(case.ended) > 1:
        yield f"sent {len(case.sent)} times, ended {len(case.ended)} times"


def _answered_without_running(case: _Case, _: _Terms) -> Iterator[str]:
    if any(ended.kind == "answered" for ended in case.ended) and not case.executed:
        yield "answered, but it never ran"


def _wrong_reply(case: _Case, _: _Terms) -> Iterator[str]:
    for sent, ended in case.calls():
        if ended.kind == "answered" and ended.reply != sent.expected:
            yield f"the reply is {ended.reply}, not {sent.expected}"


def _ran_although_denied(case: _Case, _: _Terms) -> Iterator[str]:
    for ended in case.ended:
        if ended.maybe_executed is False and case.executed:
            yield f"{ended.error} says maybe_executed=False; {case.where()}"


def _vague_refusal(case: _Case, _: _Terms) -> Iterator[str]:
    for ended in case.ended:
        if (ended.kind == "refused" or ended.error in REFUSALS) and ended.maybe_executed is not False:
            yield f"{ended.error} says maybe_executed={ended.maybe_executed}"


def _foreign_error(case: _Case, _: _Terms) -> Iterator[str]:
    for ended in case.ended:
        if ended.kind == "failed" and ended.maybe_executed is None:
            yield f"{ended.error} is no error of clstr"


def _late(case: _Case, terms: _Terms) -> Iterator[str]:
    for sent, ended in case.calls():
        late = ended.end - sent.deadline
        if late > terms.margin:
            yield f"{ended.error or ended.kind} came {late:.3f} s after the deadline, {terms.margin:g} s are allowed"


def _silent(case: _Case, terms: _Terms) -> Iterator[str]:
    for sent in case.sent:
        if not case.ended and sent.journal not in terms.killed:
            yield f"sent to shard {sent.shard} and never ended; {case.where()}"


def _lost(case: _Case, terms: _Terms) -> Iterator[str]:
    for sent, ended in case.calls():
        # It is still under way when the call has ended, and a fault may hit it then.
        if ended.kind == "notify" and not case.executed and not terms.excuse(sent.start, sent.deadline):
            yield f"a notify to shard {sent.shard} was out at {ended.end:.3f}, no fault was near, and it never ran"


def _needless(case: _Case, terms: _Terms) -> Iterator[str]:
    for sent, ended in case.calls():
        if ended.kind in {"refused", "failed"} and not terms.excuse(sent.start, ended.end):
            yield f"{ended.error} on shard {sent.shard}, {sent.start:.3f} to {ended.end:.3f}, and no fault was near"


RULES: dict[str, Callable[[_Case, _Terms], Iterator[str]]] = {
    "ran more than once": _ran_twice,
    "nobody sent it": _unknown,
    "ran for another shard": _ran_elsewhere,
    "id used twice": _id_used_twice,
    "answered without running": _answered_without_running,
    "wrong reply": _wrong_reply,
    "ran although denied": _ran_although_denied,
    "refusal that proves nothing": _vague_refusal,
    "error that says nothing": _foreign_error,
    "ended after its deadline": _late,
    "never ended": _silent,
    "lost without a fault": _lost,
    "failed without a fault": _needless,
}


def judge(
    records: Records,
    *,
    margin: float,
    killed: Collection[str] = (),
    faults: Sequence[tuple[float, float]] | None = None,
    detection: float = 0.0,
) -> Verdict:
    """
    Hold what happened against what clstr promises.

    Args:
        records: What all clients and nodes have written.
        margin: Seconds after its deadline within which a call must have ended.
        killed: The names of the journals of clients that were killed: their last calls did not end.
        faults: When faults began and ended, on the journals' clock. Calls that no fault can have hit must not fail,
            and their notifies must run; ``None`` allows failures at any time.
        detection: Seconds after the end of a fault during which calls may still fail of it.
    """
    terms = _Terms(margin, killed, faults, detection)
    cases = _cases(records)
    violations = tuple(
        Violation(rule=rule, id=message_id, facts=facts)
        for message_id, case in cases.items()
        for rule, broken in RULES.items()
        for facts in broken(case, terms)
    )
    counts = Counter[str](ended.kind for ended in records.ended)
    counts["open"] = sum(not case.ended for case in cases.values() if case.sent)
    return Verdict(
        counts=dict(+counts), executions=len(records.executed), torn=len(records.torn), violations=violations
    )


def _cases(records: Records) -> dict[str, _Case]:
    cases: dict[str, _Case] = {}
    for sent in records.sent:
        cases.setdefault(sent.id, _Case()).sent.append(sent)
    for executed in records.executed:
        cases.setdefault(executed.id, _Case()).executed.append(executed)
    for ended in records.ended:
        cases.setdefault(ended.id, _Case()).ended.append(ended)
    return cases
