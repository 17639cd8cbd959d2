"""What the release checks share."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer ``--release TAG``."""
    parser.addoption("--release", metavar="TAG", help="hold the files to what this tag releases")


@pytest.fixture
def tag(request: pytest.FixtureRequest) -> str:
    """Return the tag to be released; without one there is nothing to hold files to."""
    chosen = request.config.getoption("release")
    if not chosen:
        pytest.skip("no release is being made: -- --release vX.Y.Z")
    return str(chosen)
