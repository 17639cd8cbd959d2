"""Who this peer is."""

from __future__ import annotations

from dataclasses import dataclass

from clstr_zmq._protocol import Hello, Place, Welcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """
    What this peer says of itself.

    Attributes:
        cluster: The cluster's name.
        peer_id: Its id.
        epoch: Which life of it this is.
        inbox: Where the others reach it, if they can.
        max_bytes: The largest body that it takes.
    """

    cluster: str
    peer_id: str
    epoch: int
    inbox: Place | None
    max_bytes: int

    def hello(self) -> Hello:
        """Return what it says first."""
        return Hello(
            cluster=self.cluster,
            peer_id=self.peer_id,
            epoch=self.epoch,
            inbox=self.inbox,
            max_bytes=self.max_bytes,
        )

    def welcome(self, inbox: Place) -> Welcome:
        """Return what it answers to a `Hello`."""
        return Welcome(peer_id=self.peer_id, epoch=self.epoch, inbox=inbox, max_bytes=self.max_bytes)

    def is_self(self, peer_id: str, epoch: int) -> bool:
        """Tell whether this very peer is meant."""
        return (peer_id, epoch) == (self.peer_id, self.epoch)
