"""The entry point of the schemes ``nats``, ``nats+tls`` and ``tls``."""

from __future__ import annotations

from collections.abc import Sequence

from clstr.abc import Transport
from clstr.plugins import ConnectOptions, TransportSpec, TransportURL, hookimpl
from clstr_nats._options import PARAMETERS, TLS_SCHEMES, Options

CAPABILITIES = frozenset({"clstr-go", "encryption", "hosts", "processes"})


async def open_nats(url: TransportURL, options: ConnectOptions) -> Transport:
    """Connect to the servers that ``url`` names."""
    from clstr.spi import Engine, warn_of_exposed_file  # noqa: PLC0415 -- drivers are imported by who connects, not by who looks for plugins
    from clstr_nats._dialer import Dialer  # noqa: PLC0415 -- as above
    from clstr_nats._link import NatsLink  # noqa: PLC0415 -- as above
    from clstr_nats._subjects import Subjects  # noqa: PLC0415 -- as above

    chosen = Options.of(url, options.extra)
    for what, path in chosen.secret_files():
        warn_of_exposed_file(what, path, options.logger)
    dialer = Dialer(chosen, options.peer_id, options.connect_timeout, options.logger)
    subjects = Subjects(chosen.prefix, chosen.inbox_prefix)
    is_read_by_go = chosen.codec == "json"
    link = NatsLink(dialer, subjects, chosen.heartbeat, options.logger, is_read_by_go=is_read_by_go)
    return await Engine(link, limits=options.limits, codec=chosen.codec, logger=options.logger).open()


@hookimpl
def clstr_transports() -> Sequence[TransportSpec]:
    """Provide ``nats://``, ``nats+tls://`` and its short form ``tls://``."""
    return [
        TransportSpec(scheme=scheme, open=open_nats, api=1, capabilities=CAPABILITIES, parameters=PARAMETERS)
        for scheme in ("nats", *sorted(TLS_SCHEMES))
    ]
