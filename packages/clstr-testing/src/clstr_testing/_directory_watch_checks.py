"""D3, D4, D5 and D8: what members hear, and what holds when the store is away."""

from __future__ import annotations

import asyncio

from clstr.spi import CLUSTER_KEY, DirectoryUnavailableError, Swap, Version
from clstr_testing._check import proves
from clstr_testing._directory_bench import DirectoryBench, Ears, Member
from clstr_testing._handlers import settle
from clstr_testing._leaks import no_leaks
from clstr_testing._outcomes import failure

KEY = "shard/7"
OUTAGE = frozenset({"cut", "restore"})


class WatchChecks(DirectoryBench):
    """D3."""

    @proves("D3.1")
    async def test_the_watch_brings_every_change(self) -> None:
        """Our own and others', deletions too."""
        member, other = await self.two()
        for value in (b"1", b"2", None, b"", b"3"):
            version = await other.put(KEY, value)
            for each in (member, other):
                await each.sees(KEY, value)
                heard = [record for key, record in each.ears.heard if key == KEY]
                assert not heard or (heard[-1].value, heard[-1].version) == (value, version)

    @proves("D3.2")
    async def test_the_changes_of_a_key_come_in_order(self) -> None:
        """Two members change four keys at once; the watch may leave values out, but never goes back."""
        member, other = await self.two()
        watcher = await self.member()

        async def change(each: Member, key: str) -> None:
            for number in range(50):
                await each.put(key, b"%d" % number)
            await each.put(key, b"last")

        keys = [f"shard/{number}" for number in range(4)]
        await asyncio.gather(*(change(each, key) for each, key in zip([member, other] * 2, keys, strict=True)))
        for key in keys:
            await watcher.sees(key, b"last")
        await settle()
        for key in keys:
            orders = [version.order for version in watcher.ears.versions(key)]
            assert orders == sorted(set(orders)), key

    @proves("D3.3", needs=OUTAGE)
    async def test_what_an_outage_swallowed_is_brought_or_admitted(self) -> None:
        """A change is made just before every connection breaks."""
        member, other = await self.two()
        await member.sees(CLUSTER_KEY, b"cluster")
        await other.put(KEY, b"before")
        await self.cut()  # type: ignore[attr-defined]  # hooks are optional
        await self.restore()  # type: ignore[attr-defined]  # as above
        await member.sees(KEY, b"before")

    @proves("D3.4", needs=OUTAGE)
    async def test_the_watch_goes_on_after_an_outage(self) -> None:
        """Without another gap for each change."""
        member, other = await self.two()
        await self.cut()  # type: ignore[attr-defined]  # hooks are optional
        await self.restore()  # type: ignore[attr-defined]  # as above
        for each in (member, other):
            await each.ears.until(lambda ears: bool(ears.ups))
        version = await other.put(KEY, b"after")
        await member.ears.until(lambda ears: version in ears.versions(KEY))


class OutcomeChecks(DirectoryBench):
    """D4 and D5."""

    @proves("D4.1", needs=frozenset({"lose_answers", "restore"}))
    async def test_a_lost_answer_is_an_unknown_outcome(self) -> None:
        """The swap has taken effect, and nobody may be told that it has not."""
        member, _ = await self.two()
        history = (await member.read()).history
        await self.lose_answers()  # type: ignore[attr-defined]  # hooks are optional
        swap = member.directory.swap(Swap(KEY, Version.absent(history), b"x"))
        assert (await failure(swap, DirectoryUnavailableError)).maybe_applied
        await self.restore()  # type: ignore[attr-defined]  # as above
        assert (await (await self.member()).record(KEY)).value == b"x"

    @proves("D4.2", needs=OUTAGE)
    async def test_a_store_that_is_away_fails_calls_and_comes_back(self) -> None:
        """Calls end; the sink hears of the outage, and of the return with the history."""
        member, _ = await self.two()
        history = (await member.read()).history
        await self.cut()  # type: ignore[attr-defined]  # hooks are optional
        await failure(member.read(), DirectoryUnavailableError)
        await failure(member.directory.swap(Swap(KEY, Version.absent(history), b"x")), DirectoryUnavailableError)
        [outcome] = await member.directory.swap_many([Swap("shard/8", Version.absent(history), b"x")])
        assert isinstance(outcome, DirectoryUnavailableError)
        await member.ears.until(lambda ears: ears.downs > 0)
        assert not member.ears.ups
        await self.restore()  # type: ignore[attr-defined]  # as above
        await member.ears.until(lambda ears: bool(ears.ups))
        assert member.ears.ups[-1] == history
        await member.put("shard/9", b"back")

    @proves("D4.3", needs=OUTAGE)
    async def test_what_is_said_not_to_be_applied_never_is(self) -> None:
        """Many swaps are on their way, and others made, when every connection breaks."""
        member, _ = await self.two()
        history = (await member.read()).history
        swaps = [Swap(f"shard/{number}", Version.absent(history), b"x") for number in range(40)]
        first = asyncio.create_task(member.directory.swap_many(swaps[:20]))
        await asyncio.sleep(0)
        await self.cut()  # type: ignore[attr-defined]  # hooks are optional
        outcomes = await first + await member.directory.swap_many(swaps[20:])
        await self.restore()  # type: ignore[attr-defined]  # as above
        await member.ears.until(lambda ears: bool(ears.ups))
        await settle()
        records = (await member.read()).records
        for swap, outcome in zip(swaps, outcomes, strict=True):
            if isinstance(outcome, DirectoryUnavailableError):
                assert outcome.maybe_applied or swap.key not in records, swap.key
            else:
                assert swap.key in records

    @proves("D5.1", needs=frozenset({"lose_answers", "restore"}))
    async def test_a_swap_is_not_repeated(self) -> None:
        """A key is created, the answer is lost, the key is deleted: it stays so."""
        member, other = await self.two()
        history = (await member.read()).history
        await self.lose_answers()  # type: ignore[attr-defined]  # hooks are optional
        await failure(member.directory.swap(Swap(KEY, Version.absent(history), b"x")), DirectoryUnavailableError)
        await self.restore()  # type: ignore[attr-defined]  # as above
        witness = await self.member()
        deleted = await witness.put(KEY, None)
        await settle()
        await witness.put("shard/8", b"later")  # what a repetition had sent before is decided before this
        assert (await witness.record(KEY)).value is None
        assert not any(version.is_after(deleted) for version in witness.ears.versions(KEY))
        await other.directory.aclose()


class ReleaseChecks(DirectoryBench):
    """D8."""

    @proves("D8.1")
    async def test_closing_twice_and_at_once_is_one_close(self) -> None:
        """What is called afterwards fails, and proves that nothing was changed."""
        member, other = await self.two()
        history = (await member.read()).history
        await asyncio.gather(*(member.directory.aclose() for _ in range(3)))
        await member.directory.aclose()
        swap = member.directory.swap(Swap(KEY, Version.absent(history), b"x"))
        assert not (await failure(swap, DirectoryUnavailableError)).maybe_applied
        await failure(member.read(), DirectoryUnavailableError)
        assert (await other.record(KEY)).value is None

    @proves("D8.2")
    async def test_a_sink_hears_nothing_after_the_end(self) -> None:
        """Not even what was on its way."""
        member, other = await self.two()
        await other.put(KEY, b"on its way")
        await member.directory.aclose()
        heard = len(member.ears.heard)
        await other.put(KEY, b"after")
        await other.sees(KEY, b"after")
        await settle()
        assert len(member.ears.heard) == heard
        assert not member.ears.downs

    @proves("D8.3")
    async def test_nothing_is_left(self) -> None:
        """No task, thread, timer or descriptor; and what was in flight has ended."""
        async with no_leaks():
            member, other = await self.two()
            history = (await member.read()).history
            swaps = [Swap(f"shard/{number}", Version.absent(history), b"x") for number in range(100)]
            await member.directory.swap_many(swaps[:50])
            flight = asyncio.create_task(member.directory.swap_many(swaps[50:]))
            await asyncio.sleep(0)
            await asyncio.gather(member.directory.aclose(), other.directory.aclose())
            assert len(await flight) == 50

    @proves("D8.4")
    async def test_what_was_never_open_can_be_closed(self) -> None:
        """And leaves nothing; neither does a directory that is closed before its first change."""
        async with no_leaks():
            await (await self.connect()).aclose()
            directory = await self.connect()
            await directory.open(Ears())
            await directory.aclose()
