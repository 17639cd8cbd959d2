"""Running a suite without pytest, and what came of it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from clstr_testing._check import Check
from clstr_testing._contract import CONTRACT
from clstr_testing._directory_suite import DirectorySuite
from clstr_testing._suite import TransportSuite

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """
    What came of one check.

    Attributes:
        check: The check.
        status: ``"passed"``, ``"failed"``, ``"failed as expected"`` or ``"not checked"``.
        reason: Why it did not pass; empty if it did.
    """

    check: Check
    status: str
    reason: str = ""


def run_suite(
    suite: type[TransportSuite | DirectorySuite],
    *,
    loop_factory: LoopFactory | None = None,
    only: Iterable[str] | None = None,
) -> Iterator[Result]:
    """
    Run the checks of ``suite``, each on a new event loop, and yield their results.

    Args:
        suite: A subclass of one of the suites that says where to connect to.
        loop_factory: Makes the loops; by default asyncio does.
        only: The names of the checks to run; by default all.

    Raises:
        TypeError: A check was overridden.
        ValueError: ``only`` names what is no check.
    """
    suite.check_integrity()
    checks = {check.name: check for check in suite.checks()}
    chosen = checks.keys() if only is None else list(only)
    unknown = sorted(set(chosen) - checks.keys())
    if unknown:
        raise ValueError(f"no checks: {', '.join(unknown)}")
    for name in chosen:
        result = _run(suite(), checks[name], loop_factory)
        yield _as_expected(result, suite.expected_failures.get(name))


def _as_expected(result: Result, expected: str | None) -> Result:
    """Turn the failure that is expected into one, and its absence into a failure."""
    if expected is None or result.status == "not checked":
        return result
    if result.status == "failed":
        return Result(check=result.check, status="failed as expected", reason=expected)
    return Result(check=result.check, status="failed", reason=f"it passed, but was expected to fail: {expected}")


def _run(bench: TransportSuite | DirectorySuite, check: Check, loop_factory: LoopFactory | None) -> Result:
    method = getattr(bench, check.name)
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(method())
    except pytest.skip.Exception as skipped:
        return Result(check=check, status="not checked", reason=str(skipped).removeprefix("not checked: "))
    except Exception as error:  # noqa: BLE001 -- whatever it is, it is what came of the check
        return Result(check=check, status="failed", reason=_describe(error))
    return Result(check=check, status="passed")


def _describe(error: Exception) -> str:
    """Say what went wrong, and at which line of which check."""
    if isinstance(error, TimeoutError) and not str(error):
        place = error.__cause__ or error
        return f"stuck until its guard's time was over{_where(place)}{_waiting_at(place)}"
    line = _line(error)
    return f"{type(error).__name__}{_where(error)}{': ' if line else ''}{line}"


def _line(error: Exception) -> str:
    """Return the first line of the error's message; an assertion's without one is the line that it stands in."""
    text = str(error).strip().partition("\n")[0]
    frames = traceback.extract_tb(error.__traceback__)
    return text or (frames[-1].line or "" if frames and isinstance(error, AssertionError) else "")


def _waiting_at(error: BaseException) -> str:
    """Quote the line of the check that never went on."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith("_checks.py")]
    return f": {frames[-1].line}" if frames and frames[-1].line else ""


def _where(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith("_checks.py")]
    if not frames:
        return " (when the transports of the check were closed)"
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})"


def sentences(results: Iterable[Result], contract: Mapping[str, str] = CONTRACT) -> dict[str, str]:
    """
    Return the status of every sentence of the contract, by its number.

    A sentence has failed if one of its checks has, and is not checked unless one of its checks has passed.

    Args:
        results: What came of the checks of one suite.
        contract: `CONTRACT`, or `DIRECTORY_CONTRACT` for those of a `DirectorySuite`.
    """
    statuses: dict[str, set[str]] = {number: set() for number in contract}
    for result in results:
        for number in result.check.proves:
            statuses[number].add(result.status)
    return {number: _worst(found) for number, found in statuses.items()}


def _worst(statuses: set[str]) -> str:
    for failure in ("failed", "failed as expected"):
        if failure in statuses:
            return failure
    return "passed" if "passed" in statuses else "not checked"
