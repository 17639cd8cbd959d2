"""The carrier against the contract of clstr."""

from clstr.abc import Transport
from clstr.spi import Engine
from clstr_testing import TransportSuite

from clstr_carrier._bus import Bus


class TestCarrier(TransportSuite):
    """Each check has a bus of its own."""

    url = "carrier://{cluster}"

    async def cut(self) -> None:
        """Break every connection, and let none be made."""
        Bus.named(self.cluster).cut()

    async def cut_peer(self, peer: Transport) -> None:
        """Break the connection of one peer, and let it make none."""
        assert isinstance(peer, Engine)
        Bus.named(self.cluster).cut(peer.link)

    async def restore(self) -> None:
        """Let connections be made again."""
        Bus.named(self.cluster).restore()

    async def inject(self, shard: int, body: bytes) -> None:
        """Give a holder of ``shard`` what no link of ours would send."""
        Bus.named(self.cluster).holders[shard][0].listener.received(shard, body, None)
