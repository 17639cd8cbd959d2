"""The entry point of the schemes ``zmq`` and ``zmq+ipc``."""

from __future__ import annotations

from collections.abc import Sequence

from clstr.abc import Transport
from clstr.plugins import ConnectOptions, TransportSpec, TransportURL, hookimpl
from clstr_zmq._parameters import PARAMETERS

CAPABILITIES = frozenset({"encryption", "hosts", "processes"})


async def open_zmq(url: TransportURL, options: ConnectOptions) -> Transport:
    """Become a peer of the cluster that ``url`` names."""
    from clstr_zmq._open import open_peer  # noqa: PLC0415 -- drivers are imported by who connects

    return await open_peer(url, options)


@hookimpl
def clstr_transports() -> Sequence[TransportSpec]:
    """Provide ``zmq://`` and ``zmq+ipc://``."""
    return [
        TransportSpec(scheme=scheme, open=open_zmq, api=1, capabilities=CAPABILITIES, parameters=PARAMETERS)
        for scheme in ("zmq", "zmq+ipc")
    ]
