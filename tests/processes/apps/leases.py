"""Tasks that lose their leases: ``celery -A apps.leases worker``."""

import threading
import time
from typing import Any

from celery import Celery, Task

from apps.notes import BROKER, facts, note
from kombu_hake.signals import lease_lost

app = Celery("leases", broker=BROKER)
app.conf.task_ignore_result = True
app.conf.worker_prefetch_multiplier = 2

told = threading.Event()


@lease_lost.connect
def on_lease_lost(sender: str, task_id: str, queue: str, why: Any, request: Any, **_kwargs: Any) -> None:
    thread = threading.current_thread().name
    note(event="lost", task=sender, id=task_id, queue=queue, why=why.name, thread=thread, known=request is not None)
    told.set()


@app.task(bind=True, name="sleep", acks_late=True)
def sleep(self: Task, number: int, seconds: float) -> None:
    note(number=number, event="start", **facts(self))
    time.sleep(seconds)
    note(number=number, event="end", **facts(self))


@app.task(bind=True, name="sleep_until_told", acks_late=True)
def sleep_until_told(self: Task, number: int) -> None:
    """What a task in a thread of the worker can do about it."""
    note(number=number, event="start", **facts(self))
    assert told.wait(60)
    note(number=number, event="stopped", **facts(self))
