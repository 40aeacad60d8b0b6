"""Tasks that start others, in three groups behind one fanout exchange: ``celery -A apps.canvas worker -Q email``."""

import os

from celery import Celery, Task, chord, group
from celery.exceptions import Reject
from kombu import Exchange, Queue

from apps.notes import BROKER, facts, note

ORDERS = Exchange("orders", "fanout")
GROUPS = ("email", "inventory", "analytics")
#: To every group, as a publisher that knows only the exchange.
FANNED = {"exchange": "orders", "routing_key": "any"}

app = Celery("canvas", broker=BROKER, backend=os.environ.get("CANVAS_BACKEND"))
app.conf.task_queues = [*(Queue(name, ORDERS) for name in GROUPS), Queue("celery")]
app.conf.result_chord_retry_interval = 0.1


def queue_of(task: Task) -> str:
    """The queue that the running task lies in."""
    return str(task.request.delivery_info["routing_key"])


@app.task(bind=True, name="first")
def first(self: Task, what: str) -> str:
    note(what=what, task="first", **facts(self))
    return what


@app.task(name="listed")
def listed(what: str) -> None:
    """Called by Celery's starmap and chunks, which are tasks: it has no message of its own."""
    note(what=what, task="listed", routing_key="")


@app.task(bind=True, name="follower")
def follower(self: Task, *args: object) -> str:
    note(what=args[-1], task="follower", **facts(self))
    return str(args[-1])


@app.task(bind=True, name="starts")
def starts(self: Task, what: str) -> None:
    """Starts others from within a group."""
    note(what=what, task="starts", **facts(self))
    if what == "replace":
        raise self.replace(follower.si(what))
    if what == "group":
        group(follower.si(what), follower.si(what)).apply_async()
    if what == "chord":
        chord([follower.si(what), follower.si(what)])(follower.s("chord body"))


@app.task(bind=True, name="troubled", max_retries=5)
def troubled(self: Task, what: str) -> None:
    """Has its trouble in inventory, the first time round."""
    note(what=what, task="troubled", **facts(self))
    if queue_of(self) != "inventory" or self.request.retries > 1:
        return
    if what == "fails":
        raise ValueError(what)
    if what == "retries twice":
        raise self.retry(countdown=0)
    if self.request.retries:
        return
    if what == "retries later":
        raise self.retry(countdown=2)
    if what == "retries elsewhere":
        raise self.retry(queue="celery", countdown=0)
    if what == "retries everywhere":
        raise self.retry(countdown=0, **FANNED)


@app.task(bind=True, name="requeued", acks_late=True)
def requeued(self: Task, what: str) -> None:
    note(what=what, task="requeued", **facts(self))
    if queue_of(self) == "inventory" and not self.request.delivery_info["redelivered"]:
        raise Reject(what, requeue=True)
