"""
Live membership: nodes that find each other, and at most one owner for each shard. Nothing uses it yet.

In: records of a directory, the nodes that are active, the time. Out: decisions, each by its rule, and plans.
May import: plugins, spi, messages, routing, errors. What is here does no I/O, and reads no clock.

R1  A lease counts from when its acknowledged renewal was sent: `lease`.
R2  A lease that has not changed for longer than it lasts may be fenced, by a swap of that version: `fence`.
R3  A shard is claimed if its record, read or acknowledged, proves that nobody can own it: `claim`.
R5  A release leaves the record without an owner, and keeps the epoch: `claim`.
R6  Drop on a hint, keep on a renewal, gain only by the acknowledged swap of this very attempt: `claim`.
R7  After a lapse a renewal counts after a fresh read: `lease`.
R8  For the longest lease after a new history nobody claims and nobody fences: `fence`.
R9  After a lapse and a new history everything is lost: `lease`.

R4, that anything begins only while its shard is owned, is the engine's: it is checked where user code begins.
"""
