"""
Routing: from a key to a shard, and from a shard to the node that owns it.

In: keys, node ids, a seed. Out: shard numbers and assignments, the same in every process and in Go.
May import: messages, limits, errors. It knows no loop and does no I/O.
"""
