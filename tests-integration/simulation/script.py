"""What a schedule is made from: its features, its limits, and the calls that it makes. All drawn from one seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from clstr.spi import Limits, Route

SHARDS = 4
HORIZON = 0.3  # seconds in which calls begin, links fail and subscriptions change
FAR = 30.0  # a timeout that nothing reaches by itself

HARMLESS = ("broker", "json", "nested", "notify", "odd", "reorder", "shared")
"""Features with which every message must reach its handler, and every request have the outcome that it asked for."""

HARMFUL = (
    "cancel",  # callers cancelled at any await
    "churn",  # subscriptions that are added to, taken from and closed
    "close",  # transports closed while they work
    "deaf",  # handlers that ignore cancellation
    "death",  # links lost for good
    "dice",  # sends that the link refuses
    "garbage",  # garbage, and answers that come twice
    "loss",  # messages lost without notice
    "outage",  # links that go down and come back
    "self_close",  # handlers that close their subscription or their transport
    "short",  # timeouts
    "slow_link",  # hold, drop, flush and aclose that take long, fail or hang
    "stragglers",  # messages that arrive after `drop` has returned
    "tight",  # small limits
    "ttl",
)
FEATURES = HARMLESS + HARMFUL

ODD = ("nothing", "raise", "raise_refusal_type", "cancel_self", "wrong_type", "too_large", "refuse", "refuse_owner")
TAKING_LONG = ("long", "deaf", "deaf_for_ever", "orphan")
CLOSING = ("close_subscription", "close_transport")


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """
    One schedule, to be run by `schedule.run`.

    Attributes:
        seed: Where every chance in it comes from.
        features: What may happen.
        calls: How many calls come from outside.
        peers: How many transports there are.
        eager: Whether tasks start eagerly, where Python can do that.
    """

    seed: int
    features: frozenset[str]
    calls: int
    peers: int
    eager: bool = False

    @classmethod
    def of(cls, seed: int) -> Script:
        """Draw the script of ``seed``. One in five is harmless: then every request must have its outcome."""
        chance = random.Random(f"script {seed}")
        features = {name for name in HARMLESS if chance.random() < 0.5}
        if chance.random() < 0.8:
            share = chance.choice((0.15, 0.3, 0.6))
            features.update(name for name in HARMFUL if chance.random() < share)
        calls = chance.choice((1, 2, 4, 8, 8, 14))
        return cls(
            seed=seed,
            features=frozenset(features),
            calls=calls,
            peers=chance.choice((1, 2, 2, 3)),
            eager=chance.random() < 0.3,
        )

    @property
    def is_harmless(self) -> bool:
        """Whether nothing in it may make a request fail."""
        return self.features.isdisjoint(HARMFUL)

    def without(self, feature: str) -> Script:
        """Return the same without ``feature``."""
        return replace(self, features=self.features - {feature})

    def __str__(self) -> str:
        features = ",".join(sorted(self.features)) or "none"
        return f"--seed {self.seed} --features {features} --calls {self.calls} --peers {self.peers}" + (
            " --eager" if self.eager else ""
        )


def limits(chance: random.Random, script: Script) -> Limits:
    """Draw the limits of one transport."""
    drawn: dict[str, Any] = {"max_concurrent": chance.choice((1, 1, 2, 3, 100)), "max_payload_bytes": 1000}
    if not script.is_harmless:
        drawn |= {
            "handler_timeout": chance.choice((0.02, 0.1, 1.0, FAR)),
            "drain_timeout": chance.choice((0, 0.01, 0.1, 1.0)),
            "reconnect_wait": chance.choice((0, 0.02, 0.2, 2.0)),
        }
    if "tight" in script.features:
        drawn |= {
            "max_queue": chance.choice((0, 1, 3)),
            "max_queue_bytes": chance.choice((100, 400, 100_000)),
            "max_inflight_requests": chance.choice((1, 3, 100)),
            "max_inflight_bytes": chance.choice((50, 1000, 100_000)),
        }
    return Limits(**drawn)


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """
    One message: what it is to do, and what was seen of it.

    Attributes:
        behaviour: What its handler does after its ``ticks``, its ``before`` seconds and its ``children``.
        cancel_after: Ticks, if an int, or seconds, after which its caller is cancelled.
        sends: How often it left; ``proof`` says that it certainly did not run, so that it may leave once more.
        starts: How often its handler started.
        outcome: The bytes, the error, or ``None`` for a notify that is on its way.
    """

    number: int
    shard: int
    data: bytes
    behaviour: str
    ticks: int
    before: float
    timeout: float
    ttl_ms: int
    oneway: bool
    cancel_after: float | None
    peer: int
    parallel: bool
    swallow: bool
    children: list[Call] = field(default_factory=list)

    sends: int = 0
    proof: bool = False
    starts: int = 0
    asked_at: float = -1.0
    done_at: float = -1.0
    cancelled_at: float = -1.0
    answered_at: float = -1.0
    delivered_at: float = -1.0
    started_at: float = -1.0
    lent: int = 0
    closing: bool = False
    lost_at: float = -1.0
    token: int = 0
    link: str = ""
    route: Route = None
    outcome: bytes | BaseException | None = None
    is_probe: bool = False

    @property
    def type(self) -> str:
        """The message type: it tells whose a body is, in every codec."""
        return f"#{self.number};"

    @property
    def reply(self) -> bytes:
        """What its handler returns if it comes that far."""
        return b"" if self.behaviour == "nothing" else b"re:%d" % self.number

    def is_in_flight(self) -> bool:
        """Whether its caller waits for an answer now."""
        return self.sends > 0 and self.done_at < 0 and self.answered_at < 0 and not self.proof

    @property
    def executions(self) -> int:
        """How often its handler began its work; one that refuses does not begin it."""
        return 0 if self.behaviour.startswith("refuse") else self.starts


class Author:
    """Invents calls."""

    def __init__(self, chance: random.Random, script: Script) -> None:
        self._chance = chance
        self._script = script
        self._behaviours = self._choices()
        self.calls: list[Call] = []

    def _choices(self) -> list[str]:
        features = self._script.features
        choices = ["answer"] * 6
        if "odd" in features:
            choices += ODD
        if not self._script.is_harmless:
            choices += ["long", "long", "orphan"]
        if "deaf" in features:
            choices += ["deaf", "deaf_for_ever"]
        if "self_close" in features:
            choices += CLOSING
        return choices

    def invent(self, depth: int = 0) -> Call:
        """Invent one call, and those that its handler makes."""
        chance, features = self._chance, self._script.features
        call = Call(
            number=len(self.calls),
            shard=chance.randrange(SHARDS),
            data=b"d" * chance.choice((0, 10, 40, 900)),
            behaviour=chance.choice(self._behaviours),
            ticks=chance.choice((0, 0, 1, 3)),
            before=chance.choice((0.0, 0.0, 0.001, 0.05)),
            timeout=self._timeout(),
            ttl_ms=chance.choice((0, 0, 1, 20, 200)) if "ttl" in features else 0,
            oneway="notify" in features and chance.random() < 0.2,
            cancel_after=self._cancel_after(),
            peer=chance.randrange(self._script.peers),
            parallel=chance.random() < 0.5,
            swallow=self._script.is_harmless or chance.random() < 0.7,
        )
        self.calls.append(call)
        if "nested" in features and depth < 4 and chance.random() < 0.5:
            call.children = [self.invent(depth + 1) for _ in range(chance.choice((1, 1, 2, 2, 3)))]
        return call

    def probe(self, shard: int, peer: int) -> Call:
        """Invent a call that must be answered if anybody holds ``shard``."""
        call = self.invent(depth=99)
        call.shard, call.peer, call.behaviour, call.is_probe = shard, peer, "answer", True
        call.timeout, call.ttl_ms, call.oneway, call.cancel_after, call.data = FAR, 0, False, None, b""
        call.ticks, call.before = 0, 0.0
        return call

    def _timeout(self) -> float:
        if "short" in self._script.features and self._chance.random() < 0.7:
            return self._chance.choice((0.0001, 0.005, 0.02, 0.1, 0.5)) * (0.5 + self._chance.random())
        return FAR

    def _cancel_after(self) -> float | None:
        if "cancel" not in self._script.features or self._chance.random() < 0.5:
            return None
        return self._chance.choice((self._chance.randrange(12), 0.3 * self._chance.random()))
