"""
The ZeroMQ transport of clstr: ``zmq://host:5555`` and ``zmq+ipc:///run/app/a.sock``. Peers talk directly, no broker.

It is reached through `clstr.connect`; ``python -m clstr_zmq keygen`` makes keys.
"""

__all__: list[str] = []
