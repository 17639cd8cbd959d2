"""
The memory transport of clstr: ``memory://`` is private to a connection, ``memory://name`` shared in the process.

For tests a connection can be made to fail, by parameters of its URL, the same every time for the same ``seed``:
``delay`` (seconds at most), ``drop_reply`` and ``disconnect`` (shares from 0 to 1). `cut`, `restore` and `inject` do it
by hand to a whole named bus.
"""

from clstr_memory._faults import cut as cut
from clstr_memory._faults import inject as inject
from clstr_memory._faults import restore as restore

__all__ = ["cut", "inject", "restore"]
