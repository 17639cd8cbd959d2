"""
The Redis and Valkey transport of clstr: ``redis://``, ``rediss://``, ``redis+unix://`` and ``redis+sentinel://``.

It is reached through `clstr.connect`. What is here is for those who write rights or look into the server.
"""

from clstr_redis._names import DEFAULT_PREFIX as DEFAULT_PREFIX

__all__ = ["DEFAULT_PREFIX"]
