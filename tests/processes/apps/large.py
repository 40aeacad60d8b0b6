"""Large tasks and events: a plain queue, and two groups, one with several handlers: ``celery -A apps.large worker``."""

import json
import os
from pathlib import Path

from celery import Celery, Task
from kombu import Queue

from apps.notes import BROKER, note
from kombu_hake import Topic

#: While this file is missing, one handler fails.
FIXED = "LARGE_FIXED"

app = Celery("large", broker=BROKER)
app.conf.broker_transport_options = json.loads(os.environ.get("LARGE_OPTIONS", "{}"))
app.conf.task_queues = [Queue("plain")]
app.conf.task_default_queue = "plain"
app.conf.task_ignore_result = True
app.conf.worker_prefetch_multiplier = 1

orders = Topic("orders", app=app)


def ran(task: Task, number: int, data: str) -> None:
    note(number=number, task=task.name, size=len(data), retries=task.request.retries, id=task.request.id)


@app.task(bind=True, name="handle", acks_late=True, max_retries=3)
def handle(self: Task, number: int, data: str, failures: int = 0) -> None:
    if self.request.retries < failures:
        raise self.retry(countdown=1)
    ran(self, number, data)


@orders.on("placed", group="email", bind=True, name="receipt", max_retries=2)
def receipt(self: Task, number: int, data: str) -> None:
    if self.request.retries < 1:
        raise self.retry(countdown=0)
    ran(self, number, data)


@orders.on("placed", group="email", bind=True, name="thank")
def thank(self: Task, number: int, data: str) -> None:
    if not Path(os.environ[FIXED]).exists():
        raise ValueError("not yet")
    ran(self, number, data)


@orders.on("placed", group="stock", bind=True, name="reserve", as_mapping=True)
def reserve(self: Task, order: dict[str, object]) -> None:
    ran(self, int(str(order["number"])), str(order["data"]))
