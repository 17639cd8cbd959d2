"""`clstr._urls.parameters`: text that says something else is refused with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clstr.plugins import parse_bool, parse_codec, parse_file, parse_seconds


def test_what_is_well_formed_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.touch()
    assert (parse_bool("true"), parse_bool("false")) == (True, False)
    assert (parse_codec("json"), parse_codec("msgpack")) == ("json", "msgpack")
    assert parse_file(str(file)) == str(file)
    assert (parse_seconds("2"), parse_seconds("0.05"), parse_seconds("1e-3")) == (2.0, 0.05, 0.001)


@pytest.mark.parametrize(
    ("parse", "text", "reason"),
    [
        *((parse_bool, text, "must be true or false, not '") for text in ("", "True", "1", "yes")),
        *((parse_codec, text, "must be json or msgpack, not '") for text in ("", "JSON", "pickle")),
        *((parse_file, text, "names no file") for text in ("", "/", "no/such/file", "\0", "a" * 5000)),
        *((parse_seconds, text, "must be seconds above 0, not '") for text in ("", "soon", "0", "-1", "nan", "inf")),
    ],
)
def test_what_is_malformed_is_refused(parse: Callable[[str], object], text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(text)
