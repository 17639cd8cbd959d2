"""
Live membership: nodes that find each other, and at most one owner for each shard. Nothing uses it yet.

In: the nodes that are active, and the present plan. Out: the next plan, when it is due, and which shards move first.
May import: plugins, spi, messages, routing, errors. Decisions do no I/O, and get the time as an argument.
"""
