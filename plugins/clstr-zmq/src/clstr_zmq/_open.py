"""Opens a peer: what is imported only by who connects."""

from __future__ import annotations

import secrets

from clstr.abc import Transport
from clstr.plugins import ConnectOptions, TransportURL
from clstr.spi import Engine, warn_of_exposed_file
from clstr_zmq._link import ZmqLink
from clstr_zmq._options import Options

LEAST_MAX_BYTES = 4 * 1024 * 1024  # a peer with small limits still reads what others send, to refuse it by name


async def open_peer(url: TransportURL, options: ConnectOptions) -> Transport:
    """Become a peer of the cluster that ``url`` names."""
    chosen = Options.of(url, options.extra)
    if chosen.curve is not None:
        warn_of_exposed_file("the CURVE key", str(options.extra["curve_key"]), options.logger)
    link = ZmqLink(
        chosen,
        peer_id=options.peer_id,
        epoch=secrets.randbits(62),
        max_bytes=max(LEAST_MAX_BYTES, 2 * options.limits.max_payload_bytes),
        logger=options.logger,
    )
    return await Engine(link, limits=options.limits, logger=options.logger).open()
