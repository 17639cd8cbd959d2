"""The plugin: what a URL may hold."""

import clstr
import pytest


async def test_a_url_without_a_name_says_how_to_write_one() -> None:
    """Bad input is named, with the way out."""
    with pytest.raises(ValueError, match="as in carrier://name"):
        await clstr.connect("carrier://")
