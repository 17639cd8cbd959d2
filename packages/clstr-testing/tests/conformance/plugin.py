"""The loopback as a plugin: ``loopback://name``, and ``?fault=`` for the name of a mutant."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from clstr.abc import Transport
from clstr.plugins import ConnectOptions, TransportSpec, TransportURL, hookimpl
from conformance import mutants_message
from conformance.broken import Mutant, mutants_of
from conformance.loopback import Hub

HEALTHY = Mutant(name="", label=frozenset(), faults=())


class NamedHubs:
    """The hubs of this process."""

    by_name: ClassVar[dict[str, Hub]] = {}

    @classmethod
    def get(cls, name: str) -> Hub:
        hub = cls.by_name.get(name)
        if hub is None or hub.loop is not asyncio.get_running_loop():
            hub = cls.by_name[name] = Hub()
        return hub


async def open_loopback(url: TransportURL, options: ConnectOptions) -> Transport:
    mutants = [HEALTHY, *mutants_of(mutants_message)]
    [mutant] = [mutant for mutant in mutants if mutant.name == options.extra.get("fault", "")]
    return await mutant.new_engine(NamedHubs.get(url.name), options.limits).open()


@hookimpl
def clstr_transports() -> Sequence[TransportSpec]:
    return [TransportSpec(scheme="loopback", open=open_loopback, api=1, parameters={"fault": str})]
