"""
What a directory is: a store of small records that the nodes of a live cluster share.

The contract D1 to D8 stands at `Directory`. A directory needs no time to live, no clock and no election: the protocol
of live membership measures time only as durations on each node's own clock.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from clstr.errors import ClstrError

CLUSTER_KEY = "cluster"
"""The key of the record that every history begins with."""

MAX_KEY_CHARACTERS = 1024  # a node id of 253 bytes, as host names may have, with every byte escaped, fits
MAX_VALUE_BYTES = 256 * 1024  # a plan of 16,384 shards on 1,000 nodes fits, and so it does into every broker's message
_KEY = re.compile(r"[A-Za-z0-9_=/.-]+")  # what NATS' key-value store takes in a key


@dataclass(frozen=True, slots=True)
class Version:
    """
    Which value of a key it is.

    Attributes:
        history: The history of the store; empty while it has no record `CLUSTER_KEY`.
        order: Grows with every change in that history; 0 is the version of a key that is absent.
    """

    history: str
    order: int

    @classmethod
    def absent(cls, history: str) -> Version:
        """Return the version that a swap expects which creates a key."""
        return cls(history, 0)

    def is_after(self, other: Version) -> bool:
        """Return whether it is a later one of the same history: versions of two histories have no order."""
        return self.history == other.history and self.order > other.order


@dataclass(frozen=True, slots=True)
class Record:
    """
    What a key holds.

    Attributes:
        value: Its bytes, opaque to the directory; ``None`` if the key is absent.
        version: Of a key that is absent: of its deletion, or of order 0.
    """

    value: bytes | None
    version: Version

    @property
    def expected(self) -> Version:
        """What a swap of this record expects: its version, or that the key is still absent."""
        return self.version if self.value is not None else Version.absent(self.version.history)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """
    Every record of a directory at one time.

    Attributes:
        history: The store's history.
        order: Every change of that history up to this order is in it.
        records: The records by key, without those that are absent.
    """

    history: str
    order: int
    records: Mapping[str, Record]

    def record(self, key: str) -> Record:
        """Return what ``key`` holds; a key that is absent was so at this snapshot's order."""
        return self.records.get(key) or Record(None, Version(self.history, self.order))


@dataclass(frozen=True, slots=True)
class Swap:
    """
    A wish to change one record.

    Attributes:
        key: 1 to 1,024 characters of ``A-Z a-z 0-9 _ = / . -``; ``/`` and ``.`` stand between others.
        expected: The version that the key must have; `Version.absent` of a history if it must have none.
        value: The new value, at most 256 KiB; ``None`` deletes the key.

    Raises:
        ValueError: The key or the value is out of its bounds, or the record `CLUSTER_KEY` would be deleted.
    """

    key: str
    expected: Version
    value: bytes | None

    def __post_init__(self) -> None:
        if not is_key(self.key):
            raise ValueError(
                f"{self.key[:80]!r} cannot be a key: use 1 to {MAX_KEY_CHARACTERS} of A-Z a-z 0-9 _ = / . -"
            )
        if self.value is None and self.key == CLUSTER_KEY:
            raise ValueError(f"the record {CLUSTER_KEY!r} cannot be deleted: its history would end with it")
        if self.value is not None and len(self.value) > MAX_VALUE_BYTES:
            raise ValueError(
                f"{len(self.value)} bytes are too many for the record {self.key!r}: at most {MAX_VALUE_BYTES}"
            )


def is_key(text: str) -> bool:
    """Return whether ``text`` can be a key."""
    if len(text) > MAX_KEY_CHARACTERS or not _KEY.fullmatch(text):
        return False
    return all(re.split(r"[/.]", text))  # an empty part is refused by NATS


class SwapConflictError(ClstrError):
    """
    The key does not have the version that the swap expects; nothing was changed.

    Attributes:
        key: The key.
        actual: What it holds. Its version names another history if the store has another by now.
    """

    def __init__(self, key: str, actual: Record) -> None:
        super().__init__(
            f"{key!r} has changed meanwhile: it is at {actual.version.order} of {actual.version.history!r}"
        )
        self.key = key
        self.actual = actual


class DirectoryUnavailableError(ClstrError, ConnectionError):
    """
    The store did not answer, or cannot be reached.

    Attributes:
        maybe_applied: Whether the swap may have taken effect, or may yet. ``False`` proves that it never will.
    """

    def __init__(self, message: str, *, maybe_applied: bool) -> None:
        super().__init__(message)
        self.maybe_applied = maybe_applied


Outcome = Version | SwapConflictError | DirectoryUnavailableError
"""What became of one swap of several."""


class DirectorySink(Protocol):
    """
    The cluster's side of a directory.

    Every method is synchronous, fast, and never raises. A directory calls them on the loop, after `Directory.open` has
    begun and before `Directory.aclose` has returned.
    """

    def changed(self, key: str, record: Record) -> None:
        """``key`` holds ``record`` now; one without a value was deleted. Our own swaps come too."""

    def gap(self) -> None:
        """Changes may have been missed: read again."""

    def down(self, error: Exception) -> None:
        """The store cannot be reached; calls fail until `up`."""

    def up(self, history: str) -> None:
        """The store answers again, and its history is ``history``. Changes may have been missed: read again."""


class Directory(ABC):
    """
    A store of small records with compare-and-swap and a watch.

    Every method is called on the loop. A directory keeps itself connected after `open`, and tells the sink when it is
    not. What it owes, `clstr_testing.DirectorySuite` checks:

    * D1: A swap is atomic: of several swaps of one version exactly one succeeds. A swap that conflicts changes nothing,
      and its error holds the record that is there. A read shows every swap that was acknowledged before it began,
      whoever made it: it is answered where swaps are decided, never by a replica.
    * D2: A version is (history, order). Orders grow with every change within a history, and no version ever names two
      values, whatever the store has lost. If a store notices that it lost acknowledged swaps, its history changes.
    * D3: The watch brings the last value of every key that changes, in order for each key, or calls
      `DirectorySink.gap`.
    * D4: An unknown outcome is said: `DirectoryUnavailableError.maybe_applied`, where ``False`` is a proof. While the
      store is away, calls fail and the sink hears of it; it hears of the return too, with the history.
    * D5: Nothing is sent twice: a directory does not repeat a swap whose answer is lost. What a socket has taken may
      still be applied later.
    * D6: Every swap is conditional, inside the store, on the history that it names. There is none until the record
      `CLUSTER_KEY` is created, which begins one that never was. A store that loses this record has lost its history.
    * D7: Keys and values are bounded, and those within the bounds are carried: see `Swap`.
    * D8: `aclose` is idempotent, ends what is in flight, and leaves no task, thread, timer or descriptor. Afterwards
      calls fail with `DirectoryUnavailableError`, and the sink hears nothing.

    Attributes:
        failover: Seconds for which swaps may fail although every node and link is well: the time in which the store
            elects a new leader. A lease must be longer.
        tells_losses: Whether the history changes if the store loses acknowledged swaps. If not, every lapse of a lease
            counts as one.
    """

    failover: float = 0.0
    tells_losses: bool = True

    @abstractmethod
    async def open(self, sink: DirectorySink) -> None:
        """
        Connect and watch: `read` and `swap` work on return, and changes after it reach ``sink``.

        Args:
            sink: Told of changes.

        Raises:
            AuthenticationError: The store refused the credentials.
            DirectoryUnavailableError: The store cannot be reached.
        """

    @abstractmethod
    async def read(self) -> Snapshot:
        """
        Return every record, from where swaps are decided.

        Raises:
            DirectoryUnavailableError: The store cannot be reached.
        """

    @abstractmethod
    async def swap(self, swap: Swap) -> Version:
        """
        Change one record if it has the version that ``swap`` expects, and return its new version.

        If the call is cancelled, its outcome is unknown.

        Raises:
            DirectoryUnavailableError: The store did not answer; ``maybe_applied`` says what that proves.
            SwapConflictError: It has another version; nothing was changed.
        """

    async def swap_many(self, swaps: Sequence[Swap]) -> list[Outcome]:
        """
        Make several swaps, each on its own, and return what became of each in their order.

        Without an override they are sent at once, and one conflict stops no other.

        Args:
            swaps: Swaps of different keys.
        """
        return list(await asyncio.gather(*map(self._outcome, swaps)))

    async def _outcome(self, swap: Swap) -> Outcome:
        try:
            return await self.swap(swap)
        except (SwapConflictError, DirectoryUnavailableError) as error:
            return error

    @abstractmethod
    async def aclose(self) -> None:
        """Release everything. May be called twice, and after a failed `open`."""
