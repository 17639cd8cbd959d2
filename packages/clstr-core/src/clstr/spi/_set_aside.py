"""Messages that wait because their sender does not take its answers: those of others pass them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator

from clstr.spi._delivery import Delivery

Queue = OrderedDict[Delivery, None]  # a FIFO from whose middle an expired message can be taken


class SetAside:
    """
    Holds these messages by destination, those from outside and nested ones apart.

    Attributes:
        count: How many there are, by whether they are nested.
    """

    def __init__(self) -> None:
        self._queues: dict[Hashable, tuple[Queue, Queue]] = {}
        self.count: dict[bool, int] = {False: 0, True: 0}

    def put(self, destination: Hashable, delivery: Delivery) -> None:
        """Take a message out of the queue that it waits in."""
        assert delivery.queue is not None  # noqa: S101 -- it waits
        del delivery.queue[delivery]
        is_nested = delivery.depth > 0
        delivery.queue = self._queues.setdefault(destination, (Queue(), Queue()))[is_nested]
        delivery.queue[delivery] = None
        self.count[is_nested] += 1

    def remove(self, delivery: Delivery) -> None:
        """Take a message out for good."""
        assert delivery.queue is not None  # noqa: S101 -- it waits here
        del delivery.queue[delivery]
        self.count[delivery.depth > 0] -= 1

    def put_back(self, blocked: set[Hashable], outer: Queue, nested: Queue) -> None:
        """Let the messages of destinations that are not ``blocked`` wait before those that have come since."""
        for destination in [each for each in self._queues if each not in blocked]:
            for aside, queue in zip(self._queues.pop(destination), (outer, nested), strict=True):
                for delivery in reversed(aside):
                    delivery.queue = queue
                    queue[delivery] = None
                    queue.move_to_end(delivery, last=False)
                    self.count[delivery.depth > 0] -= 1

    def queues(self) -> Iterator[Queue]:
        """Yield every queue of messages that wait here."""
        for both in self._queues.values():
            yield from both
