"""What happened to each request, told by the processes that took part, in files that survive their end."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from clstr import errors

# The errors that prove, whenever they are raised, that the message never ran. Others may prove it in some cases.
REFUSALS = frozenset(
    error.__name__
    for error in (
        errors.AccessDeniedError,
        errors.AuthenticationError,
        errors.CallCycleError,
        errors.DrainingError,
        errors.EnvelopeExpiredError,
        errors.InvalidEnvelopeError,
        errors.KeyRequiredError,
        errors.MissingKeyHeaderError,
        errors.NoShardSubscriberError,
        errors.NotOwnerError,
        errors.OverloadedError,
        errors.ReservedHeaderError,
        errors.TransportUnavailableError,
        errors.UnknownMessageError,
    )
)

Kind = Literal["answered", "notify", "refused", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """
    A client is about to send a message.

    Attributes:
        id: The message's own, never used twice.
        shard: Where it goes.
        start: When, in seconds of the journal's clock.
        deadline: When the call must have ended, in seconds of the journal's clock.
        expected: The `digest` of the right reply; ``None`` for a notify.
        journal: The name of the file that says so, known after reading.
    """

    id: str
    shard: int
    start: float
    deadline: float
    expected: str | None
    journal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """
    A node is about to do what a message asks for.

    Attributes:
        id: The message's.
        node: The node's id.
        shard: The shard that the message came for.
        what: Whatever helps to understand a violation.
    """

    id: str
    node: str
    shard: int
    what: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """
    A call has ended.

    Attributes:
        id: The message's.
        kind: ``answered`` and ``notify`` went well, ``refused`` is an error that proves that the message never ran,
            ``failed`` any other, and ``cancelled`` is the caller's own doing.
        end: When, in seconds of the journal's clock.
        maybe_executed: What the error says of it; ``None`` if it says nothing.
        error: The name of the error's type.
        reply: The `digest` of the reply.
    """

    id: str
    kind: Kind
    end: float
    maybe_executed: bool | None = None
    error: str = ""
    reply: str | None = None


Record = Sent | Executed | Ended
TYPES: dict[str, type[Record]] = {"sent": Sent, "executed": Executed, "ended": Ended}
NAMES: dict[type[Record], str] = {kind: name for name, kind in TYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """
    What journals say.

    Attributes:
        sent: What clients were about to send.
        executed: What nodes were about to do.
        ended: How calls ended.
        torn: The names of the journals whose last line is cut off, as a killed process may leave it; it is not counted.
    """

    sent: list[Sent] = field(default_factory=list)
    executed: list[Executed] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Sort a record in."""
        match record:
            case Sent():
                self.sent.append(record)
            case Executed():
                self.executed.append(record)
            case Ended():
                self.ended.append(record)


def digest(data: bytes) -> str:
    """Return what stands for ``data`` in a record."""
    return blake2b(data, digest_size=8).hexdigest()


class Journal:
    """
    A file of JSON lines that one process writes; a record that was written survives ``kill -9``.

    Args:
        path: The file; it must not exist.
        clock: Returns seconds; the same clock for all that is judged together, as the default is on one machine.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = path.open("xb", buffering=0)
        self._clock = clock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, record: Record) -> None:
        """
        Write a record; on return the system has it.

        Raises:
            OSError: The disk is full, or the file cannot be written to.
        """
        line = json.dumps({"record": NAMES[type(record)], **asdict(record)}, separators=(",", ":")).encode() + b"\n"
        if self._file.write(line) != len(line):
            raise OSError(f"{self._file.name} took only a part of a record: is the disk full?")

    def executing(self, message_id: str, *, node: str, shard: int, what: str = "") -> None:
        """Record an execution: a handler calls this before anything else."""
        self.write(Executed(id=message_id, node=node, shard=shard, what=what))

    async def observe(
        self,
        call: Callable[[], Awaitable[bytes | None]],
        *,
        message_id: str,
        shard: int,
        timeout: float,
        expected: bytes | None,
    ) -> Ended:
        """
        Make a call and record it: before, that it is made, afterwards, how it ended.

        Args:
            call: Sends the message and waits, at most ``timeout`` seconds.
            message_id: Its own, never used twice.
            shard: Where it goes.
            timeout: Seconds.
            expected: The right reply; ``None`` for a notify.

        Returns:
            What was recorded; an error of the call is not raised, its cancellation is.
        """
        start, promised = self._clock(), None if expected is None else digest(expected)
        self.write(Sent(id=message_id, shard=shard, start=start, deadline=start + timeout, expected=promised))
        ended = Ended(id=message_id, kind="cancelled", end=start)
        try:
            reply = await call()
            if expected is None:
                ended = replace(ended, kind="notify")
            else:
                ended = replace(ended, kind="answered", reply=digest(reply or b""))
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is recorded
            ended = _failed(ended, error)
        finally:
            ended = replace(ended, end=self._clock())
            self.write(ended)
        return ended


def _failed(ended: Ended, error: Exception) -> Ended:
    name = type(error).__name__
    maybe_executed = getattr(error, "maybe_executed", None)  # an error that is not clstr's has nothing to say
    return replace(ended, kind="refused" if name in REFUSALS else "failed", error=name, maybe_executed=maybe_executed)


def read_journals(paths: Iterable[Path]) -> Records:
    """
    Read journals, also those of processes that were killed while they wrote.

    Raises:
        ValueError: A line other than a last one that is cut off is not a record; the message names it.
    """
    records = Records()
    for path in paths:
        *lines, rest = path.read_bytes().split(b"\n")
        if rest:
            records.torn.append(path.name)
        for number, line in enumerate(lines, start=1):
            records.add(_parse(line, f"{path}:{number}", path.name))
    return records


def _parse(line: bytes, where: str, journal: str) -> Record:
    try:
        values = json.loads(line)
        record = TYPES[values.pop("record")](**values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where} is not a record: {line[:200]!r}") from error
    return replace(record, journal=journal) if isinstance(record, Sent) else record
