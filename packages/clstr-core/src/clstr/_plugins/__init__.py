"""
Transports: which are installed, and how a URL becomes an open one.

In: a URL, entry points. Out: an open transport, or an error that names what is missing.
May import: `clstr.plugins`, `clstr.abc`, URLs and what stands below them.
"""
