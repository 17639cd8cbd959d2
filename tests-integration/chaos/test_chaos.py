"""The campaign finds what is wrong with a transport, and nothing wrong with ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.campaign import run_campaign
from chaos.defects import DEFECTS
from chaos.rolling import roll
from chaos.sites import TRANSPORTS

# What the judge says of each defect. Most show without any fault.
FOUND_AS = {
    "doubts_everything": "refusal that proves nothing",
    "fans_out": "ran more than once",
    "forgets_state": "actors that moved",
    "loses_large_replies": "large answers were lost",
    "loses_messages": "lost without a fault",
    "loses_replies": "failed without a fault",
    "resends": "ran more than once",
    "starts_expired": "messages that began expired",
}
NEEDS = {
    "doubts_everything": ["overload"],  # errors
    "forgets_state": ["move actors"],
    "loses_large_replies": ["large answers"],
    "resends": ["misbehave"],  # handlers that hang
    "starts_expired": ["overload"],
}
pytestmark = [
    pytest.mark.timeout(180),  # processes and brokers start, and end
    pytest.mark.xdist_group("campaigns"),  # one at a time: each has enough processes to keep a machine busy
]


def test_every_defect_has_its_verdict() -> None:
    assert FOUND_AS.keys() == DEFECTS.keys()


@pytest.mark.parametrize("defect", sorted(DEFECTS))
async def test_a_defect_is_found(defect: str, tmp_path: Path) -> None:
    kinds = NEEDS.get(defect, [])
    seconds = 9.0 if kinds else 4.0
    result = await run_campaign(
        "nats", tmp_path, seed=1, seconds=seconds, nodes=3, clients=1, defects=[defect], kinds=kinds
    )
    assert result.verdict is not None
    rules = [violation.rule for violation in result.verdict.violations]
    assert any(FOUND_AS[defect] in found for found in [*rules, *result.problems]), str(result)


async def test_more_faults_at_once_than_there_are_clients_happen_one_after_another(tmp_path: Path) -> None:
    kinds = ["kill client", "misbehave", "overload"]
    result = await run_campaign("nats", tmp_path, seed=5, seconds=8, nodes=3, clients=1, kinds=kinds)
    assert result.faults.total() == 3
    assert result.is_good, str(result)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_replacing_every_node_fails_no_request(transport: str, tmp_path: Path) -> None:
    verdict = await roll(transport, tmp_path, rate=500)  # the tests share their machine; by hand it is 2,000
    assert verdict.is_safe, str(verdict)
    assert verdict.counts.keys() <= {"answered", "notify", "cancelled"}
