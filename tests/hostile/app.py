"""The app whose workers get hostile messages: plain tasks in one queue, and a group with handlers of both kinds.

Only ``hostile.good`` has to run. The other tasks are there for hostile messages to name.
"""

import json
import os
import time

from celery import Celery, Task
from kombu import Queue

import kombu_hake
from hostile.corpus import GROUP, TASKS, TOPIC

BROKER, RUNS, DEAD_LETTERS = "HOSTILE_BROKER", "HOSTILE_RUNS", "HOSTILE_DEAD_LETTERS"

app = Celery("hostile", broker=os.environ.get(BROKER, "hake://"))
has_dead_letters = os.environ.get(DEAD_LETTERS) == "yes"
app.conf.task_ignore_result = True
app.conf.worker_prefetch_multiplier = 4
app.conf.task_queues = [Queue(TASKS, queue_arguments={"x-dead-letter-queue": has_dead_letters})]
orders = kombu_hake.Topic(TOPIC, app=app, dead_letters=has_dead_letters)


def note(task: Task, **fields: object) -> None:
    """One line in one write, so that no two processes mix theirs."""
    request = task.request
    ids = [(request.properties or {}).get("message_id"), request.id, request.root_id, request.get("hake_event")]
    run = {"task": task.name, "ids": repr(ids)[:2_000], **fields}
    with open(os.environ[RUNS], "ab", buffering=0) as runs:
        runs.write(json.dumps({**run, "at": time.time()}).encode() + b"\n")


@app.task(bind=True, name="hostile.good")
def good(self: Task, number: int) -> None:
    note(self, number=number)


@app.task(bind=True, name="hostile.accept")
def accept(self: Task, *_args: object, **_kwargs: object) -> None:
    """What hostile messages name."""
    note(self)


@app.task(bind=True, name="hostile.retry", max_retries=1)
def retry(self: Task, *_args: object, **_kwargs: object) -> None:
    note(self)
    if not self.request.retries:
        raise self.retry(countdown=0)


@app.task(bind=True, name="hostile.fail")
def fail(self: Task, *_args: object, **_kwargs: object) -> None:
    note(self)
    raise ValueError("\x1b[2J a line\n[2026-01-01 00:00:00,000: CRITICAL/MainProcess] forged")


@orders.on("paid", "placed", "odd.#", group=GROUP, as_mapping=True, bind=True, name="hostile.mapped")
def mapped(self: Task, _event: object) -> None:
    note(self)


@orders.on("placed", "odd.two.#", group=GROUP, bind=True, name="hostile.keywords")
def keywords(self: Task, *_args: object, **_kwargs: object) -> None:
    note(self)
