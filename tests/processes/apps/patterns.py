"""Queues with several bindings to one topic exchange: ``celery -A apps.patterns worker -Q first``."""

from celery import Celery, Task
from kombu import Exchange, Queue, binding

from apps.notes import BROKER, facts, note

EVENTS = Exchange("events", "topic")
BINDINGS = {
    "first": ["order.*", "order.#"],
    "second": ["#.eu", "*.created.#"],
    "third": ["invoice.paid.us"],
    "fourth": ["#"],
}

app = Celery("patterns", broker=BROKER)
app.conf.task_queues = [Queue(name, [binding(EVENTS, key) for key in keys]) for name, keys in BINDINGS.items()]
app.conf.task_ignore_result = True


@app.task(bind=True, name="handle")
def handle(self: Task, key: str) -> None:
    note(key=key, **facts(self))
