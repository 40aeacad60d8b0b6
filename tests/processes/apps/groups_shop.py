"""One topic, three groups, four handlers. Each run is a line of the file RUNS; ``billing`` fails until FIXED exists."""

import json
import os
from pathlib import Path

from celery import Celery, Task, shared_task

import kombu_hake

RUNS = Path(os.environ["GROUPS_RUNS"])
FIXED = Path(os.environ["GROUPS_FIXED"])

app = Celery("groups_shop", broker=os.environ["HAKE_BROKER_URL"], backend=os.environ["GROUPS_BACKEND"])
app.conf.broker_connection_retry_on_startup = True
app.conf.result_extended = True

orders = kombu_hake.Topic("orders")


def note(task: Task, order_id: object) -> None:
    request = task.request
    run = {"task": task.name, "id": request.id, "retries": request.retries, "order": order_id, "pid": os.getpid()}
    with RUNS.open("a") as runs:
        runs.write(json.dumps({**run, "event": request.hake_event, "root": request.root_id}) + "\n")


@orders.on("placed", group="email", bind=True, name="send_receipt")
def send_receipt(self: Task, order_id: int, **_more: object) -> str:
    note(self, order_id)
    return f"receipt {order_id}"


@orders.on("placed", group="email", bind=True, name="thank", autoretry_for=(ConnectionError,), default_retry_delay=1)
def thank(self: Task, order_id: int, **_more: object) -> str:
    note(self, order_id)
    if self.request.retries < 2:
        raise ConnectionError("the mail server is busy")
    return f"thanks {order_id}"


@orders.on("placed", "paid", group="inventory", as_mapping=True)
class ReserveStock(Task):
    name = "reserve_stock"

    def run(self, event: dict) -> str:
        note(self, event["order_id"])
        return f"reserved {event['order_id']}"


@orders.on("placed", group="billing", bind=True, name="charge")
def charge(self: Task, order_id: int, **_more: object) -> str:
    note(self, order_id)
    if not FIXED.exists():
        raise ValueError("no such card")
    return f"charged {order_id}"


@shared_task(name="plain")
def plain(number: int) -> int:
    return number + 1
