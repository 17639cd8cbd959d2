"""What a class of actors declares: its methods for messages and its periodic work, checked when the class is made."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterator
from typing import Any

from clstr._node.route import Route

_ASYNC = ("on_start", "on_stop")
_KEPT = ("routes", "timers")


class Declared(dict[str, Any]):
    """What clstr wrote into a class: decorators that make the class again, as of attrs, hand it in as its own."""


def mark_route(method: Any, type_: str, route: Route) -> None:
    """Note on ``method`` that it handles messages of ``type_``; a method may handle several."""
    marks = getattr(method, "clstr_routes", ())
    if type_ in dict(marks):
        raise TypeError(f"{method.__qualname__} handles {type_!r} twice")
    method.clstr_routes = (*marks, (type_, route))


def declared(cls: type) -> tuple[Declared, Declared]:
    """
    Return the routes of ``cls`` by type, and the seconds of its periodic work by method, those of its bases included.

    Raises:
        TypeError: It declares something that would never run, or not as it says.
    """
    _check_names(cls)
    methods: dict[str, tuple[str, Route]] = {}
    timers = Declared()
    for base in reversed(cls.__mro__):  # those of every base, not only of the first
        methods.update(_overrides(base, methods))
        methods.update(_own(base))
        timers.update({name: value.clstr_every for name, value in vars(base).items() if hasattr(value, "clstr_every")})
    return Declared({type_: route for type_, (_, route) in methods.items()}), timers


def _check_names(cls: type) -> None:
    for name, value in vars(cls).items():
        where = f"{cls.__name__}.{name}"
        if name in _KEPT and not isinstance(value, Declared):
            raise TypeError(f"{where} is where clstr keeps what the class declares: call yours something else")
        if name in _ASYNC and not inspect.iscoroutinefunction(value):
            raise TypeError(f"{where} must be an async method: write `async def`")
        if name == "on_error" and inspect.iscoroutinefunction(value):
            raise TypeError(f"{where} must not be async: it decides at once")
        if not _is_marked(value) and any(map(_is_marked, _inner(value))):
            raise TypeError(
                f"{where} handles nothing: a decorator above @handles or @every hides the method that is marked. Put "
                "the decorator below, or let it use functools.wraps"
            )


def _is_marked(value: object) -> bool:
    return inspect.isroutine(value) and (hasattr(value, "clstr_routes") or hasattr(value, "clstr_every"))


def _inner(value: Any) -> Iterator[object]:
    """Yield what a decorator may have hidden in ``value``."""
    for cell in getattr(value, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # an empty cell
            continue
    if isinstance(value, functools.partial | functools.partialmethod):
        yield value.func
    elif not isinstance(value, type):
        yield from getattr(value, "__dict__", {}).values()


def _own(cls: type) -> dict[str, tuple[str, Route]]:
    own: dict[str, tuple[str, Route]] = {}
    for name, value in vars(cls).items():
        for type_, route in getattr(value, "clstr_routes", ()):
            if type_ in own:
                raise TypeError(f"{cls.__name__}.{name} handles {type_!r}, which another method of it handles already")
            # What stands in the class: decorators above the mark run too.
            own[type_] = name, _handled_by(cls, name, value, type_, route)
    return own


def _overrides(cls: type, methods: dict[str, tuple[str, Route]]) -> dict[str, tuple[str, Route]]:
    """Return the routes of its bases whose methods ``cls`` has again, without saying anew what they handle."""
    return {
        type_: (name, _handled_by(cls, name, vars(cls)[name], type_, route))
        for type_, (name, route) in methods.items()
        if name in vars(cls) and not hasattr(vars(cls)[name], "clstr_routes")
    }


def _handled_by(cls: type, name: str, method: Any, type_: str, route: Route) -> Route:
    if not inspect.iscoroutinefunction(method):
        raise TypeError(f"{cls.__name__}.{name} handles {type_!r}: it must be an async method")
    return dataclasses.replace(route, handler=method)
