"""The times of live membership, all from one knob: how long the crash of a node may go unseen."""

from __future__ import annotations

from dataclasses import dataclass

DRIFT = 0.01  # rho: by how much the rates of two clocks may differ from the true one
SLACK = 0.05  # seconds: between the end of a lease and its owner's next tick
MIN_DETECTION, MAX_DETECTION = 1.0, 120.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """
    How long things last, in seconds on each node's own clock.

    Attributes:
        heartbeat: H, between two renewals.
        lease: S, for which a node may start things after a renewal was sent.
        grace: G, that what still runs then has to end.
    """

    heartbeat: float
    lease: float
    grace: float

    @classmethod
    def of(cls, detection: float) -> Times:
        """
        Return the times with which a crash is seen after ``detection`` seconds at most.

        Raises:
            TypeError: It is not a number.
            ValueError: It is not 1 to 120 seconds.
        """
        if isinstance(detection, bool) or not isinstance(detection, (int, float)):
            raise TypeError(f"detection must be a number of seconds, not {detection!r}")
        if not MIN_DETECTION <= detection <= MAX_DETECTION:
            raise ValueError(f"detection must be {MIN_DETECTION:g} to {MAX_DETECTION:g} seconds, not {detection!r}")
        both = (detection - SLACK) * (1 - DRIFT) / (1 + DRIFT)
        grace = min(0.9, detection / 5)
        return cls(heartbeat=min(1.0, detection / 5), lease=both - grace, grace=grace)

    @property
    def lease_ms(self) -> int:
        """S + G in milliseconds, rounded up: what the lease's record tells others."""
        return int((self.lease + self.grace) * 1000) + 1


def wait_of(lease_ms: int) -> float:
    """Return W (R2): the seconds after which a lease that did not change is over on its owner's clock too."""
    return lease_ms / 1000 * (1 + DRIFT) / (1 - DRIFT) + SLACK
