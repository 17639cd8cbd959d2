"""
What the author of a transport plugin builds on.

Implement `Link` and hand it to an `Engine`: admission, TTL, timeouts, pending replies, draining and rerouting are the
engine's, the same for every transport.
"""

from clstr._context import refuse as refuse
from clstr._limits import Limits as Limits
from clstr._wire import Buffer as Buffer
from clstr.spi._batcher import Batcher as Batcher
from clstr.spi._engine import Engine as Engine
from clstr.spi._link import Link as Link
from clstr.spi._link import Route as Route
from clstr.spi._link import Sink as Sink
from clstr.spi._pack import pack as pack
from clstr.spi._pack import unpack as unpack
from clstr.spi._stats import Stats as Stats

__all__ = ["Batcher", "Buffer", "Engine", "Limits", "Link", "Route", "Sink", "Stats", "pack", "refuse", "unpack"]
