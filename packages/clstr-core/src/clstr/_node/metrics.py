"""What clstr measures: the eight measurements of clstr-go, how long messages wait, and how late the loop is."""

from __future__ import annotations

MAX_LABELS = 100
OTHER = "_other"


class Metrics:
    """
    Receives measurements; give an instance of a subclass to `clstr.Client` and `clstr.Node`.

    Each method does nothing here: override those that you need. They are called on the loop and must not raise.

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
        """
        A node's handler ended, whatever its outcome.

        Args:
            message_type: The type of its message.
            seconds: Seconds that it ran, without its wait for its key's turn, and with the answers that it awaited.
        """

    def queue_wait(self, message_type: str, seconds: float) -> None:
        """
        A node's handler ended; called before `handler_duration`.

        Args:
            message_type: The type of its message.
            seconds: Seconds that the message waited in the node before its handler ran: for a slot and for its turn.
        """

    def handler_completed(self, message_type: str, *, success: bool) -> None:
        """A node's handler ended."""

    def handlers_active(self, node_id: str, count: int) -> None:
        """
        A handler of the node has begun or ended, or begun or ended to wait for its key's turn.

        Args:
            node_id: The node's id.
            count: How many run now; those that wait for their key's turn do not.
        """

    def shards_owned(self, node_id: str, count: int) -> None:
        """
        The node has acquired or released shards.

        Args:
            node_id: The node's id.
            count: How many it owns now.
        """

    def loop_lag(self, node_id: str, seconds: float) -> None:
        """
        Once a second: the node's event loop has run a timer, ``seconds`` too late.

        While it is late, because something blocks it or the process does not run, no message is answered.

        Args:
            node_id: The node's id.
            seconds: Seconds; a healthy loop is a few milliseconds late.
        """
