"""What type checkers refuse. Each marked line has these errors, by code and words of the text, and no line has others; see tests/unit/test_typing.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from celery import Task
from pydantic import BaseModel

from kombu_hake import Topic


@dataclass
class OrderPlaced:
    order_id: int
    currency: str = "EUR"


class OrderPaid(TypedDict):
    order_id: int


class OrderShipped(BaseModel):
    order_id: int


orders = Topic("orders")
placed = orders.event_type("order.placed", OrderPlaced)
paid = orders.event_type("order.paid", OrderPaid)
shipped = orders.event_type("order.shipped", OrderShipped)

placed.publish(order_id="7")  # E: arg-type: expected "int"
placed.publish()  # E: call-arg: Missing positional argument "order_id"
placed.publish(order_id=7, curency="EUR")  # E: call-arg: Unexpected keyword argument "curency"
placed.publish_on_commit(order_id=None)  # E: arg-type: expected "int"
placed.send({"order_id": 7})  # E: arg-type: expected "OrderPlaced"
placed.send(OrderPlaced(7), countdwon=60)  # E: call-arg: Unexpected keyword argument "countdwon"
paid.publish(order_id="7")  # E: arg-type: expected "int"
paid.publish()  # E: call-arg: Missing named argument "order_id"
paid.send({"order_id": "7"})  # E: typeddict-item: expression has type "str"
shipped.publish(order_id="7")  # E: arg-type: expected "int"
shipped.publish()  # E: call-arg: Missing named argument "order_id"
orders.send("order.placed", {}, link=None)  # E: call-arg: Unexpected keyword argument "link"
orders.publish(7, order_id=7)  # E: arg-type: expected "str"
orders.event_type("order.lost", 7)  # E: arg-type: incompatible type "int"


@placed.on(group="email")  # E: arg-type: expected "Callable[[OrderPlaced], None]"
def wants_a_number(order: int) -> None: ...


@placed.on(group="email")  # E: arg-type: expected "Callable[[OrderPlaced], None]"
def wants_fields(order_id: int, currency: str) -> None: ...


@placed.on(group="email", bind=True)  # E: arg-type: expected "Callable[[Any, OrderPlaced], None]"
def bound(self: Task, order: OrderShipped) -> None: ...


@placed.on(group="email")
def receipt(order: OrderPlaced) -> str:
    return order.currency


receipt.delay(OrderShipped(order_id=7))  # E: arg-type: expected "OrderPlaced"
receipt.delay(order_id=7)  # E: call-arg: Unexpected keyword argument "order_id"
receipt(7)  # E: arg-type: expected "OrderPlaced"


@orders.on("order.placed", group="stock")
def reserve(order_id: int, **_more: Any) -> bool:
    return order_id > 0


@orders.on("order.placed", group="stock", bind=True)
def count(self: Task, order_id: int) -> int:
    return order_id


reserve.delay("7")  # E: arg-type: expected "int"
reserve.delay()  # E: call-arg: Missing positional argument "order_id"
count.delay("7")  # E: arg-type: expected "int"
count.delay(None, 7)  # E: call-arg: Too many arguments  # E: arg-type: expected "int"
number: int = receipt(OrderPlaced(7))  # E: assignment: expression has type "str"
