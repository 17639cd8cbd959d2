"""An actor in a unit test: no node, no transport."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

import clstr
from clstr.abc import ClientTransport, CloseReport


class _Direct(ClientTransport):
    """Calls a handler in the caller's own task, so that what it raises arrives as it is."""

    def __init__(self, handler: clstr.ActorHandler) -> None:
        self._handler = handler

    @property
    def max_payload_bytes(self) -> int:
        return clstr.Limits().max_payload_bytes

    async def request(self, envelope: clstr.Envelope, *, timeout: float = 5.0) -> bytes:  # noqa: ARG002 -- as the contract has it
        """Call the handler; ``timeout`` is a transport's affair."""
        return await self._handler(envelope) or b""

    async def notify(self, envelope: clstr.Envelope, *, timeout: float = 5.0) -> None:  # noqa: ARG002 -- the same
        """Call the handler, and wait for it: what a test sends has been handled then."""
        await self._handler(envelope)

    async def aclose(self) -> CloseReport:
        await self._handler.aclose()
        return CloseReport()


class ActorDriver:
    """One actor in a test, see `actor`."""

    def __init__(self, handler: clstr.ActorHandler, key: str) -> None:
        self._handler = handler
        self._key = key

    async def __aenter__(self) -> clstr.ScopedClient:
        return clstr.Client(_Direct(self._handler), num_shards=1).key(self._key)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._handler.aclose()

    def paused(self) -> AbstractAsyncContextManager[clstr.Paused]:
        """Keep the actor from its messages inside the block, but for one at each `clstr.Paused.step`."""
        return self._handler.paused(self._key)


def actor(
    create: type[clstr.Actor] | Callable[[str], clstr.Actor | Awaitable[clstr.Actor]],
    *,
    key: str = "key",
    **options: Any,
) -> ActorDriver:
    """
    Drive one actor: start it with the first message, stop it at the end of the block.

        async with clstr_testing.actor(Account, key="ada") as account:
            assert (await account.request(Deposit(5))).amount == 5

    An actor that needs something to work with is made by a function: ``actor(lambda key: Account(database))``.
    What the actor raises arrives as it is, not as `clstr.HandlerError`. Idle times and periodic work follow the loop's
    clock: on a `VirtualTimeLoop` they take no time. Paused, it handles what the test lets it::

        driver = clstr_testing.actor(Account)
        async with driver as account, driver.paused() as paused:
            deposit = asyncio.create_task(account.request(Deposit(5)))
            await paused.step()
            assert (await deposit).amount == 5

    Args:
        create: The class of the actor, or a function of the key that returns one, sync or async.
        key: Its key.
        options: Those of `clstr.ActorHandler`.
    """
    return ActorDriver(clstr.ActorHandler(create, **options), key)
