"""
Clients: requests and notifies by key or shard.

In: keys and messages of an application. Out: envelopes on a transport, and typed replies.
May import: `clstr.abc`, routing, messages and the middleware and metrics of `clstr._node`.
"""
