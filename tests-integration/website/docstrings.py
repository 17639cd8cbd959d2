"""What docstrings owe their readers: words for every name, a unit for every quantity, every error that is raised."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import griffe

from website.raised import Raised, target

QUANTITY = re.compile(r"(int|float)( \| None)?")
IDENTITIES = {
    "api",
    "family",
    "level",
    "order",
    "pid",
    "port",
    "shard",
    "target_port",
    "token",
}  # numbers that say which, not how much
MEASURE = re.compile(r"\b((micro|milli)?seconds?|bytes?|probability)\b", re.IGNORECASE)
COUNT = re.compile(r"\b(how|so) many\b|\bnumber of\b|^\w{4,}s\b", re.IGNORECASE)  # or what is counted comes first
NUMBER = re.compile(r"[\d_.*+ -]+")


def load(packages: Iterable[str], sources: Iterable[Path]) -> dict[str, griffe.Module]:
    """Read packages without importing them, and return their public modules."""
    loader = griffe.GriffeLoader(search_paths=[str(each) for each in sources], docstring_parser=griffe.Parser.google)
    tops = [target(loader.load(package)) for package in packages]
    loader.resolve_aliases(implicit=True)
    return {module.path: module for top in tops if isinstance(top, griffe.Module) for module in modules(top)}


def modules(module: griffe.Module) -> Iterator[griffe.Module]:
    """Yield a module and those in it whose names are public."""
    yield module
    for name, each in module.modules.items():
        if not name.startswith("_") and not each.is_alias:
            yield from modules(each)


def faults(public: dict[str, griffe.Module]) -> list[str]:
    """Return what is missing in the docstrings of public modules, a line each."""
    names = {name.path: name for module in public.values() for name in exported(module)}
    reader = Reader(Raised(names.keys()))
    lines = [line for name in (*public.values(), *names.values()) for line in reader.faults(name)]
    return sorted(set(lines))


def exported(module: griffe.Module) -> Iterator[griffe.Object]:
    """Yield what ``__all__`` names, where it is defined."""
    for name in module.exports or ():
        yield target(module.members[str(name)])


@dataclass(frozen=True)
class Words:
    """A docstring, read; none is empty."""

    docstring: griffe.Docstring | None

    @property
    def text(self) -> str:
        """All of it."""
        return self.docstring.value if self.docstring else ""

    @cached_property
    def entries(self) -> dict[str, str]:
        """What stands at each name in ``Args:`` and ``Attributes:``."""
        kinds = (griffe.DocstringSectionParameters, griffe.DocstringSectionAttributes)
        sections = [section.value for section in self._sections if isinstance(section, kinds)]
        return {each.name.strip("*"): each.description for section in sections for each in section}

    @cached_property
    def errors(self) -> set[str]:
        """The names in ``Raises:``."""
        sections = [section.value for section in self._sections if isinstance(section, griffe.DocstringSectionRaises)]
        return {name for section in sections for each in section for name in re.findall(r"\w+", str(each.annotation))}

    def about(self, name: str) -> str:
        """Return the entry of a name, or else the sentences that mention it."""
        sentences = re.split(r"(?<=[.:;])\s+", self.text)
        return self.entries.get(name) or " ".join(each for each in sentences if f"``{name}``" in each)

    @cached_property
    def _sections(self) -> list[griffe.DocstringSection]:
        return self.docstring.parse(warnings=False) if self.docstring else []


class Reader:
    """Reads the docstrings of names and of what is in them."""

    def __init__(self, raised: Raised) -> None:
        self._raised = raised

    def faults(self, name: griffe.Object) -> Iterator[str]:
        """Say what is missing."""
        words = Words(name.docstring)
        if not words.text:
            yield f"{name.path} has no docstring"
        match name:
            case griffe.Module(exports=None):
                yield f"{name.path} has no __all__"
            case griffe.Function():
                yield from self._function(name, words)
            case griffe.Class():
                yield from self._class(name, words)
            case griffe.Attribute() if name.parent and name.parent.is_class and "property" in name.labels:
                yield from self._errors(name, words)
                yield from quantity(name, name.name, name.annotation, words.text)

    def _function(self, function: griffe.Function, words: Words) -> Iterator[str]:
        yield from self._parameters(function, words)
        yield from self._errors(function, words)
        if str(function.returns).startswith("float"):
            yield from quantity(function, "its result", function.returns, words.text)

    def _class(self, owner: griffe.Class, words: Words) -> Iterator[str]:
        yield from self._errors(owner, words)
        if "__init__" in owner.members:
            yield from self._parameters(target(owner.members["__init__"]), words)
        bases = [Words(base.docstring) for base in owner.mro()]
        for name, member in owner.members.items():
            if name.startswith("_") or member.is_alias or member.is_type_alias:
                continue
            if isinstance(member, griffe.Attribute) and "property" not in member.labels:
                yield from self._attribute(member, [words, *bases])
            else:
                yield from self.faults(target(member))

    def _attribute(self, attribute: griffe.Attribute, classes: list[Words]) -> Iterator[str]:
        own = Words(attribute.docstring).text
        described = own or next(filter(None, (words.entries.get(attribute.name) for words in classes)), "")
        if not described:
            yield f"{attribute.path} has no docstring, and its class none for it"
        default = attribute.value if "class-attribute" in attribute.labels else None
        yield from quantity(attribute, attribute.name, attribute.annotation, described, default)

    def _parameters(self, function: griffe.Object, words: Words) -> Iterator[str]:
        place = function.parent if function.name == "__init__" and function.parent else function
        for each in function.parameters if isinstance(function, griffe.Function) else ():
            if not each.name.startswith("_"):
                yield from quantity(place, each.name, each.annotation, words.about(each.name), each.default)

    def _errors(self, place: griffe.Object, words: Words) -> Iterator[str]:
        for error in self._raised.by(place):
            if error not in words.errors:
                yield f"{place.path} raises {error}, and does not say so"


def quantity(place: griffe.Object, name: str, annotation: object, words: str, default: object = None) -> Iterator[str]:
    """Say what is missing in the words about a number."""
    if not QUANTITY.fullmatch(str(annotation)) or name in IDENTITIES:
        return
    if not MEASURE.search(words) and not (str(annotation).startswith("int") and COUNT.search(words)):
        yield f"{place.path}: {name} has no unit"
    if default is not None and not NUMBER.fullmatch(str(default)) and not re.search(r"``None``|\bdefault\b", words):
        yield f"{place.path}: {name} is {default} if it is left out, and nothing says what that means"
