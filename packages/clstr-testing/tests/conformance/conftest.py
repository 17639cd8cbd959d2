"""A distribution that provides the scheme ``loopback``, installed for one test."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance import plugin  # here, once: what runs inside of pytester would import another copy


@pytest.fixture
def loopback_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install it as a wheel would: by its metadata on the path."""
    metadata = tmp_path / "site" / "clstr_loopback-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: clstr-loopback\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[clstr.transports]\nloopback = {plugin.__name__}\n")
    monkeypatch.syspath_prepend(metadata.parent)
