"""Types of messages whose values would not come back as they went: the field that would not, and the way out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec.inspect import AnyType, CustomType, DataclassType, Field, FloatType, RawType, Type

from clstr._messages.message import type_name
from clstr._messages.pydantic_models import is_model, lost_in_model

_UNCHECKED = (
    "is a pydantic dataclass, {}, whose checks would not run: make it a pydantic BaseModel, or a msgspec struct or "
    "dataclass of Python's own"
)
_PRIVATE = (
    "is a private field of an attrs class, which is not sent: give it a public name, or init=False if it is no part of "
    "the message"
)
_CONVERTED = (
    "has an attrs converter, which would not run when the message is decoded: give the field the type of what is sent, "
    "and convert it in __attrs_post_init__ or in the handler"
)


def in_field(path: str, name: str) -> str:
    """Return how errors call the field at ``path``, as ``.user.id``, of the type that is called ``name``."""
    return f"field {path.removeprefix('.')!r} of {name}" if path else name


def check_nothing_is_lost(info: Type, name: str) -> None:
    """
    Refuse what msgspec or pydantic would change or skip in silence in the type that ``info`` describes.

    Args:
        info: What msgspec says of the type.
        name: How errors call the type.

    Raises:
        TypeError: It says which field it is, why, and what to write instead.
    """
    for path, part in _walk("", info, set()):
        reasons = _lost_in_class(path, part.cls) if isinstance(part, DataclassType) else iter(())
        if isinstance(part, CustomType) and is_model(part.cls):
            reasons = lost_in_model(part.cls, path)
        for where, reason in reasons:
            raise TypeError(f"{in_field(where, name)} {reason}")


def check_is_decodable(info: Type, name: str) -> None:
    """Raise `TypeError` if the type that ``info`` describes, called ``name``, holds one that has no decoding."""
    for path, part in _walk("", info, set()):
        if isinstance(part, CustomType) and not is_model(part.cls):
            where = f"{in_field(path, name)}: " if part is not info else ""
            raise TypeError(
                f"{where}{type_name(part.cls)} has no decoding: use a msgspec struct, dataclass, attrs class, pydantic "
                "model or built-in type, or bytes for the reply as it is"
            )


def is_checked_when_sent(info: Type) -> bool:
    """
    Tell whether a value of the type that ``info`` describes may hold a float or be nested to any depth.

    JSON has no number for some floats, and a depth has its bound; other values need not be looked at.
    """
    parts = [part for _, part in _walk("", info, set())]
    return any(isinstance(part, FloatType | AnyType | CustomType | RawType) for part in parts) or _holds_itself(
        info, []
    )


def _holds_itself(info: Type, above: list[Type]) -> bool:
    if any(info is each for each in above):
        return True
    return any(_holds_itself(part, [*above, info]) for _, part in _inner("", info))


def _lost_in_class(path: str, cls: Any) -> Iterator[tuple[str, str]]:
    if hasattr(cls, "__pydantic_validator__"):
        yield path, _UNCHECKED.format(type_name(cls))
    for field in getattr(cls, "__attrs_attrs__", ()):
        if field.init and field.name.startswith("_"):
            yield f"{path}.{field.name}", _PRIVATE
        elif field.init and field.converter is not None:
            yield f"{path}.{field.name}", _CONVERTED


def _walk(path: str, info: Type, seen: set[int]) -> Iterator[tuple[str, Type]]:
    """Yield every type in ``info`` once, with the path of fields that leads to it."""
    if id(info) in seen:  # types may hold themselves
        return
    seen.add(id(info))
    yield path, info
    for where, part in _inner(path, info):
        yield from _walk(where, part, seen)


def _inner(path: str, info: Type) -> Iterator[tuple[str, Type]]:
    """Yield the types that ``info`` is made of."""
    for attribute in info.__struct_fields__:
        value = getattr(info, attribute)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Field):
                yield f"{path}.{part.name}", part.type
            elif isinstance(part, Type):
                yield path, part
