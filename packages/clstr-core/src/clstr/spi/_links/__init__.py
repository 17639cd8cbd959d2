"""
What every link to a broker or a peer does: connect, reconnect, write within a budget, pack.

In: addresses, sockets, frames. Out: a connection that is kept or reported as lost.
May import: errors and the back-off; it does not know the engine.
"""
