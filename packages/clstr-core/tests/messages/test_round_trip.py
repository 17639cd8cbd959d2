"""`clstr._messages.round_trip`: types that would change on the way are refused, with the field that would not."""

from __future__ import annotations

import dataclasses
from typing import Any

import attrs
import msgspec
import pydantic.dataclasses
import pytest

from clstr._messages.payload import check_reply_type, decode_request, encode


@pydantic.dataclasses.dataclass
class Checked:
    amount: int = pydantic.Field(gt=0)


class Unmarked(Checked):
    """Inherits its parent's validator, but is no pydantic dataclass of its own."""


class Basket(msgspec.Struct):
    lines: dict[str, list[Checked | None]]
    inner: Basket | None = None


@pytest.mark.parametrize(
    ("type_", "said"),
    [
        (Checked, "^Checked is a pydantic dataclass, Checked, whose checks would not run"),
        (Unmarked, "^Unmarked is a pydantic dataclass"),
        (list[Checked], "is a pydantic dataclass, Checked"),
        (Basket, "^field 'lines' of Basket is a pydantic dataclass, Checked"),
    ],
)
def test_a_pydantic_dataclass_is_refused_since_its_checks_would_not_run(type_: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        check_reply_type(type_)


@attrs.define
class Wallet:
    _balance: int = 0
    owner: str = ""


@attrs.define
class Cached:
    owner: str = ""
    _seen: int = attrs.field(default=0, init=False)


class Wallets(msgspec.Struct):
    all: list[Wallet]


@pytest.mark.parametrize(
    ("type_", "said"),
    [(Wallet, "^field '_balance' of Wallet is a private"), (Wallets, "^field 'all._balance' of Wallets is a private")],
)
def test_a_private_field_of_an_attrs_class_is_refused_since_it_would_not_be_sent(type_: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        check_reply_type(type_)
    check_reply_type(Cached)  # it is made without


@attrs.define
class Converted:
    names: list[str] = attrs.field(converter=list)
    made: str = attrs.field(converter=str, default="", init=False)


class Conversions(msgspec.Struct):
    last: Converted | None


@pytest.mark.parametrize(
    ("type_", "said"),
    [
        (Converted, "^field 'names' of Converted has an attrs converter, which would not run"),
        (Conversions, "^field 'last.names' of Conversions has an attrs converter"),
    ],
)
def test_a_converter_of_an_attrs_class_is_refused_since_it_would_not_run(type_: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        check_reply_type(type_)


@pytest.mark.parametrize("message", [Checked(1), Wallet(1), Wallets([Wallet(1)])], ids=repr)
def test_what_would_be_lost_is_not_sent_either(message: object) -> None:
    with pytest.raises(TypeError, match=r"pydantic dataclass|private field"):
        encode(message)


class Plain:
    pass


@dataclasses.dataclass
class Optional:
    plain: Plain | None = None


class Objects(msgspec.Struct):
    objects: list[object]


@pytest.mark.parametrize(
    ("type_", "said"),
    [
        (Plain, "^Plain has no decoding"),
        (list[Plain], "^list.*: Plain has no decoding"),
        (Optional, "^field 'plain' of Optional: Plain has no decoding"),
        (Objects, "^field 'objects' of Objects: object has no decoding"),
    ],
)
def test_a_type_without_decoding_is_refused_wherever_it_is(type_: Any, said: str) -> None:
    """It is found when the handler is registered, and not by its first message."""
    with pytest.raises(TypeError, match=said):
        check_reply_type(type_)
    assert encode(Optional()) == b'{"plain":null}'  # a type that is only sent is not asked


@dataclasses.dataclass
class Private:
    _hidden: int
    computed: int = dataclasses.field(default=0, init=False)


class Renamed(
    msgspec.Struct, rename="camel", forbid_unknown_fields=True, omit_defaults=True, tag=True, array_like=False
):
    user_id: int
    unset: int | msgspec.UnsetType = msgspec.UNSET
    children: list[Renamed] = []


class Listed(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    number: int
    text: str | None = None


@pytest.mark.parametrize("message", [Private(7), Renamed(7, children=[Renamed(8, 9)]), Listed(1), Listed(1, "a")])
def test_what_can_come_back_is_not_refused(message: Any) -> None:
    assert decode_request(encode(message), type(message)) == message


@dataclasses.dataclass
class Unresolved:
    number: int
    missing: Missing | None = None  # type: ignore[name-defined]  # noqa: F821 -- the case


def test_a_type_that_is_only_sent_need_not_be_resolved() -> None:
    assert encode(Unresolved(1)) == b'{"number":1,"missing":null}'
    with pytest.raises(TypeError, match="a field of Unresolved has a type that cannot be resolved"):
        check_reply_type(Unresolved)
