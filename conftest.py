"""What every test run shares: the event loop, and no deadlines for generated examples."""

import asyncio
from collections.abc import Callable, Mapping

import hypothesis
import pytest

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

# Hypothesis fails an example that takes 200 ms; on a busy machine that measures the machine. Its CI profile stays.
current = hypothesis.settings.get_profile(hypothesis.settings.get_current_profile_name())
hypothesis.settings.register_profile("clstr", current, deadline=None)
hypothesis.settings.load_profile("clstr")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer ``--uvloop``."""
    parser.addoption("--uvloop", action="store_true", help="run asynchronous tests on uvloop")


def pytest_asyncio_loop_factories(config: pytest.Config) -> Mapping[str, LoopFactory]:
    """Name the one loop that asynchronous tests run on."""
    if config.getoption("uvloop"):
        import uvloop  # noqa: PLC0415 -- installed only where the option is used

        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}
