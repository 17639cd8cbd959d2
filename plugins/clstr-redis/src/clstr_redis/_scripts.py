"""The scripts that run in the server. Data is in KEYS and ARGV, never in the text."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1


@dataclass(frozen=True, slots=True)
class Script:
    """
    A script.

    Attributes:
        text: What the server loads.
        digest: The name by which it knows it then.
    """

    text: bytes
    digest: bytes

    @classmethod
    def of(cls, text: str) -> Script:
        """Return the script with this text."""
        source = text.encode()
        return cls(source, sha1(source, usedforsecurity=False).hexdigest().encode())


_NOW = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)"

# KEYS: a shard's leases. ARGV: the message, a number that says whose turn it is. Reads and publishes, writes nothing:
# an error proves that nothing was published, because a message that somebody received ends it.
# Returns the inbox that got it, the milliseconds that its lease has left, and how many received it; or nothing.
SEND = Script.of(f"""
{_NOW}
local owners = redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf', 'WITHSCORES')
local count = #owners / 2
for i = 0, count - 1 do
  local at = ((ARGV[2] + i) % count) * 2
  local received = redis.call('PUBLISH', owners[at + 1], ARGV[1])
  if received > 0 then return {{owners[at + 1], owners[at + 2] - now, received}} end
end
return {{}}
""")

# Runs a command, and returns whether the key has another type; any other error ends the script, as with `redis.call`.
_IS_OF_ANOTHER_TYPE = """
local function is_of_another_type(...)
  local answer = redis.pcall(...)
  if type(answer) ~= 'table' or not answer.err then return false end
  if string.find(answer.err, 'WRONGTYPE', 1, true) then return true end
  redis.call(...)
end
"""

# KEYS: the leases of some shards. ARGV: an inbox, the milliseconds of a lease. Takes or renews them.
# The removal comes first: a server whose memory is full lets a script go on that has begun to write.
# A key lives as long as its longest lease: owners may have leases of different lengths.
# Returns the numbers of the keys that somebody else has given another type: each costs its own shard alone.
HOLD = Script.of(f"""
{_NOW}
{_IS_OF_ANOTHER_TYPE}
local foreign = {{}}
for number, key in ipairs(KEYS) do
  if is_of_another_type('ZREMRANGEBYSCORE', key, '-inf', '(' .. now) then
    foreign[#foreign + 1] = number
  else
    redis.call('ZADD', key, now + ARGV[2], ARGV[1])
    if redis.call('PTTL', key) < tonumber(ARGV[2]) then redis.call('PEXPIRE', key, ARGV[2]) end
  end
end
return foreign
""")

# KEYS: the leases of some shards. ARGV: an inbox. Lets go of them, where they are leases.
DROP = Script.of(f"""
{_IS_OF_ANOTHER_TYPE}
for _, key in ipairs(KEYS) do is_of_another_type('ZREM', key, ARGV[1]) end
return #KEYS
""")

SCRIPTS = (SEND, HOLD, DROP)
