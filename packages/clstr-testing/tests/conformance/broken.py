"""How a transport is broken: parts of its engine become a subclass with one fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

from clstr.spi import Engine, Limits
from clstr.spi._answers import Answers
from clstr.spi._dispatcher import Dispatcher
from clstr.spi._link_state import LinkState
from clstr.spi._pending import PendingReplies
from clstr.spi._receiver import Receiver
from clstr.spi._sender import Sender
from clstr.spi._subscriptions import Holders
from conformance.loopback import Hub, LoopbackLink, LoopbackSuite

C = TypeVar("C")
T = TypeVar("T", bound=type)

PARTS: dict[type, str] = {
    Answers: "answers",
    Dispatcher: "dispatcher",
    Holders: "holders",
    LinkState: "state",
    PendingReplies: "pending",
    Receiver: "_receiver",
    Sender: "_sender",
}
"""The attribute of the engine that holds each part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """
    A transport with one fault.

    Attributes:
        name: The class that has the fault; its docstring says which.
        label: The numbers of exactly those sentences of the contract that it breaks.
        faults: The faulty classes: of the link, of the engine, or of the engine's parts.
    """

    name: str
    label: frozenset[str]
    faults: tuple[type, ...]

    def new_engine(self, hub: Hub, limits: Limits) -> Engine:
        """Make an engine whose parts have the faults."""
        engine = self._of(Engine)(self._of(LoopbackLink)(hub), limits=limits)
        for fault in self.faults:
            for base, attribute in PARTS.items():
                if issubclass(fault, base):
                    getattr(engine, attribute).__class__ = fault
        return engine

    def _of(self, base: type[C]) -> type[C]:
        """Return the faulty class that stands for ``base``, or ``base`` itself."""
        return next((fault for fault in self.faults if issubclass(fault, base)), base)

    def suite(self) -> type[LoopbackSuite]:
        """Return the suite over this transport."""
        mutant = self

        class Suite(LoopbackSuite):
            def new_engine(self, limits: Limits) -> Engine:
                return mutant.new_engine(self.hub, limits)

        return Suite


_mutants: list[Mutant] = []


def mutants_of(module: ModuleType) -> list[Mutant]:
    """Return the mutants that ``module`` defines."""
    return [mutant for mutant in _mutants if mutant.faults[0].__module__ == module.__name__]


def breaks(*sentences: str, with_: tuple[type, ...] = ()) -> Callable[[T], T]:
    """Make a class a mutant that breaks exactly ``sentences``; ``with_`` are further parts that its fault needs."""

    def decorate(fault: T) -> T:
        _mutants.append(Mutant(name=fault.__name__, label=frozenset(sentences), faults=(fault, *with_)))
        return fault

    return decorate
