"""What the fixtures of `conftest` give."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import clstr

Connect = Callable[..., Awaitable[clstr.Transport]]
"""Opens one more transport to the test's broker; keyword arguments are limits."""
