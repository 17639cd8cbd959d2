"""Each public name of every distribution says what it is, its units and its errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from website.docstrings import faults, load

SOURCES = sorted(Path(__file__).parents[2].glob("p*s/*/src"))
PACKAGES = sorted(marker.parent.name for source in SOURCES for marker in source.glob("*/py.typed"))

CARRIER = '''
"""Letters by pigeon."""

from contextlib import suppress
from dataclasses import dataclass

__all__ = ["LOFT", "Flight", "LostError", "Pigeon", "weigh"]

LOFT = "roof"
"""Where they live."""
_REST = 60.0


class LostError(Exception):
    """The pigeon is lost."""


@dataclass
class Flight:
    """
    One flight.

    Attributes:
        duration: Seconds in the air.
        letters: Letters on board.

    Raises:
        ValueError: ``letters`` is below 0.
    """

    duration: float
    letters: int = 1

    def __post_init__(self):
        _check(self.letters)

    @property
    def weight(self) -> int:
        """
        The bytes on board.

        Raises:
            LostError: Nobody knows.
        """
        raise LostError


class Pigeon:
    """
    A pigeon.

    Args:
        age: Seconds since it hatched; ``None`` is not known.

    Raises:
        TypeError: It has no name.

    Attributes:
        name: What it is called.
    """

    def __init__(self, name: str, *, age: float | None = None):
        if not name:
            raise TypeError
        self.name: str = name
        self.age = age

    def fly(self, shard: int, *, rest: float = _REST, hops: int = 2):
        """
        Fly for ``hops`` times as many seconds as last time.

        Args:
            shard: Where to.
            rest: Seconds between two flights, 60 by default.

        Raises:
            LostError, ValueError: It went astray.
        """
        self._find(shard)

    def _find(self, shard):
        with suppress(LookupError):
            raise KeyError(shard)
        try:
            _check(shard)
        except ValueError as error:
            raise refused(LostError(shard)) from error
        else:
            raise ValueError(shard)

    def idle(self) -> float:
        """Return how many seconds it has been idle."""


def weigh(*letters: bytes):
    """Weigh letters."""
    try:
        _check(letters)
    except Exception:
        return


def _check(count):
    if count < 0:
        raise ValueError(count)


def refused(error):
    return error
'''


def find_faults(folder: Path, source: str) -> list[str]:
    (folder / "carrier.py").write_text(source, encoding="utf-8")
    return faults(load(["carrier"], [folder]))


def test_no_public_docstring_lacks_anything() -> None:
    assert faults(load(PACKAGES, SOURCES)) == []


def test_every_public_module_is_read() -> None:
    assert {"clstr", "clstr_memory", "clstr_nats", "clstr_redis", "clstr_testing", "clstr_zmq"} == set(PACKAGES)
    public = load(PACKAGES, SOURCES).keys() - set(PACKAGES)
    assert public == {"clstr.abc", "clstr.errors", "clstr.plugins", "clstr.spi"}


def test_a_module_that_says_everything_has_no_fault(tmp_path: Path) -> None:
    assert find_faults(tmp_path, CARRIER) == []


@pytest.mark.parametrize(
    ("said", "instead", "fault"),
    [
        ('"""Letters by pigeon."""', "", "carrier has no docstring"),
        ("__all__ =", "names =", "carrier has no __all__"),
        ('"""Where they live."""', "", "carrier.LOFT has no docstring"),
        ('"""The pigeon is lost."""', "pass", "carrier.LostError has no docstring"),
        ('"""Weigh letters."""', "", "carrier.weigh has no docstring"),
        ('"""Return how many seconds it has been idle."""', "pass", "carrier.Pigeon.idle has no docstring"),
        ("    name: What it is called.", "", "carrier.Pigeon.name has no docstring, and its class none for it"),
        ("Seconds in the air", "The time in the air", "carrier.Flight.duration: duration has no unit"),
        ("Seconds in the air", "How many there are", "carrier.Flight.duration: duration has no unit"),
        ("Letters on board", "What is on board", "carrier.Flight.letters: letters has no unit"),
        ("The bytes on board", "What is on board", "carrier.Flight.weight: weight has no unit"),
        ("Seconds since it hatched", "Since it hatched", "carrier.Pigeon: age has no unit"),
        ("Seconds between two flights", "Between two flights", "carrier.Pigeon.fly: rest has no unit"),
        ("for ``hops`` times as many seconds as last time", "away", "carrier.Pigeon.fly: hops has no unit"),
        ("many seconds it has been idle", "it has been idle", "carrier.Pigeon.idle: its result has no unit"),
        (
            "; ``None`` is not known",
            "",
            "carrier.Pigeon: age is None if it is left out, and nothing says what that means",
        ),
        (
            ", 60 by default",
            "",
            "carrier.Pigeon.fly: rest is _REST if it is left out, and nothing says what that means",
        ),
        ("ValueError: ``letters``", "KeyError: ``letters``", "carrier.Flight raises ValueError, and does not say so"),
        ("LostError: Nobody", "KeyError: Nobody", "carrier.Flight.weight raises LostError, and does not say so"),
        (
            "TypeError: It has no name",
            "KeyError: It has no name",
            "carrier.Pigeon raises TypeError, and does not say so",
        ),
        ("LostError, ValueError:", "ValueError:", "carrier.Pigeon.fly raises LostError, and does not say so"),
        ("LostError, ValueError:", "LostError:", "carrier.Pigeon.fly raises ValueError, and does not say so"),
        ("suppress(LookupError)", "suppress(OSError)", "carrier.Pigeon.fly raises KeyError, and does not say so"),
        ("except Exception:", "except OSError:", "carrier.weigh raises ValueError, and does not say so"),
    ],
)
def test_a_fault_is_found(said: str, instead: str, fault: str, tmp_path: Path) -> None:
    assert CARRIER.count(said) == 1
    assert fault in find_faults(tmp_path, CARRIER.replace(said, instead))
