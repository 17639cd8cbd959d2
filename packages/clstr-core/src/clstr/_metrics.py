"""What clstr measures: the eight measurements of clstr-go, as a protocol to implement."""

from __future__ import annotations

from typing import Protocol

MAX_LABELS = 100
OTHER = "_other"


class Metrics(Protocol):
    """
    Receives measurements; give one to `clstr.Client` and `clstr.Node`.

    Methods are called on the loop and must not raise.

    A ``message_type`` comes from the wire on a node, so only the first 100 that were handled keep their name there;
    the rest are counted as ``"_other"``.
    """

    def request_duration(self, message_type: str, seconds: float) -> None:
        """A client's request ended, ``seconds`` after it began, whatever its outcome."""

    def request_completed(self, message_type: str, *, success: bool) -> None:
        """A client's request ended."""

    def notify_completed(self, message_type: str, *, success: bool) -> None:
        """A client's notify ended."""

    def transport_error(self, error_type: str) -> None:
        """
        A client's message failed, and not because its handler raised.

        The type is ``no_subscriber``, ``timeout``, ``ttl_expired``, ``closed`` or another error's code.
        """

    def handler_duration(self, message_type: str, seconds: float) -> None:
        """A node's handler ended, ``seconds`` after it began, whatever its outcome."""

    def handler_completed(self, message_type: str, *, success: bool) -> None:
        """A node's handler ended."""

    def handlers_active(self, node_id: str, count: int) -> None:
        """
        A handler of the node has begun or ended.

        Args:
            node_id: The node's id.
            count: How many run now.
        """

    def shards_owned(self, node_id: str, count: int) -> None:
        """
        The node has acquired or released shards.

        Args:
            node_id: The node's id.
            count: How many it owns now.
        """


class NoMetrics:
    """Measures nothing: the default."""

    def request_duration(self, message_type: str, seconds: float) -> None: ...
    def request_completed(self, message_type: str, *, success: bool) -> None: ...
    def notify_completed(self, message_type: str, *, success: bool) -> None: ...
    def transport_error(self, error_type: str) -> None: ...
    def handler_duration(self, message_type: str, seconds: float) -> None: ...
    def handler_completed(self, message_type: str, *, success: bool) -> None: ...
    def handlers_active(self, node_id: str, count: int) -> None: ...
    def shards_owned(self, node_id: str, count: int) -> None: ...
