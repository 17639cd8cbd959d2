"""What an actor does by itself, in its own turn: `on_stop`, and periodic work."""

from __future__ import annotations

import asyncio
from contextvars import Context

from clstr._context import Current
from clstr._messages.call_chain import is_name_of
from clstr._messages.envelope import Envelope

# Seconds that a message waits for a stop which awaits its sender, before it is refused: the answer may be on its way.
CROSSING_PAUSE = 0.1


class OwnWork(Current, eq=False, kw_only=True):
    """
    Work that no message caused, for the clients that are used in it.

    Its requests stand on call chains, so that one that leads back to its own actor fails at once. It holds no slot.

    Attributes:
        context: The context of `connect`.
        deadline: When the work is cancelled: loop time.
        is_stop: Whether it ends the actor.
        keys: The keys that its calls went to, by call; ``None`` before the first.
    """

    context: Context
    deadline: float
    is_stop: bool
    keys: dict[str, str] | None = None

    def begin_call(self, call: str, _envelope: Envelope | None = None) -> None:
        """Note the key that ``call`` goes to, too."""
        super().begin_call(call)
        key = None if _envelope is None else _envelope.key
        if key is not None:
            self.keys = {**(self.keys or {}), call: key}

    def call_to(self, sender: str) -> str | None:
        """Return a call that awaits the answer of the actor called ``sender``, or ``None`` if there is none."""
        keys = self.keys or {}
        return next((call for call in self.calls or () if call in keys and is_name_of(sender, keys[call])), None)

    def time_left(self) -> float:
        """Return the seconds until the work is cancelled."""
        return max(0.0, self.deadline - asyncio.get_running_loop().time())

    def lend(self) -> None:
        """Nothing: it holds no slot."""

    def reclaim(self) -> None:
        """Nothing: it holds no slot."""

    def base_context(self) -> Context:
        """Return the context of `connect`."""
        return self.context
