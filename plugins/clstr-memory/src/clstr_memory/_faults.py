"""Faults for tests: the same every time for the same seed."""

from __future__ import annotations

import random

from clstr_memory._bus import Bus


class Faults:
    """
    What goes wrong on one connection.

    Args:
        seed: Begins the sequence of chances.
        delay: Seconds that a message may take at most; each takes a random part of it, so messages of different peers,
            and to different peers, overtake each other.
        drop_reply: The share of replies that are lost on their way, from 0 to 1.
        disconnect: The share of sends at which the connection breaks, to be there again in the next tick.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(self, *, seed: int = 0, delay: float = 0.0, drop_reply: float = 0.0, disconnect: float = 0.0) -> None:
        for name, share in (("drop_reply", drop_reply), ("disconnect", disconnect)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be between 0 and 1, not {share}")
        if not 0 <= delay < float("inf"):
            raise ValueError(f"delay must be a finite number of seconds, at least 0, not {delay}")
        self._random = random.Random(seed)  # noqa: S311 -- reproducible chances, no secrets
        self.longest_delay = delay
        self._drop_reply = drop_reply
        self._disconnect = disconnect

    def delay(self) -> float:
        """Choose the seconds that the next message takes."""
        return self.longest_delay and self.longest_delay * self._random.random()

    def drops_reply(self) -> bool:
        """Choose whether the next reply is lost."""
        return self._drop_reply > 0 and self._random.random() < self._drop_reply

    def disconnects(self) -> bool:
        """Choose whether the connection breaks now."""
        return self._disconnect > 0 and self._random.random() < self._disconnect


def cut(name: str) -> None:
    """
    Break every connection to ``memory://name``, until `restore`.

    What is on its way is lost, requests in flight fail with `clstr.ConnectionLostError`, and new connections fail.

    Raises:
        LookupError: Nobody is connected to it.
    """
    bus = Bus.existing(name)
    bus.is_cut = True
    for link in list(bus.members):
        link.cut()


def restore(name: str) -> None:
    """
    Undo `cut`: every connection is back, and holds what it held.

    Raises:
        LookupError: Nobody is connected to it.
    """
    bus = Bus.existing(name)
    bus.is_cut = False
    for link in list(bus.members):
        link.restore()


def inject(name: str, shard: int, body: bytes) -> None:
    """
    Deliver ``body`` to an owner of ``shard`` on ``memory://name``, as a message that a stranger might have sent.

    Raises:
        LookupError: Nobody is connected to it, or nobody holds the shard.
    """
    Bus.existing(name).pick(shard).sink.request(shard, body, None)
