"""The conformance suite of directories: their contract as a class of checks."""

from __future__ import annotations

from clstr_testing._directory_swap_checks import BoundChecks, HistoryChecks, SwapChecks
from clstr_testing._directory_watch_checks import OutcomeChecks, ReleaseChecks, WatchChecks
from clstr_testing._integrity import Integrity


class DirectorySuite(SwapChecks, WatchChecks, OutcomeChecks, HistoryChecks, BoundChecks, ReleaseChecks, Integrity):
    """
    The contract of `clstr.spi.Directory` as checks. Subclass it in a test file; every check must pass.

        class TestMine(DirectorySuite):
            async def connect(self) -> Directory:
                return MyDirectory(server.url, prefix=self.cluster)

    ``connect`` returns one more directory, not yet open, of a store that belongs to this check alone and is empty at
    first: ``self.cluster`` is a name that no other check has.

    Optional hooks, without which the checks that need them are skipped as *not checked*:

    * ``async def cut(self)``: every connection to the store breaks, and none can be made.
    * ``async def lose_answers(self)``: the store makes swaps, and nobody gets its answers.
    * ``async def restore(self)``: takes both back.
    * ``async def wipe(self)``: the store loses every record, and counts from the beginning.
    * ``async def lag(self)``, ``async def fail_over(self)``: a replica gets no more changes; then it takes over.

    A check cannot be deleted or overridden. What a directory cannot do yet stands in `expected_failures`, which must
    fail then.
    """
