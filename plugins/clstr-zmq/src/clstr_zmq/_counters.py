"""What one peer counts beside the engine, for `clstr.abc.TransportStats.link`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """
    Counters of one peer since it was opened.

    Attributes:
        missed_wakeups: Messages that waited because their socket woke nobody. A defect of ours if it is not 0.
        refused_peers: Connections of peers that were refused.
    """

    missed_wakeups: int = 0
    refused_peers: int = 0
