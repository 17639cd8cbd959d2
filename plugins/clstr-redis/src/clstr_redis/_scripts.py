"""The scripts that run in the server. Data is in KEYS and ARGV, never in the text."""

from __future__ import annotations

from hashlib import sha1

_NOW = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)"

# KEYS: a shard's leases. ARGV: the message, a number that says whose turn it is. Reads and publishes, writes nothing.
# Returns the inbox that got it, the milliseconds that its lease has left, and how many received it; or nothing.
SEND = f"""
{_NOW}
local owners = redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf', 'WITHSCORES')
local count = #owners / 2
for i = 0, count - 1 do
  local at = ((ARGV[2] + i) % count) * 2
  local received = redis.call('PUBLISH', owners[at + 1], ARGV[1])
  if received > 0 then return {{owners[at + 1], owners[at + 2] - now, received}} end
end
return {{}}
"""

# KEYS: the leases of some shards. ARGV: an inbox, the milliseconds of a lease. Takes or renews them.
HOLD = f"""
{_NOW}
for _, key in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. now)
  redis.call('ZADD', key, now + ARGV[2], ARGV[1])
  redis.call('PEXPIRE', key, ARGV[2])
end
return #KEYS
"""

# KEYS: the leases of some shards. ARGV: an inbox. Lets go of them.
DROP = """
for _, key in ipairs(KEYS) do redis.call('ZREM', key, ARGV[1]) end
return #KEYS
"""


def digest(script: str) -> str:
    """Return the name by which the server knows a script that it has loaded."""
    return sha1(script.encode(), usedforsecurity=False).hexdigest()
