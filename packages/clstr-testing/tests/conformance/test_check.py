"""What makes a method a check: its sentences, its hooks, its guard, and the peers that it leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import clstr
from clstr_testing import Bench, Check, VirtualTimeLoop
from clstr_testing._check import checks_of, proves
from conformance.loopback import LoopbackSuite
from conformance.mutants_closing import CloseHangs


def run(method: Callable[[Bench], Awaitable[None]], bench: Bench) -> None:
    """Run ``method`` as a check of ``bench``."""

    async def check() -> None:
        await proves("T1.1")(method)(bench)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(check())


async def stay(bench: Bench) -> None:
    await asyncio.Event().wait()


def test_a_check_proves_only_sentences_of_the_contract() -> None:
    with pytest.raises(KeyError, match=r"T99\.1"):
        proves("T99.1")


def test_a_check_says_what_it_proves_and_what_it_needs() -> None:
    class Suite(Bench):
        @proves("T1.1", "T2.1", needs=frozenset({"cut"}), capability="replay")
        async def test_this(self) -> None:
            """Never run."""

        async def test_that(self) -> None:
            """No check."""

    expected = Check(name="test_this", proves=("T1.1", "T2.1"), needs=frozenset({"cut"}), capability="replay")
    assert checks_of(Suite) == [expected]


@pytest.mark.parametrize(
    ("needs", "capability", "reason"),
    [({"cut", "freeze"}, "", "there is no hook 'freeze'"), (set(), "replay", "the capability 'replay' is not claimed")],
    ids=["hook", "capability"],
)
def test_a_check_without_what_it_needs_is_skipped(needs: set[str], capability: str, reason: str) -> None:
    check = proves("T1.1", needs=frozenset(needs), capability=capability)(stay)
    with asyncio.Runner() as runner, pytest.raises(pytest.skip.Exception, match=f"^not checked: {reason}$"):
        runner.run(check(LoopbackSuite()))  # type: ignore[arg-type]  # an async function's awaitable is a coroutine


def test_a_claimed_capability_is_checked() -> None:
    class Suite(LoopbackSuite):
        capabilities = frozenset({"replay"})

    Suite().skip_unless_checkable(Check(name="", proves=(), needs=frozenset(), capability="replay"))


def test_the_guard_ends_a_check_that_is_stuck() -> None:
    with pytest.raises(TimeoutError):
        run(stay, LoopbackSuite())


def test_a_check_that_swallows_its_cancellation_has_not_passed() -> None:
    async def swallow(bench: Bench) -> None:
        try:
            await stay(bench)
        except asyncio.CancelledError:
            """It takes it for that of a request."""

    with pytest.raises(TimeoutError):
        run(swallow, LoopbackSuite())


def test_every_check_has_a_cluster_of_its_own() -> None:
    clusters = set()

    async def look(bench: Bench) -> None:
        clusters.add(bench.cluster)

    for _ in range(3):
        run(look, LoopbackSuite())
    assert len(clusters) == 3


@pytest.mark.parametrize("fails", [False, True])
def test_peers_are_closed_when_the_check_ends(fails: bool) -> None:
    peers: list[clstr.Transport] = []

    async def open_two(bench: Bench) -> None:
        peers.extend([await bench.peer(), await bench.peer()])
        assert not fails

    if fails:
        with pytest.raises(AssertionError):
            run(open_two, LoopbackSuite())
    else:
        run(open_two, LoopbackSuite())
    assert len(peers) == 2
    assert all(peer._is_closed for peer in peers)  # type: ignore[attr-defined]  # they are engines


class HangingSuite(LoopbackSuite):
    """Its transports never end their `aclose` while a handler ignores its cancellation."""

    async def connect(self, **options: Any) -> clstr.Transport:
        transport = await super().connect(**options)
        transport.dispatcher.__class__ = CloseHangs  # type: ignore[attr-defined]  # it is an engine
        return transport


@pytest.mark.parametrize("fails", [False, True])
def test_a_close_that_hangs_is_guarded_too(fails: bool) -> None:
    """The check's own failure is the one to report."""
    released = asyncio.Event()

    async def leave_a_handler(bench: Bench) -> None:
        peer = await bench.peer()
        started = asyncio.Event()

        async def deaf(_: clstr.Envelope) -> None:
            started.set()
            while not released.is_set():
                try:
                    await released.wait()
                except asyncio.CancelledError:
                    asyncio.get_running_loop().call_later(20, released.set)

        await peer.subscribe([0], deaf)
        await peer.notify(clstr.Envelope(shard=0, type="t"))
        await started.wait()
        if fails:
            raise LookupError

    with pytest.raises(LookupError if fails else TimeoutError):
        run(leave_a_handler, HangingSuite())


def test_without_a_hook_peers_come_from_the_url(loopback_plugin: None) -> None:
    """Every check has a cluster of its own in it."""

    class Suite(Bench):
        url = "loopback://{cluster}"

    async def talk(bench: Bench) -> None:
        server, client = await bench.peer(), await bench.peer(max_queue=7)
        assert client.limits.max_queue == 7  # type: ignore[attr-defined]  # it is an engine
        await server.subscribe([0], answer)
        assert await client.request(clstr.Envelope(shard=0, type="t")) == bench.cluster.encode()

    async def answer(message: clstr.Envelope) -> bytes:
        return bench.cluster.encode()

    bench = Suite()
    run(talk, bench)
