"""
pydantic models as messages: JSON, and the fields that would not come back as they went.

Models are recognised by their methods, so that pydantic is never imported here. They are written by alias, as they are
read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from clstr._messages.message import type_name
from clstr._messages.pydantic_unions import unreadable

Lost = tuple[str, str]  # the path of a field, as `.user.id`, and why it is refused

_ASTERISKS = (
    "is a {}, which is sent as asterisks: make it a str with repr=False, or send its value by a field_serializer"
)
_JSON = "is a pydantic.Json, which is read from a text but sent as the value in it: use the type of the value"
_PRIVATE = (
    "is a private attribute of a pydantic model, which is not sent: make it a field, with a default and exclude=True "
    "if it is no part of the message"
)
_BYTES = "holds bytes that are sent as {} but read as {}: give ser_json_bytes and val_json_bytes the same value"


def is_model(cls: Any) -> bool:
    """Tell whether ``cls`` is a class of pydantic models."""
    return hasattr(cls, "model_validate_json") and hasattr(cls, "model_dump_json")


def dump(model: Any) -> bytes:
    """Return ``model`` as JSON."""
    text: str = model.model_dump_json(by_alias=True)
    return text.encode()


def tree(model: Any) -> Any:
    """Return what `dump` writes in dicts, lists and scalars, but for floats that JSON has no number for."""
    return model.model_dump(mode="json", by_alias=True, warnings=False)  # `dump` has warned


def lost_in_model(cls: Any, path: str = "") -> Iterator[Lost]:
    """
    Yield the fields of ``cls``, a class of models, that pydantic would not read as it writes them.

    A field with a serializer, and all of a model with one, is as its author decided.

    Raises:
        NameError: The type of a field cannot be resolved.
    """
    cls.model_rebuild()  # resolves what was not known when the class was made
    return _lost(cls, path, {}, set())


def _lost(hint: Any, path: str, config: Mapping[str, Any], seen: set[Any]) -> Iterator[Lost]:
    """Yield what is lost in values of ``hint``, which stands in a model of this ``config``."""
    for part in _parts(hint):
        if hasattr(part, "get_secret_value") and not _has_encoder(part, config):
            yield path, _ASTERISKS.format(type_name(part))
        elif _is_json(part):
            yield path, _JSON
        elif part is bytes and _bytes(config, "ser") != _bytes(config, "val"):
            yield path, _BYTES.format(_bytes(config, "ser"), _bytes(config, "val"))
        elif part not in seen:
            seen.add(part)
            yield from _lost_in_fields(part, path, config, seen)


def _lost_in_fields(cls: Any, path: str, config: Mapping[str, Any], seen: set[Any]) -> Iterator[Lost]:
    fields = _fields(cls)
    config = getattr(cls, "model_config", None) or getattr(cls, "__pydantic_config__", None) or config
    decorators = getattr(cls, "__pydantic_decorators__", None)
    if decorators is not None and decorators.model_serializers:
        return
    yield from ((f"{path}.{name}", _PRIVATE) for name in getattr(cls, "__private_attributes__", ()))
    serialized = _serialized(decorators)
    for name, field in fields.items():
        inner = f"{path}.{name}"
        yield from _lost_alias(name, field, inner, config)
        if serialized.isdisjoint((name, "*")):
            hint = _annotation(field)
            yield from _lost(hint, inner, config, seen)
            yield from ((inner, reason) for reason in unreadable(hint, getattr(field, "discriminator", None)))
    for name in decorators.computed_fields if decorators is not None and config.get("extra") == "forbid" else ():
        yield f"{path}.{name}", "is computed and sent, but extra='forbid' refuses it where it is read"


def _fields(cls: Any) -> Mapping[str, Any]:
    """Return the fields of a model or a pydantic dataclass; of other classes the hints."""
    if is_model(cls):
        return cls.model_fields  # type: ignore[no-any-return]  # looked up by its name
    if "__pydantic_fields__" in vars(cls):
        return cls.__pydantic_fields__  # type: ignore[no-any-return]  # the same
    if dataclasses.is_dataclass(cls) or hasattr(cls, "__total__") or hasattr(cls, "_field_defaults"):
        return get_type_hints(cls, include_extras=True)
    return {}


def _annotation(field: Any) -> Any:
    metadata = getattr(field, "metadata", None)
    hint = getattr(field, "annotation", field)
    return Annotated[(hint, *metadata)] if metadata else hint


def _serialized(decorators: Any) -> set[str]:
    """Return the names of the fields that have a serializer."""
    found = decorators.field_serializers.values() if decorators is not None else ()
    return {name for each in found for name in each.info.fields}


def _parts(hint: Any, aliases: tuple[Any, ...] = ()) -> Iterator[type]:
    """Yield the classes that ``hint`` is made of, but for those with a serializer of their own."""
    if hasattr(hint, "__value__"):  # a `type` statement's, which may hold itself
        if hint not in aliases:
            yield from _parts(hint.__value__, (*aliases, hint))
        return
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if any(hasattr(each, "when_used") for each in arguments[1:]):  # a serializer
            return
        yield from (type(each) for each in arguments[1:] if _is_json(type(each)))  # what `Json[int]` is made of
        arguments = arguments[:1]
    elif isinstance(origin or hint, type):
        yield origin or hint
    for argument in arguments:
        yield from _parts(argument, aliases)


def _is_json(cls: type) -> bool:
    return cls.__name__ == "Json" and cls.__module__ == "pydantic.types"


def _has_encoder(cls: type, config: Mapping[str, Any]) -> bool:
    return any(issubclass(cls, each) for each in config.get("json_encoders") or ())


def _bytes(config: Mapping[str, Any], direction: str) -> Any:
    return config.get(f"{direction}_json_bytes", "utf8")


def _lost_alias(name: str, field: Any, path: str, config: Mapping[str, Any]) -> Iterator[Lost]:
    if not hasattr(field, "serialization_alias"):  # a plain hint
        return
    if field.exclude:
        if field.is_required():
            yield path, "is never sent (exclude=True), but required where it is read: give it a default"
        return
    written, read = field.serialization_alias or name, _names_read(name, field, config)
    if written not in read:
        names = " or ".join(map(repr, sorted(read))) or "a part of another field"
        yield path, f"is sent as {written!r} but read as {names}: give it an alias=... that serves both"


def _names_read(name: str, field: Any, config: Mapping[str, Any]) -> set[str]:
    alias = field.validation_alias
    if alias is None:
        return {name}
    by_name = config.get("validate_by_name") or config.get("populate_by_name")
    choices = getattr(alias, "choices", [alias]) if config.get("validate_by_alias", True) else []
    paths = [[choice] if isinstance(choice, str) else choice.path for choice in choices]
    return {path[0] for path in paths if len(path) == 1 and isinstance(path[0], str)} | ({name} if by_name else set())
