"""
Unions and keys in pydantic models that JSON does not tell apart.

pydantic reads a union by what fits best, so that the text of an enum or a datetime becomes a `str` where both are
admitted. Classes that are not known here are not judged.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import itertools
import pathlib
import types
import uuid
from collections import abc
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from clstr._messages.message import type_name

_ALIKE = (
    "may be {} or {}, which JSON does not tell apart: give the union a Field(discriminator=...), or keep one of the two"
)
_KEYS = "is a dict with keys that JSON has no form for ({}): use keys of one type that is written as text, or a list"

_NUMBERS = (bool, int, float)
_ANY_TEXT = (str, bytes, pathlib.PurePath)  # take every text
_FROM_NUMBERS = (dt.date, dt.time, dt.timedelta, decimal.Decimal)  # a datetime is a date; one may read another's text
_OWN_TEXT = (
    *_FROM_NUMBERS,
    uuid.UUID,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
)


class _Relation(enum.Enum):
    """Of two types: what is written as the one and read as either of them."""

    SAME = enum.auto()  # is the same value
    APART = enum.auto()  # is what it was
    ALIKE = enum.auto()  # may be of the other type


class _Sent(NamedTuple):
    """A field of an object in JSON."""

    hint: Any
    is_required: bool
    is_always_sent: bool = True


def unreadable(hint: Any, discriminator: object = None, aliases: tuple[Any, ...] = ()) -> Iterator[str]:
    """
    Yield why values of ``hint``, an annotation in a model, would not be read as they are written.

    Args:
        hint: The annotation. Classes in it are not looked into.
        discriminator: What tells the members of the union apart, if ``hint`` is one.
        aliases: Those of `type` statements that ``hint`` stands in, which may hold themselves.
    """
    if hasattr(hint, "__value__"):
        if hint not in aliases:
            yield from unreadable(hint.__value__, discriminator, (*aliases, hint))
        return
    metadata = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    if any(hasattr(each, "when_used") for each in metadata):  # a serializer
        return
    bare, arguments = _bare(hint), get_args(_bare(hint))
    if _is_union(bare):
        if not (discriminator or any(getattr(each, "discriminator", None) for each in metadata)):
            yield from _alike(bare)
    elif arguments and _shape(bare) is dict:
        yield from _bad_keys(arguments[0])
    for argument in () if get_origin(bare) is Literal else arguments:
        yield from unreadable(argument, None, aliases)


def _alike(union: Any) -> Iterator[str]:
    for one, other in itertools.combinations(_members(union), 2):
        if _relation(one, other) is _Relation.ALIKE:
            yield _ALIKE.format(type_name(one), type_name(other))


def _bad_keys(hint: Any) -> Iterator[str]:
    members = [_bare(each) for each in _members(hint)]
    for member in members:
        if _shape(member) in {list, dict, object, type(None)} or not _is_text(member):
            yield _KEYS.format(type_name(member))
    if len({each for each in members if get_origin(each) is not Literal}) > 1:
        yield _KEYS.format(" or ".join(map(type_name, members)))


def _is_text(member: Any) -> bool:
    return get_origin(member) is not Literal or all(isinstance(each, str) for each in get_args(member))


def _bare(hint: Any) -> Any:
    """Return ``hint`` without what annotates and names it."""
    while True:
        if hasattr(hint, "__value__") and not get_args(hint):  # a `type` statement's
            hint = hint.__value__
        elif hasattr(hint, "__supertype__"):  # a NewType
            hint = hint.__supertype__
        elif get_origin(hint) is Annotated:
            hint = get_args(hint)[0]
        else:
            return hint


def _is_union(bare: Any) -> bool:
    return get_origin(bare) in {Union, types.UnionType}


def _members(hint: Any) -> list[Any]:
    """Return the members of a union, without those that have a serializer; of another type itself."""
    if any(hasattr(each, "when_used") for each in getattr(hint, "__metadata__", ())):
        return []
    bare = _bare(hint)
    return [member for each in get_args(bare) for member in _members(each)] if _is_union(bare) else [bare]


def _shape(bare: Any) -> Any:
    """Return what ``bare`` is in JSON: `str` for all scalars, `list`, `dict`, `object` for fields; or ``""``."""
    cls = get_origin(bare) or bare
    if not isinstance(cls, type):
        return str if cls is Literal else type(None) if cls is None else ""
    if hasattr(cls, "__pydantic_fields__") or dataclasses.is_dataclass(cls) or hasattr(cls, "__total__"):
        decorators = getattr(cls, "__pydantic_decorators__", None)
        return "" if decorators is not None and decorators.model_serializers else object
    if cls is type(None):
        return cls
    if issubclass(cls, (enum.Enum, *_NUMBERS, *_ANY_TEXT, *_OWN_TEXT)) or _is_url(cls):
        return str
    if issubclass(cls, abc.Mapping):
        return dict
    return list if issubclass(cls, abc.Collection) else ""


def _is_url(cls: type) -> bool:
    return any(each.__name__ in {"_BaseUrl", "_BaseMultiHostUrl"} for each in cls.__mro__)


def _relation(one: Any, other: Any) -> _Relation:
    one, other = _bare(one), _bare(other)
    if one == other:
        return _Relation.SAME
    if _is_union(one) or _is_union(other):
        pairs = {_relation(*each) for each in itertools.product(_members(one), _members(other))}
        return next((each for each in (_Relation.ALIKE, _Relation.SAME) if each in pairs), _Relation.APART)
    for root, second in ((one, other), (other, one)):
        if getattr(root, "__pydantic_root_model__", False):
            inner = _relation(root.model_fields["root"].annotation, second)
            return _Relation.APART if inner is _Relation.APART else _Relation.ALIKE
    shapes = {_shape(one), _shape(other)}
    if len(shapes) > 1 or "" in shapes:
        return _Relation.ALIKE if shapes == {dict, object} else _Relation.APART
    return {str: _of_scalars, object: _of_objects}.get(shapes.pop(), _of_collections)(one, other)


def _of_scalars(one: Any, other: Any) -> _Relation:
    first, second = _values(one), _values(other)
    if first is not None and second is not None:
        overlap = not set(map(repr, first)).isdisjoint(map(repr, second))
        are_literals = get_origin(one) is get_origin(other) is Literal
        return (_Relation.SAME if are_literals else _Relation.ALIKE) if overlap else _Relation.APART
    if first is not None:
        return _of_values(one, first, other)
    if second is not None:
        return _of_values(other, second, one)
    if issubclass(one, _NUMBERS) or issubclass(other, _NUMBERS):
        return _Relation.APART
    is_alike = issubclass(one, _ANY_TEXT) or issubclass(other, _ANY_TEXT) or (_is_url(one) and _is_url(other))
    if issubclass(one, _FROM_NUMBERS) and issubclass(other, _FROM_NUMBERS):
        is_alike = not (issubclass(one, dt.date) and issubclass(other, dt.date))
    return _Relation.ALIKE if is_alike else _Relation.APART


def _of_values(one: Any, values: list[Any], other: type) -> _Relation:
    takes: Any = str if issubclass(other, _ANY_TEXT) else (int, float)  # which dates are read from too
    is_plain = get_origin(one) is Literal and not any(isinstance(each, enum.Enum) for each in get_args(one))
    if (is_plain and other is not bool) or not any(isinstance(each, takes) for each in values):
        return _Relation.APART
    return _Relation.ALIKE


def _values(bare: Any) -> list[Any] | None:
    """Return the values that JSON has for an enum or a literal."""
    if get_origin(bare) is Literal:
        return [each.value if isinstance(each, enum.Enum) else each for each in get_args(bare)]
    return [each.value for each in bare] if issubclass(bare, enum.Enum) else None


def _of_collections(one: Any, other: Any) -> _Relation:
    origin, first, second = get_origin(one) or one, get_args(one), get_args(other)
    if origin is not (get_origin(other) or other):
        return _Relation.ALIKE
    if origin is tuple and len(first) != len(second) and ... not in first + second:
        return _Relation.APART
    found = {_relation(*each) for each in zip(first, second, strict=False) if ... not in each}
    if _Relation.APART in found:
        return _Relation.APART
    return _Relation.ALIKE if _Relation.ALIKE in found else _Relation.SAME


def _of_objects(one: Any, other: Any) -> _Relation:
    return _Relation.ALIKE if _reads(one, other) or _reads(other, one) else _Relation.APART


def _reads(cls: Any, other: Any) -> bool:
    """Tell whether ``cls`` may be made of what is written of ``other``. pydantic prefers what takes more of it."""
    known, sent = _sent(cls), _sent(other)
    if _extra(other) != "allow" and any(each.is_required and name not in sent for name, each in known.items()):
        return False
    is_closed = _extra(cls) == "forbid" or "allow" not in {_extra(cls), _extra(other)}
    if is_closed and any(each.is_always_sent and name not in known for name, each in sent.items()):
        return False
    shared = [name for name in known if name in sent and sent[name].is_always_sent]
    return not any(_are_scalars_apart(known[name].hint, sent[name].hint) for name in shared)


def _are_scalars_apart(one: Any, other: Any) -> bool:
    """Tell whether no value of the one is read as the other, even where the other is not asked for its own."""
    members = _members(one), _members(other)
    if any(_shape(each) is not str for each in (*members[0], *members[1])):
        return False
    are_numbers = all(any(each in _NUMBERS for each in side) for side in members)  # an int is read as a float
    return not are_numbers and _relation(one, other) is _Relation.APART


def _extra(cls: Any) -> Any:
    config = getattr(cls, "model_config", None) or getattr(cls, "__pydantic_config__", None) or {}
    return config.get("extra")


def _sent(cls: Any) -> dict[str, _Sent]:
    if "__pydantic_fields__" in vars(cls):
        fields = cls.__pydantic_fields__
        found = {
            each.serialization_alias or name: _Sent(each.annotation, each.is_required())
            for name, each in fields.items()
            if not each.exclude
        }
        return found | dict.fromkeys(cls.__pydantic_decorators__.computed_fields, _Sent(Any, False))
    hints = get_type_hints(cls)
    if dataclasses.is_dataclass(cls):
        empty = dataclasses.MISSING
        return {
            each.name: _Sent(hints[each.name], each.default is empty and each.default_factory is empty)
            for each in dataclasses.fields(cls)
        }
    return {
        name: _Sent(hint, name in cls.__required_keys__, name in cls.__required_keys__) for name, hint in hints.items()
    }
