"""`clstr._messages.payload`: typed values to bytes and back."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import subprocess
import sys
from typing import Annotated, Any, Literal

import attrs
import msgspec
import pydantic
import pytest

from clstr._messages.message import MAX_TYPES
from clstr._messages.payload import _decoder, check_reply_type, decode_reply, decode_request, encode
from clstr.errors import InvalidEnvelopeError, InvalidReplyError


class Struct(msgspec.Struct):
    id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Dataclass:
    id: str


@attrs.frozen
class Attrs:
    id: str


class Model(pydantic.BaseModel):
    id: str


class Aliased(pydantic.BaseModel):
    user_id: str = pydantic.Field(alias="userId")


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    day: dt.date


class Nested(msgspec.Struct):
    model: Model
    models: list[Strict] = []


class Deep(pydantic.BaseModel):
    models: list[Model]


class Plain:
    pass


@pytest.mark.parametrize(
    "value", [Struct("1"), Dataclass("1"), Attrs("1"), Model(id="1")], ids=lambda value: type(value).__name__
)
def test_each_family_of_messages_comes_back_as_it_went(value: Any) -> None:
    data = encode(value)
    assert msgspec.json.decode(data) == {"id": "1"}
    assert decode_reply(data, type(value)) == value
    assert decode_request(data, type(value)) == value


def test_pydantic_models_inside_others_come_back_as_they_went() -> None:
    value = Nested(Model(id="1"), [Strict(day=dt.date(2024, 2, 29))])
    data = encode(value)
    assert data == b'{"model":{"id":"1"},"models":[{"day":"2024-02-29"}]}'
    assert decode_reply(data, Nested) == value
    assert decode_reply(encode([Model(id="1")]), list[Model]) == [Model(id="1")]
    assert decode_reply(b'{"models":[{"id":"1"}]}', Deep) == Deep(models=[Model(id="1")])


def test_pydantic_models_are_written_by_alias_as_they_are_read() -> None:
    data = encode(Aliased(userId="1"))
    assert data == b'{"userId":"1"}'
    assert decode_reply(data, Aliased).user_id == "1"


def test_pydantic_is_not_imported_unless_a_message_is_a_model() -> None:
    program = (
        "import sys, msgspec\n"
        "from clstr._messages.payload import decode_reply, encode\n"
        "S = msgspec.defstruct('S', [('id', str)])\n"
        "assert decode_reply(encode(S('1')), S) == S('1')\n"
        "assert 'pydantic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("value", [Plain(), [Plain()], {"a": Plain()}], ids=["itself", "in a list", "in a dict"])
def test_an_object_without_encoding_is_a_type_error_that_names_type_and_way_out(value: object) -> None:
    with pytest.raises(TypeError, match=r"a Plain has no encoding: make it a msgspec struct.*request_key"):
        encode(value)


def test_a_class_is_not_encoded_for_its_object() -> None:
    with pytest.raises(TypeError, match="Struct is a class: send an instance"):
        encode(Struct)


def test_a_value_within_itself_is_a_value_error() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(ValueError, match="a list cannot be encoded: nested too deeply, or in itself"):
        encode(value)


def test_text_without_utf8_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        encode(Struct("\ud800"))


BROKEN = {
    "empty": b"",
    "null": b"null",
    "cut off": b"{",
    "not JSON": b"secret",
    "not UTF-8": b'{"id":"\xff"}',
    "wrong type": b'{"id":1}',
    "incomplete": b"{}",
    "a list": b"[]",
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("type_", [Struct, Dataclass, Attrs, Model, list[Model], Nested], ids=str)
@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_a_reply_that_does_not_fit_is_an_invalid_reply(data: bytes, type_: Any) -> None:
    if data == b"[]" and type_ == list[Model]:
        data = b'[{"id":1}]'
    with pytest.raises(InvalidReplyError, match="the reply is") as caught:
        decode_reply(data, type_)
    assert caught.value.maybe_executed
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("type_", [Struct, Model], ids=str)
@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_a_request_that_does_not_fit_is_an_invalid_envelope(data: bytes, type_: Any) -> None:
    with pytest.raises(InvalidEnvelopeError) as caught:
        decode_request(data, type_)
    assert caught.value.field.startswith("data")
    assert not caught.value.maybe_executed
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "type_", "field"),
    [
        (b'{"id":1}', Struct, "data.id"),
        (b'{"id":1}', Model, "data.id"),
        (b'[{"id":"1"},{"id":1}]', list[Struct], "data[1].id"),
        (b'{"models":[{"id":"1"},{"id":[]}]}', Deep, "data.models.1.id"),
        (b'{"model":{"id":1}}', Nested, "data.model"),
    ],
    ids=["struct", "model", "list", "model in model", "model in struct"],
)
def test_the_error_of_a_request_names_the_field(data: bytes, type_: Any, field: str) -> None:
    with pytest.raises(InvalidEnvelopeError) as caught:
        decode_request(data, type_)
    assert caught.value.field == field


def test_the_error_of_a_nested_model_names_its_field_and_not_its_value() -> None:
    with pytest.raises(InvalidReplyError, match=r"Input should be a valid string at `\.id` at model") as caught:
        decode_reply(b'{"model":{"id":["secret"]}}', Nested)
    assert "secret" not in str(caught.value)
    with pytest.raises(InvalidReplyError, match=r"not a Nested: Input should be an object at model$"):
        decode_reply(b'{"model":"secret"}', Nested)


def test_the_error_of_a_reply_names_type_reason_and_field() -> None:
    with pytest.raises(InvalidReplyError, match=r"^the reply is not a Struct: Expected `str`, got `int` at id$"):
        decode_reply(b'{"id":1}', Struct)


def test_null_fits_only_types_that_admit_none() -> None:
    assert decode_reply(b"null", type(None)) is None
    assert decode_reply(b"null", Struct | None) is None
    assert decode_reply(b"null", Any) is None


def test_an_empty_reply_fits_bytes_and_none_alone() -> None:
    assert decode_reply(b"", bytes) == b""
    assert decode_reply(b"", type(None)) is None
    with pytest.raises(InvalidReplyError, match="the reply is empty, expected a Struct"):
        decode_reply(b"", Struct)
    with pytest.raises(InvalidReplyError, match="the reply is empty"):
        decode_reply(b"", Struct | None)


@dataclasses.dataclass
class Odd:
    amount: int

    def __post_init__(self) -> None:
        _ = {"secret": 0}[str(self.amount)]


class OddStruct(msgspec.Struct):
    amount: int

    def __post_init__(self) -> None:
        _ = 1 // (self.amount - 5)


class OddModel(pydantic.BaseModel):
    amount: int

    @pydantic.field_validator("amount")
    @classmethod
    def look_up(cls, value: int) -> int:
        return {0: 1}[value]


class Holder(msgspec.Struct):
    model: OddModel


@pytest.mark.parametrize(
    ("data", "type_", "name"),
    [
        (b'{"amount":5}', Odd, "KeyError"),
        (b'{"amount":5}', OddStruct, "ZeroDivisionError"),
        (b'{"amount":5}', OddModel, "KeyError"),
        (b'{"model":{"amount":5}}', Holder, "KeyError"),
    ],
    ids=["dataclass", "struct", "model", "model in struct"],
)
def test_a_validator_that_raises_something_odd_refuses_the_message_and_the_reply(
    data: bytes, type_: Any, name: str
) -> None:
    """Nothing has run; and what it raised may hold the value."""
    with pytest.raises(InvalidEnvelopeError, match=f"its validation raised {name}$") as refused:
        decode_request(data, type_)
    assert not refused.value.maybe_executed
    assert type(refused.value.__cause__).__name__ == name
    with pytest.raises(InvalidReplyError, match=f"its validation raised {name}$"):
        decode_reply(data, type_)


def test_bytes_are_the_reply_as_it_is() -> None:
    assert decode_reply(b'"\xff', bytes) == b'"\xff'


def test_constraints_are_checked() -> None:
    short = Annotated[str, msgspec.Meta(max_length=3)]
    assert decode_reply(b'"abc"', short) == "abc"
    with pytest.raises(InvalidReplyError, match="length <= 3"):
        decode_reply(b'"abcd"', short)


@pytest.mark.parametrize("type_", [Plain, Struct | Nested], ids=str)
def test_a_type_that_cannot_be_decoded_is_a_type_error_before_anything_is_sent(type_: Any) -> None:
    with pytest.raises(TypeError):
        check_reply_type(type_)


def test_decoders_are_remembered_up_to_a_bound() -> None:
    assert _decoder(Struct) is _decoder(Struct)
    assert _decoder.cache_info().maxsize == MAX_TYPES


class Plan(enum.Enum):
    FREE = "free"


class Tagged(msgspec.Struct, tag="tagged"):
    pass


@pytest.mark.parametrize(
    ("type_", "data"), [(Plan, b'"secret"'), (Literal["free"], b'"secret"'), (Tagged, b'{"type":"secret"}')]
)
def test_the_reason_repeats_no_value_of_the_payload(type_: Any, data: bytes) -> None:
    """It is logged where nobody waits for an answer."""
    with pytest.raises(InvalidEnvelopeError, match=r"Invalid (enum )?value") as request:
        decode_request(data, type_)
    with pytest.raises(InvalidReplyError, match=r"Invalid (enum )?value") as reply:
        decode_reply(data, type_)
    assert "secret" not in f"{request.value} {reply.value}"


def test_a_field_whose_type_cannot_be_resolved_is_named_with_the_way_out() -> None:
    class Local(msgspec.Struct):
        """Not at the top of the module."""

    class Holder(msgspec.Struct):
        local: Local

    with pytest.raises(TypeError, match=r"Holder has a type that cannot be resolved .*'Local'.* at the top of its mod"):
        check_reply_type(Holder)
