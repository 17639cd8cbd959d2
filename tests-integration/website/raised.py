"""Which errors a function raises, by its own text and by that of the private functions that it calls."""

from __future__ import annotations

import ast
import builtins
import textwrap
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import griffe

CONSTRUCTORS = ("__new__", "__init__", "__post_init__")
NOT_FOR_CALLERS = {"AssertionError", "AttributeError", "NotImplementedError"}  # of Python's own protocols, and of us


@dataclass(frozen=True)
class Error:
    """A class of errors."""

    name: str
    ancestors: frozenset[str]  # its own name included

    def is_caught(self, names: Collection[str]) -> bool:
        """Tell whether ``except names`` catches it."""
        return not self.ancestors.isdisjoint(names)


class Raised:
    """
    Finds what functions raise, of built-in errors and of public ones.

    A private function or method that is called is looked into. What is caught on the way does not count. Not seen are
    errors that come out of a variable, of public functions, and of what other objects do.

    Args:
        public: The paths of all public names, where they are defined.
    """

    def __init__(self, public: Collection[str]) -> None:
        self._public = public

    def by(self, place: griffe.Object) -> set[str]:
        """Return the names of the errors of a function, a property, or of what makes an object of a class."""
        made = [place.members[name] for name in CONSTRUCTORS if name in place.members] if place.is_class else [place]
        seen: set[str] = set()
        return {error.name for each in made if each.lineno for error in self._of(target(each), seen)}

    def _of(self, caller: griffe.Object, seen: set[str]) -> Iterator[Error]:
        if caller.path in seen:
            return
        seen.add(caller.path)
        yield from self._in(ast.parse(textwrap.dedent(caller.source)), caller, seen)

    def _in(self, node: ast.AST, caller: griffe.Object, seen: set[str]) -> Iterator[Error]:
        match node:
            case ast.Try(body=body) | ast.TryStar(body=body):
                caught = {name for each in node.handlers for name in names_in(each.type)}
                yield from self._but_for(caught, body, caller, seen)
                yield from self._in_all([*node.handlers, *node.orelse, *node.finalbody], caller, seen)
                return
            case ast.With(body=body) if suppressed := set(suppressed_by(node)):
                yield from self._but_for(suppressed, body, caller, seen)
                return
            case ast.Raise(exc=ast.expr() as raised):
                yield from self._first(names_in(raised), caller)
            case ast.Call(func=called):
                yield from self._called(called, caller, seen)
        yield from self._in_all(ast.iter_child_nodes(node), caller, seen)

    def _in_all(self, nodes: Iterable[ast.AST], caller: griffe.Object, seen: set[str]) -> Iterator[Error]:
        for node in nodes:
            yield from self._in(node, caller, seen)

    def _but_for(
        self, caught: Collection[str], nodes: Iterable[ast.AST], caller: griffe.Object, seen: set[str]
    ) -> Iterator[Error]:
        # What is caught here may leave the same helper elsewhere, so that one is looked into again there.
        found = self._in_all(nodes, caller, set(seen))
        yield from (error for error in found if not error.is_caught(caught))

    def _first(self, names: Iterable[str], caller: griffe.Object) -> Iterator[Error]:
        """Yield the first of ``names`` that is an error to be told of: `raise refuse(KeyError(...))` raises that."""
        for name in names:
            found = find(name, caller)
            if isinstance(found, griffe.Class):
                if found.path in self._public:
                    yield Error(found.name, frozenset(ancestors(found)))
                return
            built_in = getattr(builtins, name, None)
            if isinstance(built_in, type) and issubclass(built_in, Exception):
                if name not in NOT_FOR_CALLERS:
                    yield Error(name, frozenset(each.__name__ for each in built_in.__mro__))
                return

    def _called(self, called: ast.expr, caller: griffe.Object, seen: set[str]) -> Iterator[Error]:
        match called:
            case ast.Name(id=name):
                found = find(name, caller)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name) if caller.parent and name.startswith("_"):
                member = caller.parent.members.get(name)
                found = target(member) if member else None
            case _:
                return
        if isinstance(found, griffe.Function) and found.path not in self._public:
            yield from self._of(found, seen)


def target(found: griffe.Object | griffe.Alias) -> griffe.Object:
    """Return what an imported name is where it is defined."""
    return found.final_target if isinstance(found, griffe.Alias) else found


def find(name: str, scope: griffe.Object) -> griffe.Object | None:
    """Return what a name means there, if that is known."""
    try:
        return target(scope.modules_collection[scope.resolve(name)])
    except (griffe.NameResolutionError, griffe.AliasResolutionError, KeyError):
        return None


def ancestors(error: griffe.Class) -> Iterator[str]:
    """Yield the names of a class and of all that it derives from."""
    yield error.name
    for base in error.bases:
        name = str(base)
        found = find(name, error)
        if isinstance(found, griffe.Class):
            yield from ancestors(found)
        else:
            yield from (each.__name__ for each in getattr(builtins, name, object).__mro__)


def names_in(node: ast.AST | None) -> Iterator[str]:
    """Yield the names in an expression, the outermost first; of a bare ``except``, what it catches."""
    if node is None:
        yield "BaseException"
        return
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            yield each.id


def suppressed_by(node: ast.With) -> Iterator[str]:
    """Yield the names of the errors that ``with suppress(...)`` suppresses."""
    for item in node.items:
        match item.context_expr:
            case ast.Call(func=ast.Name(id="suppress"), args=errors):
                for error in errors:
                    yield from names_in(error)
