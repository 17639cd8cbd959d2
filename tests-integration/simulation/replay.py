"""
What a replay needs: the engine's sets in an order, and its tokens from the seed.

Python orders a set of objects by their addresses, and those are never the same twice. Who is woken first is left open
by the contract, so the engine may use sets; but then two runs of one seed would differ.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from clstr.spi import _dispatcher, _subscriptions
from clstr.spi._delivery import Delivery
from clstr.spi._pending import Pending


class InOrder(dict[Any, None]):  # Any: it stands in for sets of several types
    """A set that remembers in which order it was filled."""

    def __init__(self, items: Any = ()) -> None:
        super().__init__(dict.fromkeys(items))

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)

    def update(self, items: Any) -> None:  # type: ignore[override]  # a set's
        super().update(dict.fromkeys(items))

    def difference_update(self, items: Any) -> None:
        for item in items:
            self.discard(item)


@contextmanager
def replayable(chance: random.Random) -> Iterator[None]:
    """Let everything that happens in the block depend on ``chance`` alone."""
    with ExitStack() as patches:
        patches.enter_context(mock.patch("secrets.randbits", chance.getrandbits))
        for module in (_dispatcher, _subscriptions):
            patches.enter_context(mock.patch.object(module, "set", InOrder, create=True))
        patches.enter_context(mock.patch.object(Pending, "__hash__", lambda pending: pending.token))
        patches.enter_context(mock.patch.object(Delivery, "__hash__", _number))
        yield


def _number(delivery: Delivery) -> int:
    return int(delivery.envelope.type.strip("#;") or -1)  # empty: it has ended, and is in no set any more
