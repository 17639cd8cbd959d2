"""The entry point of the scheme ``carrier``. Imports no driver: whoever lists transports imports this module."""

from __future__ import annotations

from collections.abc import Sequence

from clstr.abc import Transport
from clstr.plugins import ConnectOptions, TransportSpec, TransportURL, hookimpl


async def open_carrier(url: TransportURL, options: ConnectOptions) -> Transport:
    """Open the transport that ``url`` names. What is wrong with the URL is a `ValueError` that says how to write it."""
    from clstr.spi import Engine

    from clstr_carrier._link import CarrierLink

    if url.path or url.username or not url.name:
        raise ValueError("malformed carrier URL: it has a name, as in carrier://name")
    return await Engine(CarrierLink(url.name), limits=options.limits, logger=options.logger).open()


@hookimpl
def clstr_transports() -> Sequence[TransportSpec]:
    """Provide ``carrier://``."""
    return [
        TransportSpec(
            scheme="carrier",
            open=open_carrier,
            api=1,
            capabilities=frozenset(),  # of: processes, hosts, encryption, clstr-go
            parameters={},  # your own URL parameters, each with what parses its text: {"db": int}
        )
    ]
