"""Two queues for messages that cannot be handled, with dead letters and without, and a group with one handler."""

import os

from celery import Celery, Task
from kombu import Exchange, Queue

import kombu_hake
from apps.notes import BROKER, note

app = Celery("badly", broker=BROKER)
app.conf.task_ignore_result = True
app.conf.worker_prefetch_multiplier = 4
app.conf.task_queues = [
    Queue("kept", Exchange("kept", "direct"), "kept", queue_arguments={"x-dead-letter-queue": True}),
    Queue("bare", Exchange("bare", "direct"), "bare"),
]
app.conf.task_default_queue = "kept"

orders = kombu_hake.Topic("orders", app=app)


@app.task(name="good")
def good(number: int) -> None:
    note(number=number, pool=os.environ.get("POOL"))


@orders.on("#", group="audit", name="audit", as_mapping=True, bind=True)
def audit(self: Task, event: dict[str, object]) -> None:
    note(event=event)
