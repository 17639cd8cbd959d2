"""The entry point of the schemes ``redis``, ``rediss``, ``redis+unix`` and ``redis+sentinel``."""

from __future__ import annotations

from collections.abc import Sequence

from clstr.abc import Transport
from clstr.plugins import ConnectOptions, TransportSpec, TransportURL, hookimpl
from clstr_redis._options import PARAMETERS, Options

SCHEMES = ("redis", "rediss", "redis+unix", "redis+sentinel")
CAPABILITIES = frozenset({"encryption", "hosts", "processes"})


async def open_redis(url: TransportURL, options: ConnectOptions) -> Transport:
    """Connect to the server that ``url`` names."""
    from clstr.spi import Engine, warn_of_exposed_file  # noqa: PLC0415 -- drivers are imported by who connects, not by who looks for plugins
    from clstr_redis._dialer import Dialer  # noqa: PLC0415 -- as above
    from clstr_redis._link import RedisLink  # noqa: PLC0415 -- as above
    from clstr_redis._names import Names  # noqa: PLC0415 -- as above

    chosen = Options.of(url, options.extra)
    if chosen.key_file:
        warn_of_exposed_file("the TLS key", chosen.key_file, options.logger)
    dialer = Dialer(chosen, options.connect_timeout, options.logger)
    link = RedisLink(dialer, Names(chosen.prefix, options.peer_id), chosen.heartbeat, options.logger)
    return await Engine(link, limits=options.limits, codec=chosen.codec, logger=options.logger).open()


@hookimpl
def clstr_transports() -> Sequence[TransportSpec]:
    """Provide the four schemes."""
    return [
        TransportSpec(scheme=scheme, open=open_redis, api=1, capabilities=CAPABILITIES, parameters=PARAMETERS)
        for scheme in SCHEMES
    ]
