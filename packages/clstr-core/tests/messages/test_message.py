"""`clstr._messages.message`: names on the wire and types of replies."""

from __future__ import annotations

import dataclasses
import types
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import attrs
import msgspec
import pydantic
import pytest

from clstr._messages.message import (
    MAX_TYPES,
    Message,
    _resolved_reply_type,
    _wire_name,
    message_type,
    reply_type,
    type_name,
)

T = TypeVar("T")
S = TypeVar("S")


class User(msgspec.Struct):
    id: str


class PydanticUser(pydantic.BaseModel):
    id: str


class StructMessage(msgspec.Struct, Message[User]):
    id: str


@dataclasses.dataclass(slots=True)
class DataclassMessage(Message[User]):
    id: str


@attrs.frozen
class AttrsMessage(Message[User]):
    id: str


class PydanticMessage(pydantic.BaseModel, Message[User]):
    id: str


class Base(msgspec.Struct, Message[T], Generic[T]):
    id: str


class Inherits(StructMessage):
    pass


class GivesUser(Base[User]):
    pass


class InheritsGeneric(GivesUser):
    pass


class Swapped(Base[S], Generic[T, S]):
    pass


class GivesSecond(Swapped[int, User]):
    pass


class ListBase(msgspec.Struct, Message[list[T]], Generic[T]):
    pass


class GivesList(ListBase[User]):
    pass


class Undecided(Base[T]):
    pass


class PydanticBase(pydantic.BaseModel, Message[T], Generic[T]):
    id: str


class GivesPydantic(PydanticBase[PydanticUser]):
    pass


class Quoted(msgspec.Struct, Message["User"]):
    pass


class QuotedInside(msgspec.Struct, Message[list["User"]]):
    pass


class QuotedUnion(msgspec.Struct, Message["User | None"]):
    pass


class QuotedParameter(Base["User"]):
    pass


class Myself(msgspec.Struct, Message["Myself"]):
    pass


class Unresolvable(msgspec.Struct, Message["Nowhere"]):  # type: ignore[name-defined]  # the case
    pass


class Nothing(msgspec.Struct, Message[None]):
    pass


class Anything(msgspec.Struct, Message[Any]):
    pass


class Short(msgspec.Struct, Message[Annotated[str, msgspec.Meta(max_length=3)]]):
    pass


class Bare(msgspec.Struct, Message):  # type: ignore[type-arg]  # the case
    pass


class Second(msgspec.Struct, Generic[T]):
    pass


class Both(Second[int], Message[User]):
    pass


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (StructMessage, User),
        (DataclassMessage, User),
        (AttrsMessage, User),
        (PydanticMessage, User),
        (Inherits, User),
        (GivesUser, User),
        (InheritsGeneric, User),
        (GivesSecond, User),
        (GivesList, list[User]),
        (Undecided, None),
        (ListBase, None),
        (GivesPydantic, PydanticUser),
        (PydanticBase[PydanticUser], PydanticUser),
        (PydanticBase, None),
        (Quoted, User),
        (QuotedInside, list[User]),
        (QuotedUnion, User | None),
        (QuotedParameter, User),
        (Myself, Myself),
        (Nothing, type(None)),
        (Anything, Any),
        (Short, Annotated[str, msgspec.Meta(max_length=3)]),
        (Bare, None),
        (Both, User),
        (Message, None),
        (User, None),
        (int, None),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) and value is not type(None) else str(value),
)
def test_the_reply_type_is_what_the_class_gave_message(cls: type, expected: object) -> None:
    assert reply_type(cls) == expected


@pytest.mark.parametrize(
    "message", [StructMessage("1"), DataclassMessage("1"), AttrsMessage("1"), PydanticMessage(id="1")]
)
def test_objects_have_the_reply_type_of_their_class(message: object) -> None:
    assert reply_type(message) is User


def test_a_name_that_cannot_be_resolved_is_a_type_error_that_names_it() -> None:
    with pytest.raises(TypeError, match=r"'Nowhere'.*Unresolvable.*reply=") as caught:
        reply_type(Unresolvable)
    assert isinstance(caught.value.__cause__, NameError)


def test_a_name_means_what_it_means_in_the_module_that_wrote_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """typing shares one object for ``Message["User"]`` among modules, and must not remember the first one's answer."""

    class Other:
        pass

    module = types.ModuleType("another_module")
    monkeypatch.setitem(vars(module), "User", Other)
    monkeypatch.setitem(__import__("sys").modules, "another_module", module)
    elsewhere = types.new_class(
        "Elsewhere", (Message["User"],), exec_body=lambda ns: ns.update(__module__=module.__name__)
    )
    homeless = types.new_class("Homeless", (Message["Homeless"],), exec_body=lambda ns: ns.update(__module__="gone"))  # type: ignore[name-defined]  # made here

    assert reply_type(Quoted) is User
    assert reply_type(elsewhere) is Other
    assert reply_type(homeless) is homeless


def test_what_is_known_of_classes_is_remembered_up_to_a_bound() -> None:
    """Classes that a program makes as it runs do not pile up."""
    assert _wire_name.cache_info().maxsize == _resolved_reply_type.cache_info().maxsize == MAX_TYPES


def test_message_adds_no_dict_to_its_subclasses() -> None:
    assert not hasattr(DataclassMessage("1"), "__dict__")


class Named(msgspec.Struct):
    message_type: ClassVar[str] = "acme.Named"


class NamedByMethod:
    @classmethod
    def message_type(cls) -> str:
        return f"acme.{cls.__name__}"


class InheritsMethod(NamedByMethod):
    pass


class NamedByStaticMethod:
    @staticmethod
    def message_type() -> str:
        return "acme.Static"


class PydanticNamed(pydantic.BaseModel):
    message_type: ClassVar[str] = "acme.Pydantic"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (StructMessage("1"), "StructMessage"),
        (User, "User"),
        (Named(), "acme.Named"),
        (NamedByMethod(), "acme.NamedByMethod"),
        (InheritsMethod, "acme.InheritsMethod"),
        (NamedByStaticMethod(), "acme.Static"),
        (PydanticNamed(), "acme.Pydantic"),
    ],
)
def test_the_message_type_is_looked_up_on_the_class(message: object, expected: str) -> None:
    assert message_type(message) == expected


class NotText:
    message_type = 7


class MethodNotText:
    @classmethod
    def message_type(cls) -> int:
        return 7


class OnInstances:
    def message_type(self) -> str:
        return "x"


class AsProperty:
    @property
    def message_type(self) -> str:
        return "x"


class AsField(msgspec.Struct):
    message_type: str = "x"


class Empty:
    message_type = ""


class Controls:
    message_type = "a\nb"


@pytest.mark.parametrize("cls", [NotText, MethodNotText])
def test_a_message_type_that_is_no_text_is_a_type_error(cls: type) -> None:
    with pytest.raises(TypeError, match=f"message_type of {cls.__name__} must be a str, not 7"):
        message_type(cls)


@pytest.mark.parametrize("cls", [OnInstances, AsProperty, AsField])
def test_a_message_type_of_the_instances_is_a_type_error_that_names_the_way_out(cls: type) -> None:
    with pytest.raises(TypeError, match=r"looked up on the class: make it a ClassVar\[str\]"):
        message_type(cls)


@pytest.mark.parametrize("cls", [Empty, Controls])
def test_a_message_type_that_is_empty_or_not_printable_is_a_value_error(cls: type) -> None:
    with pytest.raises(ValueError, match="must be printable and not empty"):
        message_type(cls)


@pytest.mark.parametrize("message", [{}, [], b"raw", "text", 1, None, object()])
def test_values_of_built_in_types_are_no_messages(message: object) -> None:
    if type(message) is object:
        message = object
    with pytest.raises(TypeError, match=r"has no name on the wire.*request_key"):
        message_type(message)


def test_errors_name_types_shortly() -> None:
    assert type_name(User) == "User"
    assert type_name(list[int]) == "list[int]"
