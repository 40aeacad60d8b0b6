"""Tasks that publish tasks: ``celery -A apps.tree worker``."""

import time

from celery import Celery, Task

from apps.notes import BROKER, facts, note

app = Celery("tree", broker=BROKER)
app.conf.task_ignore_result = True
app.conf.worker_pool_restarts = True
# Celery kills a new child that is not up in 4 s, and logs an error: on a busy machine, any child.
app.conf.worker_proc_alive_timeout = 60.0


@app.task(bind=True, name="grow")
def grow(self: Task, number: int, leaves: int) -> None:
    """Publishes *leaves* tasks from wherever this pool runs tasks."""
    for leaf in range(leaves):
        unfold.delay(number, leaf)
    note(number=number, event="grown", **facts(self))


@app.task(bind=True, name="unfold")
def unfold(self: Task, number: int, leaf: int) -> None:
    note(number=number, leaf=leaf, event="leaf", **facts(self))


@app.task(bind=True, name="pause")
def pause(self: Task, number: int, seconds: float) -> None:
    time.sleep(seconds)
    note(number=number, event="end", **facts(self))
