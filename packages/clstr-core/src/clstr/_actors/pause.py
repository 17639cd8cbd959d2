"""An actor that handles what a test lets it, one message at a time."""

from __future__ import annotations

from clstr._actors.turns import Turns


class Paused:
    """An actor that is kept from its messages, see `ActorHandler.paused`."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._has_turn = True

    @property
    def waiting(self) -> int:
        """How many messages wait, periodic work included."""
        return self._turns.waiting

    async def step(self) -> None:
        """
        Let the next message be handled, and wait for its end; if none waits, wait for one.

        After a step that was cancelled the actor is not paused until the next one, which begins by pausing it.

        Raises:
            RuntimeError: The key's shard was released meanwhile, and with that the pause ended.
        """
        if not self._has_turn:
            self._has_turn = await self._turns.wait(self._turns.claim(first=True))
        if self._has_turn:
            self._has_turn = False  # if this is cancelled the turn is somebody else's
            self._has_turn = await self._turns.let_one()
        if not self._has_turn:
            raise RuntimeError("the shard of the paused actor was released: it is paused no longer")

    def end(self) -> None:
        """Let messages be handled again."""
        if self._has_turn:
            self._has_turn = False
            self._turns.end()
