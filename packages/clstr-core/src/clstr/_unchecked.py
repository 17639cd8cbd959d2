"""Types inside of a message's type that would lose values on the wire, or the checks that they declare."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec.inspect import DataclassType, Field, Type


def check_is_checked(type_: Any, name: str) -> None:
    """
    Refuse what msgspec would change in silence in ``type_``, called ``name``.

    It skips the validators and aliases of pydantic dataclasses, and does not send private fields of attrs classes.

    Raises:
        TypeError: There is one; it says which field it is the type of.
    """
    for path, info in _walk("", msgspec.inspect.type_info(type_), set()):
        if isinstance(info, DataclassType) and hasattr(info.cls, "__pydantic_validator__"):
            where = f"field {path.removeprefix('.')!r} of {name}" if path else name
            raise TypeError(
                f"{where} is a pydantic dataclass, {info.cls.__qualname__}, whose checks would not run: make it a "
                "pydantic BaseModel, or a msgspec struct or dataclass of Python's own"
            )
        lost = _private_argument(info.cls) if isinstance(info, DataclassType) else None
        if lost is not None:
            raise TypeError(
                f"field {f'{path}.{lost}'.removeprefix('.')!r} of {name} is a private field of an attrs class, which "
                "is not sent: give it a public name, or init=False if it is no part of the message"
            )


def _private_argument(cls: type) -> str | None:
    """Return a private field of ``cls``, an attrs class, that its instances are made with, or ``None``."""
    fields = getattr(cls, "__attrs_attrs__", ())
    return next((field.name for field in fields if field.init and field.name.startswith("_")), None)


def _walk(path: str, info: Type, seen: set[int]) -> Iterator[tuple[str, Type]]:
    """Yield every type in ``info`` once, with the path of fields that leads to it."""
    if id(info) in seen:  # types may hold themselves
        return
    seen.add(id(info))
    yield path, info
    for attribute in info.__struct_fields__:
        value = getattr(info, attribute)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Field):
                yield from _walk(f"{path}.{part.name}", part.type, seen)
            elif isinstance(part, Type):
                yield from _walk(path, part, seen)
