"""What remote control has something to do on: ``celery -A apps.controlled worker``."""

import time

from celery import Celery, Task

from apps.notes import BROKER, facts, note

app = Celery("controlled", broker=BROKER)
app.conf.worker_pool_restarts = True
app.conf.worker_prefetch_multiplier = 2
app.conf.task_ignore_result = True


@app.task(bind=True, name="handle")
def handle(self: Task, number: int) -> None:
    note(number=number, **facts(self))


@app.task(bind=True, name="sleep")
def sleep(self: Task, number: int, seconds: float) -> None:
    note(number=number, event="start", **facts(self))
    time.sleep(seconds)
    note(number=number, event="end", **facts(self))
