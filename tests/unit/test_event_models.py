"""Models of events to JSON and back: what each type is, what is refused, and that errors name field and type."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NewType, Optional
from uuid import UUID

import pydantic
import pytest
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st

from kombu_hake.exceptions import InvalidEvent
from kombu_hake.groups.models import MAX_FAULTS, Model

Sku = NewType("Sku", str)


class Currency(Enum):
    EUR = "EUR"
    USD = "USD"


class Colour(str, Enum):
    RED = "red"


@dataclass
class Line:
    sku: Sku
    count: int = 1


class Address(typing_extensions.TypedDict):
    city: str
    zip: typing_extensions.NotRequired[str]


class Parcel(pydantic.BaseModel):
    weight_kg: float


@dataclass
class Order:
    order_id: int
    total: Decimal
    at: datetime
    day: date
    hour: time
    key: UUID
    ratio: float
    is_gift: bool
    currency: Currency
    colour: Colour
    lines: list[Line]
    pair: tuple[int, str]
    numbers: tuple[int, ...]
    tags: frozenset[str]
    prices: dict[str, Decimal]
    kind: Literal["new", 1]
    note: Annotated[Optional[str], "shown"]  # noqa: UP045
    line: Line | None
    address: Address
    parcel: Parcel
    either: int | str | datetime
    more: Any = None
    many: Sequence[int] = ()
    others: Mapping[str, list[int]] = field(default_factory=dict)


@dataclass
class Tree:
    name: str
    children: list[Tree] = field(default_factory=list)


@dataclass
class Left:
    child: Left | Right | None = None


@dataclass
class Right:
    child: Left | Right | None = None


@dataclass
class Small:
    order_id: int
    currency: str = "EUR"


class SmallDict(typing_extensions.TypedDict, total=False):
    order_id: typing_extensions.Required[int]
    currency: str


class SmallModel(pydantic.BaseModel):
    order_id: int
    currency: str = "EUR"


def model(cls: Any) -> Model[Any]:
    return Model(cls, "event 'placed' of topic 'orders'")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
instances = st.builds(
    Order,
    total=st.decimals(allow_nan=False, allow_infinity=False),
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    at=st.datetimes(timezones=st.none() | st.just(timezone.utc)),
    note=st.none() | texts,
    line=st.none() | st.builds(Line, sku=texts),
    lines=st.lists(st.builds(Line, sku=texts), max_size=2),
    address=st.fixed_dictionaries({"city": texts}, optional={"zip": texts}),
    parcel=st.builds(Parcel, weight_kg=st.floats(allow_nan=False, allow_infinity=False)),
    prices=st.dictionaries(texts, st.decimals(allow_nan=False, allow_infinity=False), max_size=2),
    either=st.integers() | st.just("text") | st.datetimes(),
    more=st.just({"any": [1, None]}),
    many=st.lists(st.integers(), max_size=2),
    others=st.dictionaries(texts, st.lists(st.integers(), max_size=2), max_size=2),
)


@given(instances)
def test_what_is_sent_is_plain_json_and_is_received_as_it_was(order: Order) -> None:
    payload = model(Order).dump(order)
    text = json.dumps(payload, allow_nan=False)
    found = model(Order).parse(json.loads(text))
    if isinstance(order.either, datetime):  # in JSON it is text, and so is another type of the three
        found.either = order.either
    assert found == order
    assert type(found.colour) is Colour
    assert type(payload["colour"]) is str


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | texts,
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)))  # fmt: skip
def test_whatever_json_is_received_it_is_an_instance_or_an_invalid_event(payload: Any) -> None:
    for cls in (Order, Tree, SmallDict, SmallModel):
        with suppress(InvalidEvent):
            assert isinstance(model(cls).parse(payload), dict if cls is SmallDict else cls)


@pytest.mark.parametrize("cls", [Small, SmallDict, SmallModel])
class TestEachKindOfModel:
    def test_an_instance_has_the_fields_that_were_given(self, cls: Any) -> None:
        assert model(cls).dump(model(cls).make(order_id=7, currency="USD")) == {"order_id": 7, "currency": "USD"}

    def test_a_missing_field_is_named(self, cls: Any) -> None:
        for call in (lambda: model(cls).parse({}), lambda: model(cls).dump({})):
            with pytest.raises(InvalidEvent, match=f"of topic 'orders' does not match {cls.__name__}: order_id"):
                call()

    def test_a_wrong_type_is_named_with_its_field(self, cls: Any) -> None:
        with pytest.raises(InvalidEvent, match=r"order_id.* int"):
            model(cls).dump(model(cls).make(order_id="seven"))
        with pytest.raises(InvalidEvent, match=r"order_id.* int"):
            model(cls).parse({"order_id": "seven"})

    def test_a_newer_publisher_may_send_more_fields(self, cls: Any) -> None:
        found = model(cls).parse({"order_id": 7, "colour": "red"})
        assert model(cls).dump(found)["order_id"] == 7
        assert "colour" not in model(cls).dump(found)

    def test_what_is_no_object_is_refused(self, cls: Any) -> None:
        for payload in (None, [], "text", 7):
            with pytest.raises(InvalidEvent):
                model(cls).parse(payload)


def test_all_faults_are_in_one_error() -> None:
    with pytest.raises(InvalidEvent) as caught:
        model(Small).dump({"currency": 1, "curency": "EUR"})
    assert caught.value.faults == (
        "order_id is missing: it must be int",
        "curency is not a field of Small",
        "currency must be str, not int",
    )


def test_faults_name_the_place_inside_a_field() -> None:
    @dataclass
    class Basket:
        lines: list[Line]
        prices: dict[str, Decimal]

    with pytest.raises(InvalidEvent) as caught:
        Model(Basket, "it").parse({"lines": [{"sku": "a"}, {"sku": 1, "count": True}], "prices": {"%s": "much"}})
    assert caught.value.faults == (
        "lines[1].sku must be str, not int",
        "lines[1].count must be int, not bool",
        "prices['%s'] must be Decimal, as text",
    )


def test_a_long_list_of_wrong_items_is_a_short_error() -> None:
    @dataclass
    class Numbers:
        numbers: list[int]

    with pytest.raises(InvalidEvent) as caught:
        Model(Numbers, "it").parse({"numbers": ["x"] * 100_000})
    assert len(caught.value.faults) == MAX_FAULTS


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, True), (int, "7"), (int, 7.0), (float, "7"), (float, math.nan), (float, 10**400), (float, True),
        (str, 7), (bool, 1), (datetime, "yesterday"), (datetime, 7), (date, "2026-01-01T00:00:00"), (time, None),
        (UUID, "7"), (UUID, 7), (Decimal, "NaN"), (Decimal, "x"), (Decimal, True), (Decimal, None),
        (list[int], {"0": 1}), (list[int], "12"), (dict[str, int], [1]), (dict[str, int], {"a": "b"}),
        (tuple[int, str], [1]), (tuple[int, ...], [1, "2"]), (set[int], ["1"]), (Currency, "GBP"), (Currency, []),
        (Literal["new"], "old"), (Literal[1], True), (int | None, "7"), (Line, [1]), (Line | None, {"count": 1}),
    ],
)  # fmt: skip
def test_values_of_another_type_are_refused(kind: Any, value: Any) -> None:
    cls = dataclass(type("It", (), {"__annotations__": {"field": kind}}))
    with pytest.raises(InvalidEvent) as caught:
        Model(cls, "it").parse({"field": value})
    [fault] = caught.value.faults
    assert fault.startswith("field")


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (float, 7, 7.0),
        (Decimal, 9.99, Decimal("9.99")),
        (datetime, "2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)),
        (datetime, datetime(2026, 1, 2, tzinfo=timezone.utc), datetime(2026, 1, 2, tzinfo=timezone.utc)),
        (int | str, "7", "7"),
        (str | int, 7, 7),
        (tuple, [1, "a"], (1, "a")),
        (tuple[()], [], ()),
        (list, [1, "a"], [1, "a"]),
        (dict, {"a": 1}, {"a": 1}),
        (object, {"a": 1}, {"a": 1}),
        (None, None, None),
    ],
)
def test_what_other_publishers_write_is_read(kind: Any, value: Any, expected: Any) -> None:
    cls = dataclass(type("It", (), {"__annotations__": {"field": kind}}))
    found = Model(cls, "it").parse({"field": value}).field  # type: ignore[attr-defined]
    assert (found, type(found)) == (expected, type(expected))


def test_a_model_may_contain_itself() -> None:
    tree = Tree("a", [Tree("b", [Tree("c")])])
    assert model(Tree).parse(model(Tree).dump(tree)) == tree


def test_a_value_that_the_class_itself_refuses_is_an_invalid_event() -> None:
    @dataclass
    class Positive:
        order_id: int

        def __post_init__(self) -> None:
            if self.order_id < 1:
                raise ValueError("order_id must be above 0")

    for call in (lambda: Model(Positive, "it").make(order_id=0), lambda: Model(Positive, "it").parse({"order_id": 0})):
        with pytest.raises(InvalidEvent, match="order_id must be above 0"):
            call()


def test_an_instance_that_was_changed_to_something_wrong_is_not_sent() -> None:
    small, other = Small(7), SmallModel(order_id=7)
    small.order_id = other.order_id = "seven"  # type: ignore[assignment]
    for value in (small, other):
        with pytest.raises(InvalidEvent, match="order_id"):
            Model(type(value), "it").dump(value)


def test_pydantic_reads_its_own_json_in_strict_mode_and_by_alias() -> None:
    class Strict(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(strict=True)
        at: datetime
        key: UUID = pydantic.Field(alias="orderKey")

    value = Strict(at=datetime(2026, 1, 2, tzinfo=timezone.utc), orderKey=UUID(int=7))
    payload = model(Strict).dump(value)
    assert set(payload) == {"at", "orderKey"}
    assert model(Strict).parse(json.loads(json.dumps(payload))) == value
    assert model(Strict).parse({**payload, "at": value.at, "orderKey": value.key}) == value  # as kombu decodes it


class TestDeclaration:
    def test_payloads_that_would_be_tried_in_exponentially_many_ways_cannot_be_declared(self) -> None:
        with pytest.raises(TypeError, match=r"Left(\.child)+ has several types that contain Left again"):
            model(Left)

    def test_models_that_contain_themselves_may_be_alternatives_elsewhere(self) -> None:
        @dataclass
        class Basket:
            one: Tree | Line | None

        model(Basket)

    @pytest.mark.parametrize("cls", [int, dict, dict[str, int], lambda: None, Small(7), None])
    def test_a_model_is_a_dataclass_a_typed_dict_or_of_pydantic(self, cls: Any) -> None:
        with pytest.raises(TypeError, match="dataclass"):
            Model(cls, "it")

    @pytest.mark.parametrize("kind", [timedelta, bytes, complex, list[timedelta], dict[int, str], type, Line | bytes])
    def test_a_field_needs_a_form_in_json(self, kind: Any) -> None:
        cls = dataclass(type("It", (), {"__annotations__": {"field": kind}}))
        with pytest.raises(TypeError, match=r"It\.field"):
            Model(cls, "it")

    def test_parameters_that_are_no_fields_are_refused(self) -> None:
        @dataclass
        class Secretive:
            order_id: int
            secret: InitVar[str]

        with pytest.raises(TypeError, match="secret"):
            Model(Secretive, "it")

    def test_a_type_that_only_type_checkers_import_is_refused(self) -> None:
        cls = dataclass(type("It", (), {"__annotations__": {"field": "OnlyForTypeCheckers"}}))
        with pytest.raises(TypeError, match="TYPE_CHECKING"):
            Model(cls, "it")

    def test_a_pydantic_model_that_is_no_object_is_refused_when_it_is_sent(self) -> None:
        cls = pydantic.RootModel[list[int]]
        with pytest.raises(InvalidEvent, match="not an object"):
            Model(cls, "it").dump(cls([1]))

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="syntax of Python 3.12")
    def test_type_aliases_are_their_types(self) -> None:
        names: dict[str, Any] = {}
        exec("type Id = int", names)
        cls = dataclass(type("It", (), {"__annotations__": {"field": names["Id"]}}))
        with pytest.raises(InvalidEvent):
            Model(cls, "it").parse({"field": "7"})
