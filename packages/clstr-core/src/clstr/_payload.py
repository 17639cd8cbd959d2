"""
Payloads: typed values to JSON bytes and back.

msgspec knows its structs, dataclasses, attrs classes and the built-in types. pydantic models are recognised by their
methods, so that pydantic is never imported here; they are written by alias, as they are read.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar, overload

import msgspec

from clstr._message import MAX_TYPES, type_name
from clstr._unchecked import check_is_checked
from clstr.errors import InvalidEnvelopeError, InvalidReplyError

T = TypeVar("T")
Decoder = Callable[[bytes], Any]

# MsgspecError is malformed JSON or a wrong type, ValueError what pydantic, validators and UTF-8 say. Validators are
# user code, which may raise anything; of that the text is not repeated, since it may hold the value.
_EXPLAINED = (msgspec.MsgspecError, ValueError)
_NONE = type(None)
_VALUE = re.compile(r"^(Invalid (?:enum )?value) .*", re.DOTALL)  # msgspec's text for enums, literals and tags


def encode(message: object) -> bytes:
    """
    Return ``message`` as JSON.

    Args:
        message: A msgspec struct, dataclass, attrs object or pydantic model, or a value that msgspec encodes.

    Raises:
        TypeError: It, or something in it, has no encoding.
        ValueError: It is nested too deeply or within itself, or holds text that has no UTF-8.
    """
    cls: Any = type(message)
    try:
        return _writer(cls)(message)
    except RecursionError:
        raise ValueError(f"a {type_name(type(message))} cannot be encoded: nested too deeply, or in itself") from None


@overload
def decode_request(data: bytes, type_: type[T]) -> T: ...
@overload
def decode_request(data: bytes, type_: object) -> Any: ...
def decode_request(data: bytes, type_: Any) -> Any:
    """
    Return what a request's ``data`` says, as ``type_``.

    Raises:
        InvalidEnvelopeError: It does not fit; ``field`` is ``data`` and the path to it, as in ``data.user.id``.
        TypeError: ``type_`` is not a type that can be decoded.
    """
    decoder = _decoder(type_)
    try:
        return decoder(data)
    except Exception as error:
        path, reason = _explain(error)
        raise InvalidEnvelopeError(f"data{path}", f"is not a {type_name(type_)}: {reason}") from error


@overload
def decode_reply(data: bytes, type_: type[T]) -> T: ...
@overload
def decode_reply(data: bytes, type_: object) -> Any: ...
def decode_reply(data: bytes, type_: Any) -> Any:
    """
    Return what a reply says, as ``type_``.

    Args:
        data: JSON. An empty reply fits ``bytes``, which takes everything as it is, and ``None``.
        type_: Any type that msgspec knows, or a pydantic model. ``null`` is accepted if the type admits ``None``.

    Raises:
        InvalidReplyError: It does not fit.
        TypeError: ``type_`` is not a type that can be decoded; see `check_reply_type`.
    """
    if type_ is bytes or (type_ is _NONE and not data):
        return data if type_ is bytes else None
    decoder = _decoder(type_)
    if not data:
        raise InvalidReplyError(f"the reply is empty, expected a {type_name(type_)}: reply=bytes takes anything")
    try:
        return decoder(data)
    except Exception as error:
        path, reason = _explain(error)
        where = f" at {path.removeprefix('.')}" if path else ""
        raise InvalidReplyError(f"the reply is not a {type_name(type_)}: {reason}{where}") from error


def check_reply_type(type_: Any) -> None:
    """Raise `TypeError` unless replies can be decoded as ``type_``: to be asked before anything is sent."""
    _decoder(type_)


def _is_pydantic(cls: Any) -> bool:
    return hasattr(cls, "model_validate_json") and hasattr(cls, "model_dump_json")


def _dump(model: Any) -> bytes:
    text: str = model.model_dump_json(by_alias=True)
    return text.encode()


def _enc_hook(value: Any) -> Any:
    if _is_pydantic(type(value)):
        return msgspec.Raw(_dump(value))
    if isinstance(value, type):
        raise TypeError(f"{value.__qualname__} is a class: send an instance of it")
    raise TypeError(
        f"a {type_name(type(value))} has no encoding: make it a msgspec struct, dataclass, attrs class or pydantic "
        "model, or encode it yourself and send bytes with request_key, request_shard, notify_key or notify_shard"
    )


def _dec_hook(type_: Any, value: Any) -> Any:
    """Decode what msgspec does not know. Its errors become msgspec's, with the path to the value."""
    if not _is_pydantic(type_):
        raise TypeError(f"{type_name(type_)} has no decoding")
    try:
        # By way of JSON: models with strict fields take a date from JSON's text, but not from Python's.
        return type_.model_validate_json(_encoder.encode(value))
    except ValueError as error:
        path, reason = _explain(error)
        raise ValueError(f"{reason} at `{path}`" if path else reason) from error


_encoder = msgspec.json.Encoder(enc_hook=_enc_hook)


@functools.lru_cache(maxsize=MAX_TYPES)
def _writer(cls: Any) -> Callable[[Any], bytes]:
    return _dump if _is_pydantic(cls) else _encoder.encode


@functools.lru_cache(maxsize=MAX_TYPES)
def _decoder(type_: Any) -> Decoder:
    if _is_pydantic(type_):
        return type_.model_validate_json  # type: ignore[no-any-return]  # looked up by its name
    try:
        decoder = msgspec.json.Decoder(type_, dec_hook=_dec_hook)
    except NameError as error:
        raise TypeError(
            f"a field of {type_name(type_)} has a type that cannot be resolved ({error}): define that type at the top "
            "of its module, since names in quotes, or under `from __future__ import annotations`, are looked up there"
        ) from error
    if isinstance(msgspec.inspect.type_info(type_), msgspec.inspect.CustomType):
        raise TypeError(
            f"{type_name(type_)} has no decoding: use a msgspec struct, dataclass, attrs class, pydantic model or "
            "built-in type, or bytes for the reply as it is"
        )
    check_is_checked(type_, type_name(type_))
    return decoder.decode


def _explain(error: Any) -> tuple[str, str]:
    """Return the path to what does not fit, as ``.user.id``, and the reason, which repeats no value: it is logged."""
    if hasattr(error, "errors"):  # pydantic's own text repeats its input
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return "".join(f".{part}" for part in first["loc"]), first["msg"]
    if isinstance(error, RecursionError):
        return "", "nested too deeply"
    if not isinstance(error, _EXPLAINED):
        return "", f"its validation raised {type(error).__name__}"
    reason, _, path = str(error).partition(" - at `$")
    return path.removesuffix("`"), _VALUE.sub(r"\1", reason)
