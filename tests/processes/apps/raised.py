"""Three groups of a topic that takes 1 MiB: ``celery -A apps.raised worker -Q email,stock,billing``."""

from celery import Celery, Task

from apps.notes import BROKER, note
from kombu_hake import Topic

app = Celery("raised", broker=BROKER)
app.conf.task_ignore_result = True
orders = Topic("orders", app=app, max_size=1_048_576)


@orders.on("placed", group="email", name="receipt")
def receipt(text: str, fails: bool) -> None:
    note(task="receipt", size=len(text))


@orders.on("placed", group="stock", name="reserve")
def reserve(text: str, fails: bool) -> None:
    note(task="reserve", size=len(text))


@orders.on("placed", group="stock", name="count")
def count(text: str, fails: bool) -> None:
    note(task="count", size=len(text))


@orders.on("placed", group="billing", name="charge", bind=True)
def charge(self: Task, text: str, fails: bool) -> None:
    note(task="charge", size=len(text), retries=self.request.retries)
    if fails:
        raise ValueError("x" * 5_000)
    if not self.request.retries:
        raise self.retry(countdown=0)
