"""The suite of directories over `clstr.spi.MemoryDirectory`, with every hook."""

from __future__ import annotations

from functools import cached_property

from clstr.spi import Directory, MemoryDirectory, MemoryRecords, Snapshot
from clstr_testing._directory_suite import DirectorySuite


class MemoryDirectorySuite(DirectorySuite):
    """Each check has its own instance, and so its own records."""

    _lagging: Snapshot

    @cached_property
    def records(self) -> MemoryRecords:
        """The store of this check."""
        return MemoryRecords()

    async def connect(self) -> Directory:
        """Return one more directory."""
        return MemoryDirectory(self.records)

    async def cut(self) -> None:
        """Let nobody reach the records."""
        self.records.cut()

    async def lose_answers(self) -> None:
        """Let no swap be answered."""
        self.records.loses_answers = True

    async def restore(self) -> None:
        """Take it back."""
        self.records.loses_answers = False
        if self.records.is_cut:
            self.records.restore()

    async def wipe(self) -> None:
        """Lose every record."""
        self.records.wipe()

    async def lag(self) -> None:
        """Let the replica get no more changes."""
        self._lagging = self.records.read()

    async def fail_over(self) -> None:
        """Let the replica take over."""
        self.records.roll_back(self._lagging)
