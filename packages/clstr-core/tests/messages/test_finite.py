"""`clstr._messages.finite`: floats that JSON has no number for are refused where they are sent."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import attrs
import msgspec
import pydantic
import pytest

from clstr._messages.payload import _encoder, _writer, decode_request, encode


class Quote(msgspec.Struct, rename="camel"):
    best_price: float | None = None
    last: list[float] = []


@dataclasses.dataclass
class Dataclass:
    price: float | None


@attrs.define
class Attrs:
    price: float | None


class Model(pydantic.BaseModel):
    price: float | None = None
    note: str | None = None


class Texts(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(ser_json_inf_nan="strings")
    price: float
    note: str | None = None


class Constants(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(ser_json_inf_nan="constants")
    price: float
    note: str | None = None


class Rounded(pydantic.BaseModel):
    price: float
    note: str | None = None

    @pydantic.field_serializer("price")
    def as_text(self, value: float) -> str:
        return str(value)


class Holder(msgspec.Struct):
    models: dict[str, list[Model]]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (Quote(math.nan), r"Quote\.bestPrice is nan"),
        (Quote(last=[1.0, -math.inf]), r"Quote\.last\[1\] is -inf"),
        (Dataclass(math.inf), r"Dataclass\.price is inf"),
        (Attrs(math.nan), r"Attrs\.price is nan"),
        (Model(price=math.nan), r"Model\.price is nan"),
        (Holder({"a": [Model(), Model(price=math.inf)]}), r"Holder\.models\.a\[1\]\.price is inf"),
        ([None, (1.0, math.nan)], r"list\[1\]\[1\] is nan"),
        ({"a": {"b": math.nan}}, r"dict\.a\.b is nan"),
        (math.nan, r"float is nan"),
    ],
    ids=repr,
)
def test_a_float_that_would_arrive_as_null_is_a_value_error_that_names_it(message: object, field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}, for which JSON has no number"):
        encode(message)


@pytest.mark.parametrize(
    "message",
    [Quote(None, [0.5]), Dataclass(None), Attrs(1.5), Model(), Holder({"a": [Model(price=1.0)]}), [None, 1.5]],
    ids=repr,
)
def test_finite_floats_beside_null_are_sent(message: Any) -> None:
    assert decode_request(encode(message), type(message)) == message


@pytest.mark.parametrize("type_", [Texts, Constants], ids=repr)
def test_a_model_that_writes_such_floats_in_its_own_way_is_sent(type_: Any) -> None:
    came = decode_request(encode(type_(price=math.nan)), type_)
    assert math.isnan(came.price)
    assert came.note is None


def test_a_float_that_a_serializer_writes_as_text_is_sent() -> None:
    assert encode(Rounded(price=math.nan)) == b'{"price":"nan","note":null}'


class Counted(msgspec.Struct):
    number: int
    note: str | None = None


def test_a_type_without_floats_costs_nothing() -> None:
    assert _writer(Counted) == _encoder.encode
