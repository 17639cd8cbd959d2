"""
Payloads: typed values to JSON bytes and back.

msgspec knows its structs, dataclasses, attrs classes and the built-in types; pydantic models know themselves.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar, overload

import msgspec

from clstr._messages.finite import check_finite
from clstr._messages.message import MAX_TYPES, type_name
from clstr._messages.nesting import CHECKED_BYTES, check_nesting
from clstr._messages.pydantic_models import dump, is_model, lost_in_model, tree
from clstr._messages.round_trip import check_is_decodable, check_nothing_is_lost, in_field, is_checked_when_sent
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
        TypeError: It, or something in it, has no encoding, or a field that would not come back as it went.
        ValueError: It is nested more than 200 levels deep or within itself, or holds text that has no UTF-8, or a float
            that JSON has no number for.
    """
    cls: Any = type(message)
    try:
        return _writer(cls)(message)
    except RecursionError:
        raise ValueError(f"a {type_name(cls)} cannot be encoded: nested too deeply, or in itself") from None


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
        if len(data) > CHECKED_BYTES:
            check_nesting(data)
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
        if len(data) > CHECKED_BYTES:
            check_nesting(data)
        return decoder(data)
    except Exception as error:
        path, reason = _explain(error)
        where = f" at {path.removeprefix('.')}" if path else ""
        raise InvalidReplyError(f"the reply is not a {type_name(type_)}: {reason}{where}") from error


def check_reply_type(type_: Any) -> None:
    """Raise `TypeError` unless replies can be decoded as ``type_``: to be asked before anything is sent."""
    _decoder(type_)


def _enc_hook(value: Any) -> Any:
    cls: Any = type(value)
    if is_model(cls):
        _check_model(cls)
        return msgspec.Raw(dump(value))
    if isinstance(value, type):
        raise TypeError(f"{value.__qualname__} is a class: send an instance of it")
    raise TypeError(
        f"a {type_name(type(value))} has no encoding: make it a msgspec struct, dataclass, attrs class or pydantic "
        "model, or encode it yourself and send bytes with request_key, request_shard, notify_key or notify_shard"
    )


def _dec_hook(type_: Any, value: Any) -> Any:
    """Decode a model, the only type that msgspec does not know. Its errors become msgspec's, with the path."""
    try:
        # By way of JSON: models with strict fields take a date from JSON's text, but not from Python's.
        return type_.model_validate_json(_encoder.encode(value))
    except ValueError as error:
        path, reason = _explain(error)
        raise ValueError(f"{reason} at `{path}`" if path else reason) from error


_encoder = msgspec.json.Encoder(enc_hook=_enc_hook)


def _check_nesting(data: bytes, cls: type) -> None:
    try:
        check_nesting(data)
    except ValueError as error:
        raise ValueError(f"a {type_name(cls)} cannot be encoded: {error}") from None


def _encode_checked(message: object) -> bytes:
    data = _encoder.encode(message)
    if len(data) > CHECKED_BYTES:
        _check_nesting(data, type(message))
    if b"null" in data:
        check_finite(msgspec.to_builtins(message, str_keys=True, enc_hook=tree), data, type_name(type(message)))
    return data


def _encode_model(model: Any) -> bytes:
    data = dump(model)
    if len(data) > CHECKED_BYTES:
        _check_nesting(data, type(model))
    if b"null" in data:
        check_finite(tree(model), data, type_name(type(model)))
    return data


@functools.lru_cache(maxsize=MAX_TYPES)
def _writer(cls: Any) -> Callable[[Any], bytes]:
    """Return what encodes instances of ``cls``, whose fields are looked at here, once."""
    if is_model(cls):
        _check_model(cls)
        return _encode_model
    try:
        info = msgspec.inspect.type_info(cls)
    except Exception:  # noqa: BLE001 -- annotations are programs; what need not be decoded here need not make sense here
        return _encode_checked
    check_nothing_is_lost(info, type_name(cls))
    return _encode_checked if is_checked_when_sent(info) else _encoder.encode


@functools.lru_cache(maxsize=MAX_TYPES)
def _check_model(cls: Any) -> None:
    """Raise `TypeError` if a field of ``cls``, a class of pydantic models, would not come back as it went."""
    for path, reason in lost_in_model(cls):
        raise TypeError(f"{in_field(path, type_name(cls))} {reason}")


@functools.lru_cache(maxsize=MAX_TYPES)
def _decoder(type_: Any) -> Decoder:
    name = type_name(type_)
    try:
        if is_model(type_):
            _check_model(type_)
            return type_.model_validate_json  # type: ignore[no-any-return]  # looked up by its name
        decoder = msgspec.json.Decoder(type_, dec_hook=_dec_hook)
        info = msgspec.inspect.type_info(type_)
        check_nothing_is_lost(info, name)
    except NameError as error:
        reason = str(error).partition("\n")[0]  # pydantic adds an address
        raise TypeError(
            f"a field of {name} has a type that cannot be resolved ({reason}): define that type at the top of its "
            "module, since names in quotes, or under `from __future__ import annotations`, are looked up there"
        ) from error
    check_is_decodable(info, name)
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
