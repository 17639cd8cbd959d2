"""
Nodes: they own shards and run handlers for their messages.

In: envelopes of a transport. Out: calls of users' functions, and encoded replies.
May import: `clstr.abc`, routing, messages and the message being handled.
"""
