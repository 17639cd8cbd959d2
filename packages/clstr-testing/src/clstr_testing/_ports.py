"""Ports of 127.0.0.1 that nobody uses."""

from __future__ import annotations

import socket
import sys

LOOPBACK = "127.0.0.1"


class HeldPort:
    """
    A free port of 127.0.0.1, kept free for the one who is to listen on it, until `release`.

    On Linux a socket stays bound to it without listening: the system gives the port to nobody else, and a server that
    sets ``SO_REUSEADDR``, as all do, may listen on it and come back to it after a restart. Elsewhere two sockets cannot
    share a port like that, and nothing keeps it.

    Args:
        number: The port; 0 lets the system choose.

    Raises:
        OSError: Somebody listens on ``number``.
    """

    def __init__(self, number: int = 0) -> None:
        self._socket = socket.socket()
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((LOOPBACK, number))
        except OSError:
            self._socket.close()
            raise
        self.number: int = self._socket.getsockname()[1]
        if sys.platform != "linux":  # pragma: no cover -- the tests run on Linux
            self._socket.close()

    def release(self) -> None:
        """Keep the port no longer."""
        self._socket.close()


def free_port() -> int:
    """
    Return a port of 127.0.0.1 that nobody listens on at this moment.

    For ports that stand in a server's configuration text, such as those between the servers of a cluster. Another
    program may take it before the server does.
    """
    port = HeldPort()
    port.release()
    return port.number
