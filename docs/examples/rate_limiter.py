"""
A rate limit per tenant, counted in one place: whatever front a request comes through, the tenant's owner decides.

    python docs/examples/rate_limiter.py [URL]

It prints:

    acme: 5 allowed, 3 refused
    globex: 5 allowed, 0 refused
    acme has to wait 0.5 s
    acme after 1 s: 2 allowed, 1 refused
"""

import asyncio
import sys

import msgspec

import clstr

SHARDS = range(16)


class Decision(msgspec.Struct):
    """The reply: may it go on, and if not, after how many seconds."""

    is_allowed: bool
    wait: float = 0.0


class Take(msgspec.Struct, clstr.Message[Decision]):
    """May one more request of this tenant go on? ``now`` comes with it: a demonstration needs no clock."""

    now: float


class Bucket(clstr.Actor):
    """A token bucket: ``burst`` at once, then ``rate`` a second. One tenant's, since the tenant is the key."""

    burst = 5.0
    rate = 2.0

    async def on_start(self) -> None:
        """Begin full. A tenant that was idle for so long that its actor stopped would have a full bucket anyway."""
        self.tokens = self.burst
        self.filled_at = 0.0

    @clstr.handles(Take)
    async def take(self, message: Take, context: clstr.Context) -> Decision:
        """Take a token, if there is one."""
        elapsed = max(0.0, message.now - self.filled_at)
        self.tokens = min(self.burst, self.tokens + elapsed * self.rate)
        self.filled_at = max(self.filled_at, message.now)
        if self.tokens < 1:
            return Decision(is_allowed=False, wait=(1 - self.tokens) / self.rate)
        self.tokens -= 1
        return Decision(is_allowed=True)


async def ask(client: clstr.Client, tenant: str, times: int, now: float) -> str:
    """Send ``times`` requests at once, as several fronts would, and count the answers."""
    decisions = await asyncio.gather(*(client.key(tenant).request(Take(now)) for _ in range(times)))
    allowed = sum(decision.is_allowed for decision in decisions)
    return f"{allowed} allowed, {times - allowed} refused"


async def main(url: str) -> None:
    """Let two tenants use up their buckets."""
    async with clstr.connect(url) as transport, clstr.Node(transport, clstr.ActorHandler(Bucket), shards=SHARDS):
        client = clstr.Client(transport, num_shards=len(SHARDS))
        print("acme:", await ask(client, "acme", 8, now=0.0))
        print("globex:", await ask(client, "globex", 5, now=0.0))
        refused = await client.key("acme").request(Take(now=0.0))
        print(f"acme has to wait {refused.wait:g} s")
        print("acme after 1 s:", await ask(client, "acme", 3, now=1.0))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2] or ["memory://"]))
