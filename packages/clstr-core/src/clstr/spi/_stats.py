"""Counters of one transport, for people who look into it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Stats:
    """
    What one transport counted since it was opened.

    Attributes:
        late_replies: Replies to requests that had ended: timed out, cancelled, answered before, or never ours.
        dropped_replies: Replies that could not be sent before their deadline, or that reached nobody.
        garbage: Messages from the wire that could not be read.
        foreign_replies: Messages at the address of a reply that no node wrote; they did not end the request.
        foreign_requests: Messages of another cluster; they were refused.
        refused: Messages that were refused.
        notify_failures: Notifies that were refused or whose handler failed, after their sender was gone (T12).
        rerouted: Requests that were sent again because the receiver did not own the shard (T16).
        shared_shards: Messages for a shard that several subscriptions of this transport hold (T2).
        handler_timeouts: Handlers that were cancelled at their deadline.
        loop_stalls: How often the event loop ran a timer half a second late, or more, while there was work.
        longest_loop_lag: The longest delay of such a timer, in seconds.
    """

    late_replies: int = 0
    dropped_replies: int = 0
    garbage: int = 0
    foreign_replies: int = 0
    foreign_requests: int = 0
    refused: int = 0
    notify_failures: int = 0
    rerouted: int = 0
    shared_shards: int = 0
    handler_timeouts: int = 0
    loop_stalls: int = 0
    longest_loop_lag: float = 0.0
