"""Three groups behind one fanout exchange: ``celery -A apps.groups worker -Q email``."""

from celery import Celery, Task
from kombu import Exchange, Queue

from apps.notes import BROKER, facts, note

ORDERS = Exchange("orders", "fanout")

app = Celery("groups", broker=BROKER)
app.conf.task_queues = [Queue(name, ORDERS) for name in ("email", "inventory", "analytics")]
app.conf.task_ignore_result = True


@app.task(bind=True, name="handle")
def handle(self: Task, number: int) -> None:
    note(number=number, **facts(self))


@app.task(bind=True, name="handle_with_trouble", max_retries=5)
def handle_with_trouble(self: Task, number: int, trouble_in: str, times: int) -> None:
    """Fails ``times`` times in one group and goes through in the others."""
    found = facts(self)
    note(number=number, **found)
    if found["queue"] == trouble_in and self.request.retries < times:
        raise self.retry(countdown=0)
