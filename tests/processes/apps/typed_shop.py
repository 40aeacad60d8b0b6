"""A group whose handlers get instances of models, and one handler without a model. Each run is a line of RUNS."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery, Task
from pydantic import BaseModel

import kombu_hake

RUNS = Path(os.environ["TYPED_RUNS"])

app = Celery("typed_shop", broker=os.environ["HAKE_BROKER_URL"])
app.conf.broker_connection_retry_on_startup = True
orders = kombu_hake.Topic("orders", app=app)


@dataclass
class OrderPlaced:
    order_id: int
    currency: str = "EUR"


class OrderPaid(BaseModel):
    order_id: int


placed = orders.event_type("placed", OrderPlaced)
paid = orders.event_type("paid", OrderPaid)


def note(name: str, what: Any) -> None:
    with RUNS.open("a") as runs:
        runs.write(f"{name} {what!r}\n")


@placed.on(group="email", name="receipt", bind=True, max_retries=1)
def receipt(self: Task, order: OrderPlaced) -> None:
    note("receipt", order)
    if order.currency == "XXX" and not self.request.retries:
        raise self.retry(countdown=0)


@paid.on(group="email", name="thank")
def thank(order: OrderPaid) -> None:
    note("thank", order)


@orders.on("placed", group="email", name="plain")
def plain(**payload: object) -> None:
    note("plain", payload)
