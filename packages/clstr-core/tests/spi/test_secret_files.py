"""Files with secrets that every user of the machine can read."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from clstr.spi import warn_of_exposed_file

LOG = logging.getLogger("test")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key.pem"
    file.write_text("PLANTED")
    return file


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o666])
def test_a_file_that_everybody_can_read_or_write_is_warned_of(
    key: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    key.chmod(mode)
    warn_of_exposed_file("the TLS key", key, LOG)
    assert f"the TLS key in {key} can be read or written by every user of this machine (mode {mode:04o})" in caplog.text
    assert "PLANTED" not in caplog.text


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640, 0o660])
def test_a_file_for_its_owner_or_its_group_is_not(key: Path, mode: int, caplog: pytest.LogCaptureFixture) -> None:
    key.chmod(mode)
    warn_of_exposed_file("the TLS key", key, LOG)
    assert not caplog.records


def test_a_link_counts_as_what_it_leads_to(key: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As a mounted secret is: a link has a mode of its own, which says nothing."""
    key.chmod(0o600)
    (link := key.with_name("link")).symlink_to(key)
    warn_of_exposed_file("the TLS key", link, LOG)
    assert not caplog.records


def test_a_file_that_is_not_there_is_left_to_its_reader(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_exposed_file("the TLS key", tmp_path / "none", LOG)
    assert not caplog.records
