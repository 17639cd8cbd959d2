"""
Messages: what applications send, and the bytes that carry it.

In: envelopes, message classes, frames as bytes. Out: the same, decoded, encoded and checked.
May import: limits, errors. It knows no loop and does no I/O.
"""
