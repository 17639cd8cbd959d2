"""
The NATS transport of clstr: ``nats://host:4222``, ``nats+tls://host:4222``.

Everything is reached through `clstr.connect`; there is nothing to import from here.
"""

__all__: list[str] = []
