"""`clstr._messages.pydantic_unions`: unions and keys that JSON does not tell apart are refused; others come back."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import pathlib
import sys
import textwrap
import uuid
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypeVar

import pydantic
import pytest
from pydantic import BaseModel, ConfigDict, Discriminator, Field, HttpUrl, JsonValue, RootModel, Tag, create_model
from typing_extensions import TypedDict

from clstr._messages.payload import check_reply_type, decode_request, encode

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


class Fruit(enum.Enum):
    APPLE = "apple"


class Level(enum.IntEnum):
    LOW = 1


class Cat(BaseModel):
    name: str = ""


class Dog(BaseModel):
    name: str


class TaggedCat(BaseModel):
    kind: Literal["cat"] = "cat"
    name: str = ""


class TaggedDog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str = ""


class Ok(BaseModel):
    value: int


class Failed(BaseModel):
    reason: str


class Left(BaseModel):
    model_config = ConfigDict(extra="forbid")
    left: int = 1


class Right(BaseModel):
    model_config = ConfigDict(extra="forbid")
    right: int = 1


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    reason: str


class Page(BaseModel, Generic[T]):
    item: T


class Sized(Dog):
    size: int


class MaybeSized(Dog):
    size: int = 0


class Numbers(RootModel[list[int]]):
    pass


@dataclasses.dataclass
class Dataclass:
    name: str
    size: int = 0


class Dict(TypedDict):
    name: str


class Point(NamedTuple):
    x: int


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    x: int


class Written(Cat):
    @pydantic.model_serializer
    def write(self) -> dict[str, str]:
        return {"name": self.name}


class Computed(BaseModel):
    @pydantic.computed_field  # type: ignore[prop-decorator]  # as pydantic documents it
    @property
    def reason(self) -> str:
        return "x"


Name = NewType("Name", str)
Short = Annotated[str, Field(max_length=3)]


def holding(hint: Any) -> Any:
    return create_model("Holder", value=(hint, ...))


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (Cat | Dog, "Cat or Dog"),
        (Cat | Dog | None, "Cat or Dog"),
        (list[Cat | Dog], "Cat or Dog"),
        (Annotated[Cat | Dog, "x"], "Cat or Dog"),
        (Dog | MaybeSized, "Dog or MaybeSized"),
        (Page[int] | Page[float], "Page.* or Page"),
        (Open | Ok, "Open or Ok"),
        (Computed | Failed, "Computed or Failed"),
        (Cat | dict[str, Any], "Cat or dict"),
        (Cat | Dict, "Cat or Dict"),
        (Dog | Dataclass, "Dog or Dataclass"),
        (Numbers | list[int], "Numbers or list"),
        (Colour | str, "Colour or str"),
        (None | str | Colour, "str or Colour"),
        (Colour | Name, "Colour or str"),
        (Literal[Colour.RED] | str, ".*Literal.* or str"),
        (Colour | Literal["red"], "Colour or"),
        (Level | int, "Level or int"),
        (float | Level, "float or Level"),
        (Level | bool, "Level or bool"),
        (decimal.Decimal | Level, "Decimal or Level"),
        (Level | dt.timedelta, "Level or timedelta"),
        (Literal[1] | bool, ".*Literal.* or bool"),
        (dt.datetime | decimal.Decimal, "datetime or Decimal"),
        (dt.timedelta | dt.time, "timedelta or time"),
        (dt.datetime | str, "datetime or str"),
        (str | bytes, "str or bytes"),
        (uuid.UUID | str, "UUID or str"),
        (decimal.Decimal | str, "Decimal or str"),
        (pathlib.Path | uuid.UUID, "Path or UUID"),
        (HttpUrl | str, "HttpUrl or str"),
        (HttpUrl | pydantic.AnyUrl, "HttpUrl or AnyUrl"),
        (set[int] | list[int], "set.* or list"),
        (list[int] | tuple[int, ...], "list.* or tuple"),
        (list[Colour] | list[str], "list.* or list"),
        (list[int | Colour] | list[str], "list.* or list"),
        (dict[str, dict[str, Colour | str]], "Colour or str"),
        (tuple[int, Colour] | tuple[int, str], "tuple.* or tuple"),
    ],
    ids=str,
)
def test_a_union_that_json_does_not_tell_apart_is_refused(hint: Any, said: str) -> None:
    """The value would arrive as one of the other type."""
    with pytest.raises(TypeError, match=rf"^field 'value' of Holder may be {said}.*, which JSON does not tell apart"):
        check_reply_type(holding(hint))


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int | str, "1"),
        (int | float | bool | None, 1.0),
        (Short | int, 1),
        (Literal["a"] | str, "a"),  # noqa: PYI051 -- the case
        (list[Literal["a"]] | list[Literal["a", "b"]], ["a"]),
        (Colour | Fruit, Fruit.APPLE),
        (Colour | int | None, Colour.RED),
        (Level | str, Level.LOW),
        (dt.date | dt.datetime, dt.date(2020, 1, 1)),
        (dt.date | dt.datetime, dt.datetime(2020, 1, 1)),  # noqa: DTZ001 -- the case
        (decimal.Decimal | float, decimal.Decimal(1)),
        (dt.timedelta | float, dt.timedelta(1)),
        (Ok | Failed, Failed(reason="x")),
        (TaggedCat | TaggedDog, TaggedDog(name="x")),
        (Annotated[TaggedCat | TaggedDog, Field(discriminator="kind")], TaggedDog()),
        (Left | Right, Right()),
        (Cat | Ok, Ok(value=1)),
        (Dog | Sized, Sized(name="x", size=1)),
        (Dog | Sized, Dog(name="x")),
        (Page[int] | Page[str], Page[str](item="1")),
        (Numbers | int, Numbers([1])),
        (list[int] | list[str], ["1"]),
        (list[int | None] | list[int], [1, None]),
        (tuple[int, int] | tuple[int, int, int], (1, 2, 3)),
        (dict[str, int] | list[int], {"a": 1}),
        (JsonValue, {"a": [1, None]}),
    ],
    ids=str,
)
def test_a_union_that_json_tells_apart_comes_back(hint: Any, value: Any) -> None:
    type_ = holding(hint)
    message = type_(value=value)
    found = decode_request(encode(message), type_)
    assert found == message
    assert type(found.value) is type(value)


class ByField(BaseModel):
    pet: TaggedCat | TaggedDog | None = Field(None, discriminator="kind")
    model: Written | Cat = Field(default_factory=Cat)
    written: Colour | str = ""
    also: Annotated[Colour | str, pydantic.PlainSerializer(str)] = ""
    tagged: Annotated[
        Annotated[Cat, Tag("cat")] | Annotated[Dog, Tag("dog")], Discriminator(lambda value: "dog" if value else "cat")
    ] = Field(default_factory=Cat)

    @pydantic.field_serializer("written")
    def write(self, value: Any) -> str:
        return str(value)


def test_what_tells_a_union_apart_and_what_writes_it_is_left_to_its_author() -> None:
    check_reply_type(ByField)


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (dict[tuple[int, int], int], "tuple"),
        (list[dict[tuple[int, int], int]], "tuple"),
        (dict[Point, int], "Point"),
        (dict[frozenset[int], int], "frozenset"),
        (dict[Frozen, int], "Frozen"),
        (dict[Literal[1], int], ".*Literal"),
        (dict[str | None, int], "NoneType"),
        (dict[int | str, int], "int or str"),
    ],
    ids=str,
)
def test_keys_that_are_not_read_from_text_are_refused(hint: Any, said: str) -> None:
    with pytest.raises(TypeError, match=rf"^field 'value' of Holder is a dict with keys .* no form for \({said}"):
        check_reply_type(holding(hint))


@pytest.mark.parametrize(
    "value", ["a", 1, 1.5, True, Colour.RED, Level.LOW, uuid.UUID(int=1), dt.date(2020, 1, 1), b"a"], ids=repr
)
def test_keys_that_are_read_from_text_come_back(value: Any) -> None:
    type_ = holding(dict[type(value), int])  # type: ignore[misc]  # the case
    message = type_(value={value: 1})
    assert decode_request(encode(message), type_) == message


@pytest.mark.parametrize("hint", [dict[Literal["a", "b"], int], dict[Short, int], dict[Any, int], dict], ids=str)
def test_other_keys_are_not_refused(hint: Any) -> None:
    check_reply_type(holding(hint))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no `type` statement")
def test_an_alias_that_holds_itself_is_followed_once() -> None:
    scope: dict[str, Any] = {"__name__": __name__}
    exec(  # Python 3.11 cannot read it
        textwrap.dedent("""
            type Tree = list[Tree] | dict[str, Tree] | int
            type Pile = set[int] | list[int]
        """),
        scope,
    )
    tree, pile = scope["Tree"], scope["Pile"]
    check_reply_type(holding(tree))
    with pytest.raises(TypeError, match="JSON does not tell apart"):
        check_reply_type(holding(list[pile]))  # type: ignore[valid-type]  # it is one
