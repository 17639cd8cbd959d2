"""
Transport URLs and the readers of their parameters.

In: text that users configure. Out: parsed URLs and checked values; errors never repeat a password.
May import: messages, limits, errors. It knows no loop and does no I/O.
"""
