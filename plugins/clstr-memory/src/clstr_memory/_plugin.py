"""The entry point of the scheme ``memory``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clstr.abc import Transport
from clstr.plugins import ConnectOptions, TransportSpec, TransportURL, hookimpl, parse_codec
from clstr.spi import Engine
from clstr_memory._bus import Bus
from clstr_memory._faults import Faults
from clstr_memory._link import MemoryLink

FAULTS = {"seed": int, "delay": float, "drop_reply": float, "disconnect": float}


async def open_memory(url: TransportURL, options: ConnectOptions) -> Transport:
    """Open a peer on the bus that ``url`` names."""
    if url.path or url.username or url.password:
        raise ValueError("malformed memory URL: it has a name and parameters only, as in memory://name?codec=json")
    faults: dict[str, Any] = {name: options.extra[name] for name in FAULTS if name in options.extra}
    link = MemoryLink(Bus.named(url.name), Faults(**faults) if faults else None)
    codec = str(options.extra.get("codec", "msgpack"))
    return await Engine(link, limits=options.limits, codec=codec, logger=options.logger).open()


@hookimpl
def clstr_transports() -> Sequence[TransportSpec]:
    """Provide ``memory://`` and ``memory://name``."""
    return [TransportSpec(scheme="memory", open=open_memory, api=1, parameters={"codec": parse_codec, **FAULTS})]
