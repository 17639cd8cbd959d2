"""
The suite proves itself.

A healthy transport passes every check; each deliberately broken one answers a request, and fails exactly the sentences
of the contract that it breaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import pytest

import clstr
from clstr_testing import CONTRACT, Check, Result, VirtualTimeLoop, run_suite, sentences
from conformance.broken import Mutant, mutants_of
from conformance.loopback import Hub, LoopbackSuite

MODULES = [import_module(f"conformance.{path.stem}") for path in sorted(Path(__file__).parent.glob("mutants_*.py"))]
MUTANTS = [mutant for module in MODULES for mutant in mutants_of(module)]

# A broken transport leaves handlers behind, which are collected after their loop was closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

each_mutant = pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.name) for mutant in MUTANTS])


def run(suite: type[LoopbackSuite], only: Iterable[str] | None = None) -> list[Result]:
    """Run ``suite`` in virtual time, where a check that hangs costs nothing."""
    return list(run_suite(suite, loop_factory=VirtualTimeLoop, only=only))


def test_a_healthy_transport_passes_every_check() -> None:
    assert [result for result in run(LoopbackSuite) if result.status != "passed"] == []


@each_mutant
def test_a_mutant_answers_a_request(mutant: Mutant) -> None:
    """Its fault is not found by trying it once."""

    async def smoke() -> bytes:
        hub = Hub()
        server, client = mutant.new_engine(hub, clstr.Limits()), mutant.new_engine(hub, clstr.Limits())
        await server.open()
        await client.open()
        await server.subscribe([0], answer)
        reply = await client.request(clstr.Envelope(shard=0, type="smoke", data=b"ping"))
        await client.aclose()
        await server.aclose()
        return reply

    async def answer(message: clstr.Envelope) -> bytes:
        return message.data + b"pong"

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(smoke()) == b"pingpong"


@each_mutant
def test_a_mutant_fails_exactly_what_it_breaks(mutant: Mutant) -> None:
    results = run(mutant.suite())
    failed = {number for number, status in sentences(results).items() if status == "failed"}
    assert failed == mutant.label, [(result.check.name, result.reason) for result in results if result.reason]
    for result in results:
        if result.status == "failed":
            assert_says_where(result)


def assert_says_where(rejection: Result) -> None:
    """Whoever reads it has no traceback."""
    assert rejection.reason
    assert "\n" not in rejection.reason
    assert "_checks.py:" in rejection.reason or "transports of the check were closed" in rejection.reason, rejection


def test_there_are_many_mutants_and_no_two_have_one_name() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 100


@pytest.mark.parametrize("check", [pytest.param(check, id=check.name) for check in LoopbackSuite.checks()])
def test_a_check_rejects_a_mutant(check: Check) -> None:
    """A check that no fault makes fail proves nothing."""
    suspects = (mutant for mutant in MUTANTS if not mutant.label.isdisjoint(check.proves))
    assert any(run(mutant.suite(), [check.name])[0].status == "failed" for mutant in suspects)


def test_every_sentence_is_broken_by_a_mutant() -> None:
    assert CONTRACT.keys() - {number for mutant in MUTANTS for number in mutant.label} == set()


def test_every_sentence_is_proved_by_a_check() -> None:
    assert CONTRACT.keys() - {number for check in LoopbackSuite.checks() for number in check.proves} == set()
