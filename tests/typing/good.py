"""What type checkers accept; see tests/unit/test_typing.py."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, TypedDict

from celery import Task
from pydantic import BaseModel
from typing_extensions import assert_type

from kombu_hake import Topic


@dataclass
class OrderPlaced:
    order_id: int
    lines: list[str]
    placed_at: datetime | None = None


class OrderPaid(TypedDict):
    order_id: int
    cents: int


class OrderShipped(BaseModel):
    order_id: int
    parcels: int = 1


orders = Topic("orders")
placed = orders.event_type("order.placed", OrderPlaced)
paid = orders.event_type("order.paid", OrderPaid)
shipped = orders.event_type("order.shipped", OrderShipped)

placed.publish(order_id=7, lines=["book"])
placed.publish(7, ["book"], placed_at=datetime(2026, 1, 1, tzinfo=timezone.utc))
placed.publish_on_commit(order_id=7, lines=[])
placed.send(OrderPlaced(7, []), countdown=60, priority=3, event_id="order-7")
paid.publish(order_id=7, cents=999)
paid.send({"order_id": 7, "cents": 999})
shipped.publish(order_id=7)
shipped.send(OrderShipped(order_id=7), on_commit=True)
assert_type(placed.publish(order_id=7, lines=[]).id, str)


@placed.on(group="email", autoretry_for=(OSError,), max_retries=5)
def send_receipt(order: OrderPlaced) -> str:
    return f"receipt of {order.order_id}"


@placed.on(group="audit", bind=True)
def note(self: Task, order: OrderPlaced) -> int:
    return order.order_id


@paid.on(group="email")
def thank(order: OrderPaid) -> int:
    return order["cents"]


@shipped.on(group="email")
def announce(order: OrderShipped) -> int:
    return order.parcels


assert_type(send_receipt(OrderPlaced(7, [])), str)
assert_type(note(OrderPlaced(7, [])), int)
assert_type(thank({"order_id": 7, "cents": 9}), int)
send_receipt.delay(OrderPlaced(7, []))
announce.delay(OrderShipped(order_id=7))
print(send_receipt.name, send_receipt.max_retries)


@orders.on("order.placed", "order.paid", group="stock", acks_late=False)
def reserve(order_id: int, *, lines: list[str] | None = None, **_more: Any) -> bool:
    return bool(lines) and order_id > 0


@orders.on("order.#", group="log", bind=True, max_retries=1)
def log(self: Task, /, order_id: int, **_more: Any) -> None:
    print(order_id)


@orders.on("order.placed", group="billing")
class Charge(Task):  # type: ignore[misc]
    def run(self, order_id: int) -> None:
        print(order_id)


assert_type(reserve(7, lines=["book"]), bool)
reserve.delay(7)
reserve.apply_async(kwargs={"order_id": 7}, countdown=5)
log.delay(order_id=7)
Charge.delay(order_id=7)
orders.publish("order.placed", order_id=7, lines=[])
orders.send("order.placed", {"order_id": 7, "lines": []}, countdown=60, MessageGroupId="7")
orders.send("order.placed", {"order_id": 7, "lines": []}, tenant="acme")
