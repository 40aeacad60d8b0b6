"""The default queue and tasks that take their time: ``celery -A apps.plain worker``."""

import os
import time
from pathlib import Path

from celery import Celery, Task

from apps.notes import BROKER, facts, note

app = Celery("plain", broker=BROKER)
app.conf.task_ignore_result = True
app.conf.worker_enable_remote_control = "WITHOUT_CONTROL" not in os.environ
app.conf.worker_prefetch_multiplier = int(os.environ.get("PREFETCH_MULTIPLIER", "4"))
app.conf.task_reject_on_worker_lost = bool(os.environ.get("REJECT_ON_WORKER_LOST"))
app.conf.worker_soft_shutdown_timeout = float(os.environ.get("SOFT_SHUTDOWN_TIMEOUT", "0"))


@app.task(bind=True, name="handle")
def handle(self: Task, number: int) -> None:
    note(number=number, **facts(self))


@app.task(bind=True, name="sleep")
def sleep(self: Task, number: int, seconds: float) -> None:
    note(number=number, event="start", **facts(self))
    time.sleep(seconds)
    note(number=number, event="end", **facts(self))


@app.task(bind=True, name="hold")
def hold(self: Task, number: int, until: str) -> None:
    """Runs until a file exists."""
    note(number=number, event="start", **facts(self))
    while not Path(until).exists():
        time.sleep(0.02)
    note(number=number, event="end", **facts(self))


@app.task(bind=True, name="sleep_late", acks_late=True)
def sleep_late(self: Task, number: int, seconds: float) -> None:
    """Sleeps only the first time."""
    found = facts(self)
    note(number=number, event="start", **found)
    if not found["redelivered"]:
        time.sleep(seconds)
    note(number=number, event="end", **found)
