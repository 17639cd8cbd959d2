"""The table of requests in flight: bounds, one outcome each, nothing kept."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable

import pytest

from clstr._limits import Limits
from clstr.errors import ConnectionLostError, OverloadedError, RequestTimeoutError, TransportClosedError
from clstr.spi._counters import Counters
from clstr.spi._deadlines import Deadlines
from clstr.spi._pending import TOKENS_AT_ONCE, Pending, PendingReplies, random_tokens
from spi.virtual_time import START, VirtualLoop


@pytest.fixture
async def deadlines() -> Deadlines:
    return Deadlines(asyncio.get_running_loop())


@pytest.fixture
async def table(deadlines: Deadlines) -> PendingReplies:
    limits = Limits(max_inflight_requests=3, max_inflight_bytes=100)
    return PendingReplies(asyncio.get_running_loop(), limits, deadlines, Counters())


def enter(table: PendingReplies, size: int = 10, timeout: float = 5) -> Pending:
    return table.open(1, size, START + timeout, timeout)


async def test_requests_and_bytes_are_counted_until_closed(table: PendingReplies, deadlines: Deadlines) -> None:
    one, other = enter(table, 60), enter(table, 40)
    assert (len(table), table.inflight_bytes, len(deadlines)) == (2, 100, 2)
    table.close(one)
    assert (len(table), table.inflight_bytes, len(deadlines)) == (1, 40, 1)
    table.close(other)
    assert (len(table), table.inflight_bytes, len(deadlines)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("sizes", "limit", "bound"), [([60, 41], "max_inflight_bytes", 100), ([1] * 4, "max_inflight_requests", 3)]
)
async def test_over_a_bound_nothing_is_entered(table: PendingReplies, sizes: list[int], limit: str, bound: int) -> None:
    for size in sizes[:-1]:
        enter(table, size)
    with pytest.raises(OverloadedError) as caught:
        enter(table, sizes[-1])
    assert (caught.value.limit, caught.value.bound, caught.value.maybe_executed) == (limit, bound, False)
    assert (len(table), table.inflight_bytes) == (len(sizes) - 1, sum(sizes[:-1]))


async def test_a_token_is_never_used_again(table: PendingReplies) -> None:
    tokens = set()
    for _ in range(100):
        pending = enter(table)
        tokens.add(pending.token)
        table.close(pending)
    assert len(tokens) == 100


async def test_no_token_follows_from_those_before(table: PendingReplies) -> None:
    """Neither the next number nor one at the same distance: a peer that sees some could answer others' requests."""
    tokens = []
    for _ in range(TOKENS_AT_ONCE + 50):
        pending = enter(table)
        tokens.append(pending.token)
        table.close(pending)
    distances = {later - earlier for earlier, later in itertools.pairwise(tokens)}
    assert len(distances) == len(tokens) - 1
    assert max(tokens).bit_length() > 60


def test_tokens_use_every_random_bit_and_are_drawn_many_at_a_time() -> None:
    draws: list[int] = []

    def random_bytes(size: int) -> bytes:
        draws.append(size)
        return bytes(range(256)) * (size // 256)

    tokens = list(itertools.islice(random_tokens(random_bytes), TOKENS_AT_ONCE + 1))
    assert draws == [8 * TOKENS_AT_ONCE] * 2
    assert {token.to_bytes(8, sys.byteorder) for token in tokens} == {bytes(range(n, n + 8)) for n in range(0, 256, 8)}


EVENTS: dict[str, Callable[[PendingReplies, Pending], object]] = {
    "reply": lambda table, pending: table.resolve(pending.token, b"reply"),
    "expire": lambda _, pending: pending.expire(),
    "lost": lambda table, _: table.fail_route("peer", ConnectionLostError, "lost"),
    "cancel": lambda _, pending: pending.outcome.cancel(),
}


@pytest.mark.parametrize("order", list(itertools.permutations(EVENTS)), ids="-".join)
async def test_only_the_first_event_counts(table: PendingReplies, order: tuple[str, ...]) -> None:
    pending = enter(table)
    table.went(pending, "peer")
    pending.was_sent = True
    for name in order:
        EVENTS[name](table, pending)
    if order[0] == "cancel":
        assert pending.outcome.cancelled()
    elif order[0] == "reply":
        assert pending.outcome.result() == b"reply"
    else:
        expected = {"expire": RequestTimeoutError, "lost": ConnectionLostError}[order[0]]
        assert isinstance(pending.outcome.result(), expected)
    assert table._counters.late_replies == (order[0] != "reply")


async def test_an_unknown_token_is_a_late_reply(table: PendingReplies) -> None:
    pending = enter(table)
    table.close(pending)
    table.resolve(pending.token, b"")
    table.resolve(-1, b"")
    assert table._counters.late_replies == 2


async def test_a_lost_route_fails_only_what_was_sent_along_it(table: PendingReplies) -> None:
    one, other, unsent = enter(table), enter(table), enter(table)
    for pending, route in ((one, "a"), (other, "b"), (unsent, "a")):
        table.went(pending, route)
    one.was_sent = other.was_sent = True
    table.fail_route("a", ConnectionLostError, "lost")
    error = one.outcome.result()
    assert isinstance(error, ConnectionLostError)
    assert error.maybe_executed
    assert not other.outcome.done()
    assert not unsent.outcome.done()


async def test_a_lost_route_costs_what_went_along_it_and_nothing_for_the_others(deadlines: Deadlines) -> None:
    table = PendingReplies(asyncio.get_running_loop(), Limits(), deadlines, Counters())

    class Route:
        """Counts how often it is compared."""

        compared = 0

        def __hash__(self) -> int:
            return 7

        def __eq__(self, other: object) -> bool:
            Route.compared += 1
            return self is other

    lost, kept = Route(), Route()
    for number in range(100):
        pending = enter(table)
        pending.was_sent = True
        table.went(pending, lost if number == 0 else kept)
    Route.compared = 0
    table.fail_route(lost, ConnectionLostError, "lost")
    assert Route.compared <= 1
    assert sum(pending.outcome.done() for pending in table.by_route[lost]) == 1


async def test_nothing_is_kept_of_routes_that_nothing_uses(table: PendingReplies) -> None:
    first, second = enter(table), enter(table)
    table.went(first, "a")
    table.went(second, "a")
    table.went(second, "b")
    table.close(first)
    table.renew(second, 60.0)
    assert second.route is None
    assert table.by_route == {}
    table.went(second, "c")
    table.close(second)
    assert table.by_route == {}


async def test_failing_all_that_was_sent_gives_each_an_error_of_its_own(table: PendingReplies) -> None:
    one, other, unsent = enter(table), enter(table), enter(table)
    one.was_sent = other.was_sent = True
    table.fail_sent(TransportClosedError, "closed")
    error = one.outcome.result()
    assert isinstance(error, TransportClosedError)
    assert error.maybe_executed
    assert error is not other.outcome.result()
    assert not unsent.outcome.done()


async def test_the_answer_to_what_has_one_is_late(table: PendingReplies) -> None:
    pending = enter(table)
    assert table.get(pending.token) is pending
    pending.resolve(b"reply")
    assert table.get(pending.token) is None
    assert table._counters.late_replies == 1


@pytest.mark.parametrize("was_sent", [True, False])
async def test_the_deadline_gives_a_timeout_that_knows_whether_it_was_sent(
    table: PendingReplies, clock: VirtualLoop, was_sent: bool
) -> None:
    pending = enter(table, timeout=5)
    pending.was_sent = was_sent
    error = await pending.outcome
    assert isinstance(error, RequestTimeoutError)
    assert (error.shard, error.timeout, error.maybe_executed) == (1, 5, was_sent)
    assert clock.time() == START + 5
