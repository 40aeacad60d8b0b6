"""Tasks that run later or long, through a queue and through a fan-out: ``celery -A apps.later worker``."""

import time

from celery import Celery, Task
from kombu import Exchange, Queue

from apps.notes import BROKER, facts, note

app = Celery("later", broker=BROKER)
app.conf.task_queues = [Queue("plain"), Queue("email", Exchange("orders", "fanout"))]
app.conf.task_default_queue = "plain"
app.conf.task_ignore_result = True


@app.task(bind=True, name="handle")
def handle(self: Task, number: int) -> None:
    note(number=number, retried_for=self.request.retries, **facts(self))


@app.task(bind=True, name="sleep", acks_late=True)
def sleep(self: Task, number: int, seconds: float) -> None:
    note(number=number, event="start", **facts(self))
    time.sleep(seconds)
    note(number=number, event="end", **facts(self))
