"""
Actors: one object per key, one message at a time, with a life of its own.

In: the messages of a node. Out: calls of the actor's methods, starts, stops and periodic work.
May import: typed handlers of `clstr._node`, and what that may import.
"""
