"""What turns an async method into a check: it proves sentences, in a cluster of its own, within a time."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

import pytest

import clstr
from clstr_testing._contract import CONTRACT, DIRECTORY_CONTRACT

S = TypeVar("S", bound="Isolated")
SENTENCES = {**CONTRACT, **DIRECTORY_CONTRACT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """
    One check.

    Attributes:
        name: The method's name.
        proves: The numbers of the contract's sentences that it proves.
        needs: The hooks that it uses.
        capability: The capability that must be claimed for it to run; empty for what every transport owes.
    """

    name: str
    proves: tuple[str, ...]
    needs: frozenset[str]
    capability: str


class Isolated:
    """
    What every check works with: a cluster of its own, and what it has opened there.

    Attributes:
        url: Where the default `Bench.connect` connects to; ``{cluster}`` in it becomes a name that no other check has.
        guard: Seconds after which a check is stuck.
        cluster: The name of this check's cluster, as it stands in the URL.
        capabilities: The capabilities that what is under test claims.
    """

    url: Any = ""  # a string; a subclass may have a fixture of this name instead, which no other type allows
    guard: float = 20.0
    capabilities: frozenset[str] = frozenset()
    _peers: AsyncExitStack
    cluster: str

    async def _close_peers(self) -> None:
        """Close what the check opened, within a guard of its own: a close that hangs must not hang the suite."""
        async with asyncio.timeout(self.guard):
            await self._peers.aclose()

    def skip_unless_checkable(self, check: Check) -> None:
        """Skip ``check`` if what is under test lacks what it needs: then it says nothing."""
        for hook in sorted(check.needs):
            if not hasattr(self, hook):
                pytest.skip(f"not checked: there is no hook {hook!r}")
        if check.capability and check.capability not in self.capabilities:
            pytest.skip(f"not checked: the capability {check.capability!r} is not claimed")


class Bench(Isolated):
    """What a check of a transport works with: peers of one isolated cluster."""

    async def connect(self, **options: Any) -> clstr.Transport:
        """Open one more transport of this check's cluster; ``options`` are the names of `clstr.Limits`."""
        return await clstr.connect(self.url.replace("{cluster}", self.cluster), **options)

    async def peer(self, **options: Any) -> clstr.Transport:
        """Open a transport that is closed when the check ends. It drains for 1 s at most, unless ``options`` say so."""
        transport = await self.connect(**{"drain_timeout": 1.0, **options})
        self._peers.push_async_callback(transport.aclose)
        return transport


def proves(
    *sentences: str, needs: frozenset[str] = frozenset(), capability: str = ""
) -> Callable[[Callable[[S], Awaitable[None]]], Callable[[S], Awaitable[None]]]:
    """
    Make a method a check that proves ``sentences`` of a contract.

    Raises:
        KeyError: A sentence is in no contract.
    """
    for sentence in sentences:
        SENTENCES[sentence]

    def decorate(method: Callable[[S], Awaitable[None]]) -> Callable[[S], Awaitable[None]]:
        @pytest.mark.asyncio
        @functools.wraps(method)
        async def run(self: S) -> None:
            self.skip_unless_checkable(check)
            self.cluster = uuid4().hex
            self._peers = AsyncExitStack()
            try:
                async with asyncio.timeout(self.guard) as clock:
                    await method(self)
                if clock.expired():  # the check took its cancellation for something else
                    raise TimeoutError
            except BaseException:
                with suppress(Exception):  # the first failure is the one to report
                    await self._close_peers()
                raise
            await self._close_peers()

        check = Check(name=method.__name__, proves=sentences, needs=needs, capability=capability)
        run.check = check  # type: ignore[attr-defined]  # functions carry what describes them
        return run

    return decorate


def checks_of(suite: type[Isolated]) -> list[Check]:
    """Return the checks of ``suite``, by name."""
    found = (getattr(getattr(suite, name), "check", None) for name in dir(suite))
    return [check for check in found if isinstance(check, Check)]
