"""D1, D2, D6 and D7: what a swap changes, and what it proves."""

from __future__ import annotations

import asyncio

from clstr.spi import CLUSTER_KEY, Record, Swap, SwapConflictError, Version
from clstr_testing._check import proves
from clstr_testing._directory_bench import DirectoryBench, Member
from clstr_testing._outcomes import failure

KEY = "shard/7"
MANY = 4096


async def conflict(member: Member, swap: Swap) -> Record:
    """Return what is there instead of what ``swap`` expects."""
    return (await failure(member.directory.swap(swap), SwapConflictError)).actual


class SwapChecks(DirectoryBench):
    """D1 and D2."""

    @proves("D1.1", "D1.2")
    async def test_of_swaps_of_one_version_one_succeeds(self) -> None:
        """Eight members change one key at once, then create one, then delete one."""
        members = [await self.member() for _ in range(8)]
        await members[0].found()
        for swap_to in (b"created %d", b"changed %d", None):
            expected = (await members[0].record(KEY)).expected
            values = [swap_to and swap_to % number for number in range(8)]
            swaps = [
                each.directory.swap(Swap(KEY, expected, value)) for each, value in zip(members, values, strict=True)
            ]
            outcomes = await asyncio.gather(*swaps, return_exceptions=True)
            [won] = [outcome for outcome in outcomes if isinstance(outcome, Version)]
            assert (await members[0].record(KEY)).value == values[outcomes.index(won)]
            lost = [outcome for outcome in outcomes if isinstance(outcome, SwapConflictError)]
            assert len(lost) == 7, outcomes
            assert {error.actual.value for error in lost} == {values[outcomes.index(won)]}

    @proves("D1.2")
    async def test_a_conflict_changes_nothing_and_says_what_is_there(self) -> None:
        """Of a key that has changed, one that is there, and one that is absent."""
        member, other = await self.two()
        old = await member.put(KEY, b"old")
        new = await other.put(KEY, b"new")
        there = Record(b"new", new)
        assert await conflict(member, Swap(KEY, old, b"late")) == there
        assert await conflict(member, Swap(KEY, Version.absent(old.history), b"late")) == there
        assert await conflict(member, Swap(KEY, old, None)) == there
        missing = await conflict(member, Swap("shard/8", new, b"late"))
        assert (missing.value, missing.version.history) == (None, new.history)
        snapshot = await other.read()
        assert snapshot.records.keys() == {CLUSTER_KEY, KEY}
        assert snapshot.record(KEY) == there

    @proves("D1.3")
    async def test_a_read_shows_what_was_acknowledged(self) -> None:
        """Whoever made the change, and whoever reads."""
        member, other = await self.two()
        for number in range(50):
            version = await member.put(KEY, b"%d" % number)
            snapshot = await other.read()
            assert snapshot.record(KEY) == Record(b"%d" % number, version)
            assert snapshot.order >= version.order
            assert snapshot.history == version.history
            member, other = other, member

    @proves("D1.4", "D2.1")
    async def test_a_key_is_deleted_and_created_again(self) -> None:
        """A deletion is a change with a version of its own; afterwards the key is absent."""
        member, other = await self.two()
        versions = [await member.put(KEY, value) for value in (b"first", None, b"second", b"", None)]
        assert versions == sorted(versions, key=lambda version: version.order)
        assert len({version.order for version in versions}) == 5
        assert KEY not in (await other.read()).records

    @proves("D1.5")
    async def test_several_swaps_are_each_on_their_own(self) -> None:
        """One of a hundred conflicts; the outcomes come in order."""
        member, other = await self.two()
        history = (await member.read()).history
        keys = [f"shard/{number}" for number in range(100)]
        there = await other.put(keys[50], b"there")
        outcomes = await member.directory.swap_many([Swap(key, Version.absent(history), key.encode()) for key in keys])
        records = (await other.read()).records
        lost = outcomes.pop(50)
        assert isinstance(lost, SwapConflictError)
        assert lost.actual == records[keys.pop(50)] == Record(b"there", there)
        assert [records[key].value for key in keys] == [key.encode() for key in keys]
        assert [records[key].version for key in keys] == outcomes

    @proves("D2.1")
    async def test_orders_grow_with_every_change_of_any_key(self) -> None:
        """So that a snapshot's order says what is in it."""
        members = await self.two()
        orders = [(await members[number % 2].put(f"shard/{number % 3}", b"x")).order for number in range(30)]
        assert orders == sorted(set(orders))

    @proves("D2.2")
    async def test_a_version_never_matches_another_value(self) -> None:
        """What was read before a key went and came back names nothing any more, even if the value is the same."""
        member, other = await self.two()
        old = await member.put(KEY, b"same")
        await other.put(KEY, None)
        new = await other.put(KEY, b"same")
        assert await conflict(member, Swap(KEY, old, b"late")) == Record(b"same", new)

    @proves("D2.3", needs=frozenset({"lag", "fail_over"}))
    async def test_swaps_that_the_store_has_lost_change_its_history(self) -> None:
        """A replica that lags takes over: later swaps must not be taken for those that were lost."""
        member, _ = await self.two()
        kept = await member.put(KEY, b"kept")
        await self.lag()  # type: ignore[attr-defined]  # hooks are optional
        lost = await member.put(KEY, b"lost")
        await self.fail_over()  # type: ignore[attr-defined]  # as above
        await member.ears.until(lambda ears: bool(ears.ups))
        found = await member.record(KEY)
        assert found.value == b"kept"
        assert found.version.history not in {kept.history, lost.history}
        for stale in (kept, lost):
            assert (await conflict(member, Swap(KEY, stale, b"late"))).value == b"kept"
        again = await member.put(KEY, b"again")
        assert again.history == found.version.history
        assert again.order > found.version.order


class HistoryChecks(DirectoryBench):
    """D6."""

    @proves("D6.1")
    async def test_nothing_can_be_swapped_before_the_cluster_begins(self) -> None:
        """Only its own record can be."""
        member = await self.member()
        empty = await member.read()
        assert (empty.history, dict(empty.records)) == ("", {})
        for expected in (Version.absent(""), Version("", 1), Version.absent("made-up")):
            assert await conflict(member, Swap(KEY, expected, b"x")) == Record(None, Version.absent(""))
        assert (await member.read()).records == {}

    @proves("D6.2")
    async def test_of_several_that_begin_the_cluster_one_does(self) -> None:
        """All see one history from then on."""
        members = [await self.member() for _ in range(4)]
        swap = Swap(CLUSTER_KEY, Version.absent(""), b"cluster")
        outcomes = await asyncio.gather(*(each.directory.swap(swap) for each in members), return_exceptions=True)
        [won] = [outcome for outcome in outcomes if isinstance(outcome, Version)]
        assert sum(isinstance(outcome, SwapConflictError) for outcome in outcomes) == 3
        assert won.history
        assert {(await each.read()).history for each in members} == {won.history}

    @proves("D6.3")
    async def test_a_swap_of_another_history_changes_nothing(self) -> None:
        """Neither of a key that is there nor of one that is absent; the conflict names the history that is."""
        member, other = await self.two()
        version = await other.put(KEY, b"x")
        for history in ("", "made-up", version.history + "0"):
            assert await conflict(member, Swap(KEY, Version(history, version.order), b"y")) == Record(b"x", version)
            missing = await conflict(member, Swap("shard/8", Version.absent(history), b"y"))
            assert (missing.value, missing.version.history) == (None, version.history)
        assert (await member.read()).records.keys() == {CLUSTER_KEY, KEY}

    @proves("D6.4", "D2.2", needs=frozenset({"wipe"}))
    async def test_what_was_known_before_a_wipe_changes_nothing_after_it(self) -> None:
        """The store counts from 1 again, and perhaps tells nobody."""
        member, other = await self.two()
        old = await member.put(KEY, b"old")
        await self.wipe()  # type: ignore[attr-defined]  # hooks are optional
        late = [Swap(KEY, old, b"late"), Swap("shard/8", Version.absent(old.history), b"late")]
        for swap in late:
            assert (await conflict(member, swap)).version.history != old.history
        history = await other.found()
        assert history != old.history
        while (new := await other.put(KEY, b"new")).order < old.order:
            pass
        for swap in late:
            assert (await conflict(member, swap)).version.history == new.history
        snapshot = await member.read()
        assert snapshot.records.keys() == {CLUSTER_KEY, KEY}
        assert snapshot.record(KEY) == Record(b"new", new)


class BoundChecks(DirectoryBench):
    """D7."""

    @proves("D7.1")
    async def test_every_key_and_value_within_the_bounds_is_carried(self) -> None:
        """Whatever bytes a value has."""
        member, other = await self.two()
        values = [b"", bytes(range(256)), b"x" * (256 * 1024)]
        for key in ("a", "node/A=2E-_z.7", "lease/" + "k" * 1018):
            for value in values:
                version = await member.put(key, value)
                assert await other.record(key) == Record(value, version)
                await other.sees(key, value)

    @proves("D7.2")
    async def test_a_read_brings_thousands_of_records(self) -> None:
        """As many as a large cluster has shards."""
        member, other = await self.two()
        history = (await member.read()).history
        swaps = [Swap(f"shard/{number}", Version.absent(history), b"%d" % number) for number in range(MANY)]
        versions = await member.directory.swap_many(swaps)
        records = dict((await other.read()).records)
        del records[CLUSTER_KEY]
        assert {key: record.value for key, record in records.items()} == {swap.key: swap.value for swap in swaps}
        assert [records[swap.key].version for swap in swaps] == versions
