"""What one engine counts; `clstr.abc.TransportStats` is what users see of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """
    What one engine has counted since it was opened.

    Attributes:
        sent: Requests and notifies that the link took, each attempt by itself.
        received: Requests and notifies that arrived.
        late_replies: Replies to requests that had ended: timed out, cancelled, answered before, or never ours.
        dropped_replies: Replies that could not be sent before their deadline, or that reached nobody.
        garbage: Messages from the wire that could not be read.
        foreign_replies: Messages at the address of a reply that no node wrote; they did not end the request.
        foreign_requests: Messages of another cluster; they were refused.
        refused: Messages that were refused, by the error's code on the wire.
        notify_failures: Notifies that were refused or whose handler failed, after their sender was gone (T12).
        rerouted: Requests that were sent again because the receiver did not own the shard (T16).
        shared_shards: Messages for a shard that several subscriptions of this transport hold (T2).
        handler_timeouts: Handlers that were cancelled at their deadline.
        reconnects: How often the link came up again.
        loop_stalls: How often the event loop ran a timer half a second late, or more, while there was work.
        longest_loop_lag: The longest delay of such a timer, in seconds.
    """

    sent: int = 0
    received: int = 0
    late_replies: int = 0
    dropped_replies: int = 0
    garbage: int = 0
    foreign_replies: int = 0
    foreign_requests: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    notify_failures: int = 0
    rerouted: int = 0
    shared_shards: int = 0
    handler_timeouts: int = 0
    reconnects: int = 0
    loop_stalls: int = 0
    longest_loop_lag: float = 0.0
