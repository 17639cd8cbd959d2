"""What a message's class says about it: its name on the wire, and the type of its reply."""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from clstr._messages.envelope import has_control_characters

R_co = TypeVar("R_co", covariant=True)
MAX_TYPES = 1024  # remembered; a program's types are few, and those that it makes as it runs must not pile up


class Message(Generic[R_co]):
    """
    A mixin that names the type of a message's reply, for type checkers and at run time.

        class GetUser(msgspec.Struct, clstr.Message[User]):
            id: str

    So ``await client.key("a").request(GetUser("1"))`` is a ``User``. It adds nothing to the instances, and works with
    msgspec structs, dataclasses, attrs classes and pydantic models (``BaseModel`` comes first among their bases).

    The message's name on the wire is the class's name, or the class attribute ``message_type`` (annotate it as a
    ``ClassVar``), or what a class method of that name returns. To meet a Go type, give its full name:
    ``message_type: ClassVar[str] = "example.com/acme/users.GetUser"``.
    """

    __slots__ = ()


def message_type(message: object) -> str:
    """
    Return the name that ``message``, an object or a class, has on the wire.

    Go: ``getMessageType``. It is looked up on the class: ``message_type`` (a ``str``, a class method or a
    static method), else the class's own name.

    Raises:
        TypeError: ``message_type`` is something else, or the class is one of Python's own and has no name to go by.
        ValueError: The name is empty or holds control characters.
    """
    return _wire_name(message if isinstance(message, type) else type(message))


@functools.lru_cache(maxsize=MAX_TYPES)
def _wire_name(cls: type) -> str:
    name = _declared_name(cls)
    if not isinstance(name, str):
        raise TypeError(f"message_type of {cls.__qualname__} must be a str, not {name!r}")
    if not name or has_control_characters(name):
        raise ValueError(f"message_type of {cls.__qualname__} must be printable and not empty, not {name!r}")
    return name


def _declared_name(cls: type) -> object:
    declared = inspect.getattr_static(cls, "message_type", None)
    if isinstance(declared, (classmethod, staticmethod)):
        return cls.message_type()  # type: ignore[attr-defined]  # found on the class just now
    if isinstance(declared, types.FunctionType) or inspect.isdatadescriptor(declared):
        raise TypeError(
            f"message_type of {cls.__qualname__} belongs to its instances, but is looked up on the class: "
            "make it a ClassVar[str] or a class method; a field that only happens to be called so needs another name"
        )
    if declared is None and cls.__module__ == "builtins":
        raise TypeError(
            f"a {cls.__name__} is no message, for it has no name on the wire: send a msgspec struct, dataclass, "
            "attrs class or pydantic model, or name the type with request_key, request_shard, notify_key, notify_shard"
        )
    return cls.__name__ if declared is None else declared


def reply_type(message: object) -> Any | None:
    """
    Return the ``R`` of the `Message` that ``message``, an object or a class, derives from; ``None`` if it names none.

    Inherited and generic bases count: with ``class Sub(Base[User])`` and ``class Base(Message[T], Generic[T])`` it is
    ``User``. A name in quotes is looked up in the module of the class that wrote it.

    Returns:
        Any type that an annotation may be; ``NoneType`` for ``Message[None]``.

    Raises:
        TypeError: A name in quotes cannot be resolved.
    """
    cls: Any = message if isinstance(message, type) else type(message)
    return _resolved_reply_type(cls) if issubclass(cls, Message) else None


@functools.lru_cache(maxsize=MAX_TYPES)
def _resolved_reply_type(cls: type) -> Any | None:
    reply = _argument_of_message(cls, {})
    return None if getattr(reply, "__parameters__", ()) or isinstance(reply, TypeVar) else reply


def _argument_of_message(cls: type, bound: dict[Any, Any]) -> Any | None:
    """Return what ``cls`` gives `Message`, with the type variables in ``bound`` replaced."""
    for base in _generic_bases(cls):
        origin, arguments = _parametrisation(base)
        if not isinstance(origin, type) or not issubclass(origin, Message):
            continue
        given = [_substitute(_resolve(argument, cls), bound) for argument in arguments]
        if origin is Message:
            return given[0] if given else None
        return _argument_of_message(origin, dict(zip(_parameters(origin), given, strict=False)))
    return None


def _generic_bases(cls: type) -> Iterable[Any]:
    """Return the bases of ``cls`` as it wrote them; what it inherited under the same name is another class's."""
    if _pydantic_origin(cls) is not None:
        return (cls,)  # pydantic makes a class of `Base[User]`, whose base is `Base`
    return cls.__dict__.get("__orig_bases__", cls.__bases__)  # type: ignore[no-any-return]  # set by Python itself


def _parametrisation(base: Any) -> tuple[Any, tuple[Any, ...]]:
    """Split ``Base[User]`` into ``Base`` and ``(User,)``."""
    metadata = _pydantic_origin(base)
    if metadata is not None:
        return metadata["origin"], metadata["args"]
    return typing.get_origin(base) or base, typing.get_args(base)


def _pydantic_origin(base: Any) -> dict[str, Any] | None:
    metadata: dict[str, Any] = getattr(base, "__dict__", {}).get("__pydantic_generic_metadata__", {})
    return metadata if metadata.get("origin") is not None else None


def _parameters(cls: Any) -> tuple[Any, ...]:
    metadata = cls.__dict__.get("__pydantic_generic_metadata__")
    parameters: tuple[Any, ...] = metadata["parameters"] if metadata else getattr(cls, "__parameters__", ())
    return parameters


def _substitute(hint: Any, bound: dict[Any, Any]) -> Any:
    if isinstance(hint, TypeVar):
        return bound.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    if not parameters or isinstance(hint, type):
        return hint
    return hint[tuple(bound.get(parameter, parameter) for parameter in parameters)]


def _resolve(hint: Any, cls: type) -> Any:
    """Return ``hint`` with the names in quotes replaced by what they mean in the module of ``cls``."""
    holder = types.SimpleNamespace(__annotations__={"reply": hint})
    module = sys.modules.get(cls.__module__)
    try:
        # A dict of its own for local names: with the module's alone, typing would remember, in an object that modules
        # share, what the name meant to the first of them.
        hints = typing.get_type_hints(holder, vars(module) if module else {}, {cls.__name__: cls}, include_extras=True)
    except Exception as error:  # a name in quotes is a program: anything may come of it
        raise TypeError(
            f"the reply type {hint} of {cls.__qualname__} cannot be resolved ({error}): define it at the top of "
            f"module {cls.__module__}, or give the request a reply=..."
        ) from error
    return hints["reply"]


def type_name(type_: Any) -> str:
    """Return how error messages call a type."""
    return type_.__qualname__ if isinstance(type_, type) else str(type_)
