"""What annotations say of values, as far as that can be known without running anything."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, NewType, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

_ = TypedDict  # what `is_typeddict` recognises


def annotation(function: Callable[..., Any], name: str) -> Any:
    """
    Return the annotation of a parameter of ``function``, or of ``"return"``.

    Returns:
        ``inspect.Parameter.empty`` if there is none, or it cannot be resolved here; ``NoneType`` for ``None``.
    """
    inner: Any = inspect.unwrap(function)
    hints: Any = getattr(inner, "__annotations__", {})
    if name not in hints:
        return inspect.Parameter.empty
    holder = types.SimpleNamespace(__annotations__={name: hints[name]})
    try:
        return get_type_hints(holder, inner.__globals__)[name]
    except Exception:  # noqa: BLE001 -- a hint is a program, often for type checkers alone: anything may come of it
        return inspect.Parameter.empty


def classes_of(hint: Any) -> tuple[type, ...] | None:
    """Return the classes one of which each value of ``hint`` has, or ``None`` if that is not known."""
    origin = get_origin(hint)
    if origin is Annotated:
        return classes_of(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        arms = [classes_of(arm) for arm in get_args(hint)]
        return None if None in arms else tuple(each for arm in arms if arm is not None for each in arm)
    if isinstance(hint, NewType):
        return classes_of(hint.__supertype__)
    return _classes_of_one(hint if origin is None else origin)


def _classes_of_one(hint: Any) -> tuple[type, ...] | None:
    if hint is None:
        return (type(None),)
    if is_typeddict(hint):
        return (dict,)
    if not isinstance(hint, type) or hint in (Any, object) or getattr(hint, "_is_protocol", False):
        return None
    return (float, int) if hint is float else (hint,)


def is_never(returned: Any, expected: Any) -> bool:
    """
    Tell whether no value that is annotated as ``returned`` is an ``expected``, or whether some arm of it is none.

    A dict may become any object of JSON; what is not known is left to type checkers.
    """
    given, wanted = classes_of(returned), classes_of(expected)
    if returned is inspect.Parameter.empty or given is None or wanted is None:
        return False
    return not all(any(_are_related(each, other) for other in wanted) for each in given)


def _are_related(one: type, other: type) -> bool:
    try:
        return issubclass(one, dict) or issubclass(one, other) or issubclass(other, one)
    except TypeError:
        return True


def is_awaitable_hint(hint: Any) -> bool:
    """Tell whether ``hint`` may be something to await; what is not known may be."""
    classes = classes_of(hint)
    return classes is None or any(hasattr(each, "__await__") for each in classes)


_NO_HINT = typing.cast("Any", inspect.Parameter.empty)


def check_async(handler: Any, what: str) -> None:
    """
    Raise `TypeError` if ``handler`` is a plain function that says that it returns nothing to await.

    A plain function that says nothing may return what another one made; it is checked when it runs.
    """
    if not (inspect.isfunction(handler) or inspect.ismethod(handler)) or inspect.iscoroutinefunction(handler):
        return
    returned = annotation(handler, "return")
    says_so = returned is not _NO_HINT and not is_awaitable_hint(returned)
    if says_so or inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise TypeError(f"{what} must be async, not {handler.__qualname__}: write `async def`")
