"""
The NATS transport of clstr: ``nats://host:4222``, and ``nats+tls://host:4222`` for TLS.

It is reached through `clstr.connect`. What is here is for those who write permissions or look at the wire.
"""

from clstr_nats._subjects import DEFAULT_PREFIX as DEFAULT_PREFIX
from clstr_nats._subjects import QUEUE as QUEUE

__all__ = ["DEFAULT_PREFIX", "QUEUE"]
