"""`clstr._messages.pydantic_models`: models that would change on the way are refused, with the field that would not."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import msgspec
import pydantic
import pydantic.dataclasses
import pytest
from pydantic import AliasChoices, AliasGenerator, AliasPath, BaseModel, ConfigDict, Field, SecretBytes, SecretStr
from typing_extensions import TypedDict

from clstr._messages.payload import check_reply_type, decode_request, encode

T = TypeVar("T")


def reveal(secret: SecretStr) -> str:
    return secret.get_secret_value()


Revealed = Annotated[SecretStr, pydantic.PlainSerializer(reveal, when_used="json")]


class Login(BaseModel):
    password: SecretStr = SecretStr("x")


class Inherits(Login):
    pass


class Bytes(BaseModel):
    key: SecretBytes


class Day(BaseModel):
    day: pydantic.Secret[dt.date]


class Page(BaseModel, Generic[T]):
    item: T


class Nested(BaseModel):
    logins: dict[str, list[Inherits | None]]


class Root(pydantic.RootModel[list[SecretStr]]):
    pass


class Itself(BaseModel):
    children: list[Itself] = []
    secret: SecretStr | None = None


@dataclasses.dataclass
class Dataclass:
    secret: SecretStr


class Dict(TypedDict):
    secret: SecretStr


class Tuple(NamedTuple):
    secret: SecretStr


class Others(BaseModel, Generic[T]):
    other: T


class Struct(msgspec.Struct):
    logins: list[Login]


@pytest.mark.parametrize(
    ("type_", "field"),
    [
        (Login, "'password' of Login is a SecretStr"),
        (Inherits, "'password' of Inherits is a SecretStr"),
        (Bytes, "'key' of Bytes is a SecretBytes"),
        (Day, "'day' of Day is a Secret"),
        (Page[SecretStr], r"'item' of Page\[SecretStr\] is"),
        (Page[Login], r"'item.password' of Page\[Login\] is"),
        (Nested, "'logins.password' of Nested is"),
        (Root, "'root' of Root is"),
        (Itself, "'secret' of Itself is"),
        (Others[Dataclass], r"'other.secret' of Others\[Dataclass\] is"),
        (Others[Dict], "'other.secret' of"),
        (Others[Tuple], "'other.secret' of"),
        (Struct, "'logins.password' of Struct is"),
        (list[Login], "'password' of list"),
        (Login | None, "'password' of"),
        (Annotated[Login, "x"], "'password' of"),
    ],
    ids=str,
)
def test_a_secret_is_refused_since_it_is_sent_as_asterisks(type_: Any, field: str) -> None:
    with pytest.raises(TypeError, match=f"^field {field}.* sent as asterisks"):
        check_reply_type(type_)


class ByField(BaseModel):
    password: SecretStr

    @pydantic.field_serializer("password", when_used="json")
    def reveal(self, value: SecretStr) -> str:
        return value.get_secret_value()


class ByAnyField(BaseModel):
    password: SecretStr

    @pydantic.field_serializer("*")
    def reveal(self, value: SecretStr) -> str:
        return value.get_secret_value()


class ByAnnotation(BaseModel):
    password: Revealed
    more: list[Revealed] = []


class ByModel(BaseModel):
    password: SecretStr

    @pydantic.model_serializer
    def reveal(self) -> dict[str, str]:
        return {"password": self.password.get_secret_value()}


@pytest.mark.parametrize("type_", [ByField, ByAnyField, ByAnnotation, ByModel])
def test_a_secret_that_its_author_sends_comes_back(type_: Any) -> None:
    message = type_(password="x")
    assert decode_request(encode(message), type_) == message


class OnlyRead(BaseModel):
    name: str = Field("", validation_alias="Name")


class OnlyWritten(BaseModel):
    name: str = Field("", serialization_alias="Name")


class Different(BaseModel):
    name: str = Field("", alias="Name", validation_alias="Other")


class Part(BaseModel):
    name: str = Field("", validation_alias=AliasPath("names", 0))


class ByNameAlone(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=False)
    name: str = Field("", alias="Name")


class Generated(BaseModel):
    model_config = ConfigDict(alias_generator=AliasGenerator(validation_alias=str.upper, serialization_alias=str.title))
    name: str = ""


@pydantic.dataclasses.dataclass
class Inner:
    name: str = Field("", validation_alias="Name")


class Holder(BaseModel):
    inner: Inner


@pytest.mark.parametrize(
    ("type_", "said"),
    [
        (OnlyRead, "^field 'name' of OnlyRead is sent as 'name' but read as 'Name': give it an alias="),
        (OnlyWritten, "sent as 'Name' but read as 'name'"),
        (Different, "sent as 'Name' but read as 'Other'"),
        (Part, "sent as 'name' but read as a part of another field"),
        (ByNameAlone, "sent as 'Name' but read as 'name'"),
        (Generated, "sent as 'Name' but read as 'NAME'"),
        (Holder, "^field 'inner.name' of Holder is sent as 'name' but read as 'Name'"),
    ],
)
def test_a_field_that_is_sent_under_another_name_than_it_is_read_is_refused(type_: Any, said: str) -> None:
    """Where the field has a default, the default would arrive."""
    with pytest.raises(TypeError, match=said):
        check_reply_type(type_)


class Alias(BaseModel):
    name: str = Field("", alias="Name")


class Both(BaseModel):
    name: str = Field("", validation_alias="Name", serialization_alias="Name")


class Choices(BaseModel):
    name: str = Field("", validation_alias=AliasChoices(AliasPath("names", 0), "Name", "name"))


class Populated(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    name: str = Field("", validation_alias="Name")


class Upper(BaseModel):
    model_config = ConfigDict(alias_generator=str.upper)
    name: str = ""


@pytest.mark.parametrize(
    ("type_", "name"), [(Alias, "Name"), (Both, "Name"), (Choices, "Name"), (Populated, "name"), (Upper, "NAME")]
)
def test_names_that_serve_both_directions_come_back(type_: Any, name: str) -> None:
    message = type_(**{name: "x"})
    assert message.name == "x"
    assert decode_request(encode(message), type_) == message


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    price: int

    @pydantic.computed_field  # type: ignore[prop-decorator]  # as pydantic documents it
    @property
    def double(self) -> int:
        return 2 * self.price


class Excluded(BaseModel):
    price: int = Field(exclude=True)


class Text(BaseModel):
    items: pydantic.Json[list[int]]


class AnyText(BaseModel):
    items: pydantic.Json  # type: ignore[type-arg]  # the case


class Base64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64")
    data: bytes = b""


@pytest.mark.parametrize(
    ("type_", "said"),
    [
        (Computed, "^field 'double' of Computed is computed and sent, but extra='forbid' refuses it"),
        (Excluded, "^field 'price' of Excluded is never sent"),
        (Text, "^field 'items' of Text is a pydantic.Json, which is read from a text"),
        (AnyText, "^field 'items' of AnyText is a pydantic.Json"),
        (Base64, "^field 'data' of Base64 holds bytes that are sent as base64 but read as utf8"),
    ],
)
def test_a_field_that_is_read_in_another_form_than_it_is_sent_is_refused(type_: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        check_reply_type(type_)


class Hidden(BaseModel):
    price: int
    _seen: int = pydantic.PrivateAttr(0)


class Shop(BaseModel):
    prices: list[Hidden]


class HiddenBySerializer(Hidden):
    @pydantic.model_serializer
    def write(self) -> dict[str, int]:
        return {"price": self.price}


@pytest.mark.parametrize(("type_", "path"), [(Hidden, "_seen"), (Shop, "prices._seen")])
def test_a_private_attribute_is_refused_since_it_would_not_be_sent(type_: Any, path: str) -> None:
    with pytest.raises(TypeError, match=rf"^field '{path}' of \w+ is a private attribute of a pydantic model"):
        check_reply_type(type_)
    check_reply_type(HiddenBySerializer)  # its author decided


class Fine(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    data: bytes
    seen: int = Field(default=0, exclude=True)
    children: dict[str, Fine] = {}
    page: Page[int | None] | None = None

    @pydantic.computed_field  # type: ignore[prop-decorator]  # as pydantic documents it
    @property
    def size(self) -> int:
        return len(self.data)


def test_what_can_come_back_is_not_refused() -> None:
    message = Fine(data=b"\xff", children={"a": Fine(data=b"", page=Page(item=1))})
    assert decode_request(encode(message), Fine) == message


@pytest.mark.parametrize("message", [Inherits(), [Login()], Struct([Login()]), OnlyWritten(name="x")], ids=repr)
def test_a_field_that_would_be_lost_is_not_sent_either(message: object) -> None:
    """The node may be of another program, which would get asterisks."""
    with pytest.raises(TypeError, match=r"^field '[\w.]+' of \w+ is "):
        encode(message)


class Forward(BaseModel):
    later: Later


class Later(BaseModel):
    secret: SecretStr


class Nowhere(BaseModel):
    field: Missing  # type: ignore[name-defined]  # noqa: F821 -- the case


def test_types_that_were_not_known_when_the_class_was_made_are_looked_up() -> None:
    with pytest.raises(TypeError, match=r"^field 'later.secret' of Forward is a SecretStr"):
        check_reply_type(Forward)
    with pytest.raises(
        TypeError, match=r"^a field of Nowhere has a type that cannot be resolved \(name 'Missing'.*\):"
    ):
        check_reply_type(Nowhere)
