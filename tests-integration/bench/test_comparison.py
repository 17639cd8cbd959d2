"""What comes of rounds in turns."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.chart import draw
from bench.comparison import Result, compare
from bench.contender import Load, Timing
from bench.costs import Cost
from bench.report import Record, machine, of_cost, of_result, table
from bench.scenarios import Scenario
from bench.side import Round, Setup, cpu_of


def a_round(rate: float, p50: float = 0.001, handled: int | None = None) -> Round:
    """Return a round of a second."""
    timing = Timing(requests=int(rate), seconds=1.0, p50=p50, p99=0.01)
    done = int(rate) if handled is None else handled
    return Round(
        timing=timing, handled=done, client_cpu=1.0, node_cpu=2.0, broker_cpu=0.5, client_mib=30.0, node_mib=40.0
    )


def a_scenario(**changes: object) -> Scenario:
    """Return a scenario of two bare clients."""
    side = Setup(contender="nats-py", load=Load(callers=4, keys=5))
    return msgspec.structs.replace(Scenario(name="one", left=side, right=side, at_least=1.1), **changes)


def result_of(scenario: Scenario, left: list[Round], right: list[Round]) -> Result:
    """Return what came of these rounds."""
    return Result(scenario=scenario, loop="asyncio", left=left, right=right)


def test_the_ratio_is_the_median_of_the_ratios_of_pairs() -> None:
    left, right = [a_round(rate) for rate in (100, 300, 240)], [a_round(rate) for rate in (100, 100, 200)]
    result = result_of(a_scenario(), left, right)
    assert result.ratios == [1.0, 3.0, 1.2]
    assert result.ratio == 1.2
    assert result.is_met


def test_a_bar_that_is_missed_shows() -> None:
    result = result_of(a_scenario(), [a_round(100)], [a_round(100)])
    assert not result.is_met
    assert "1.00 x in rate, rounds 1.00 to 1.00; NOT MET: at least 1.10" in of_result(result)
    assert not Record(machine="", results=[result]).is_met


def test_a_latency_has_a_bar_above_it() -> None:
    slow = a_scenario(what="p50", at_least=None, at_most=1.3)
    assert not result_of(slow, [a_round(1, p50=0.002)], [a_round(1, p50=0.001)]).is_met
    assert result_of(slow, [a_round(1, p50=0.0012)], [a_round(1, p50=0.001)]).is_met


def test_notifies_that_no_node_has_do_not_count() -> None:
    assert a_round(1000, handled=10).rate == 10


def test_a_comparison_says_what_each_side_did() -> None:
    text = of_result(result_of(a_scenario(), [a_round(2000)], [a_round(1000)]))
    assert "2,000/s (2,000 to 2,000)  p50 1.00 ms  p99 10.00 ms  CPU 500 + 1000 + 250 ms/1000" in text
    assert "memory 30 + 40 MiB" in text


def test_a_record_becomes_a_table() -> None:
    result = result_of(a_scenario(), [a_round(2000)], [a_round(1000)])
    cost = Cost(name="b", unit="bytes", ours=[4000.0], theirs=[])
    text = table(Record(machine="somewhere", results=[result], costs=[cost]))
    sides = "2,000/s | 1,000/s | 500 + 1000 + 250 | 1000 + 2000 + 500"
    row = f"| one, asyncio | 2.00 x | 2.00 to 2.00 | at least 1.10 | {sides} |"
    assert text.startswith("somewhere.\n\n| scenario |")
    assert row in text.splitlines()
    assert "* b: 4,000 bytes; no bar" in text.splitlines()


def test_a_cost_is_judged_by_its_ratio_or_by_itself() -> None:
    ratio = Cost(name="a", unit="s", ours=[3.0, 1.0, 1.2], theirs=[1.0, 1.0, 1.0], at_most=1.5)
    assert ratio.figure == 1.2
    assert of_cost(ratio) == "a: 1.20 x, 1200.00 ms against 1000.00 ms; met: at most 1.5"
    alone = Cost(name="b", unit="bytes", ours=[4000.0], theirs=[], at_most=3072)
    assert of_cost(alone) == "b: 4,000 bytes; NOT MET: at most 3,072"
    assert not Record(machine="", costs=[ratio, alone]).is_met


def test_a_machine_is_named_with_what_is_measured_on_it() -> None:
    assert "cores" in machine()
    assert "nats-py" in machine()


def test_the_cpu_of_another_process_is_known() -> None:
    assert cpu_of(1) >= 0


async def test_sides_take_turns_and_what_they_did_can_be_kept_and_drawn(tmp_path: Path) -> None:
    result = await compare(a_scenario(), tmp_path, rounds=2, seconds=0.05)
    assert len(result.left) == len(result.right) == 2
    record = Record(machine=machine(), results=[result])
    assert msgspec.json.decode(msgspec.json.encode(record), type=Record) == record
    draw(record, tmp_path / "chart.svg")
    assert "nats-py" in (tmp_path / "chart.svg").read_text(encoding="utf-8")


async def test_a_part_of_the_load_is_sent_at_a_rate(tmp_path: Path) -> None:
    result = await compare(a_scenario(part=0.5), tmp_path, rounds=1, seconds=0.2)
    assert result.left[0].timing.requests > 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_loop_is_kept(loop: str) -> None:
    assert f"({loop})" in of_result(Result(scenario=a_scenario(), loop=loop, left=[a_round(1)], right=[a_round(1)]))
