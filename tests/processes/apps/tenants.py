"""A workflow of every shape, in which each task gets the name of its tenant as ``who``."""

import os
import time

from celery import Celery, Task, chord, group
from celery.exceptions import Reject
from kombu import Exchange, Queue

from apps.notes import BROKER, note
from kombu_hake import Topic

app = Celery("tenants", broker=BROKER, backend=os.environ.get("TENANTS_BACKEND"))
app.conf.task_queues = [
    Queue("celery", Exchange("celery"), routing_key="celery", queue_arguments={"x-dead-letter-queue": "celery-dead"}),
    Queue("ordered.fifo", Exchange("ordered.fifo"), routing_key="ordered.fifo"),
    Queue("later", Exchange("orders", "topic"), routing_key="later"),
]
app.conf.result_chord_retry_interval = 0.1
app.conf.task_publish_retry = False
orders = Topic("orders", app=app)


def wrote(task: Task, who: str, what: str = "") -> None:
    properties = task.request.properties or {}
    note(task=task.name, who=who, what=what, tenant=properties.get("tenant"), retries=task.request.retries)


@app.task(bind=True, name="step")
def step(self: Task, who: str, what: str = "") -> str:
    wrote(self, who, what)
    return who


@app.task(bind=True, name="fans")
def fans(self: Task, who: str) -> None:
    """Publishes in every way, and names no tenant."""
    wrote(self, who)
    step.delay(who, "delay")
    group(step.si(who, "group"), step.si(who, "group")).apply_async()
    chord([step.si(who, "chord"), step.si(who, "chord")])(step.si(who, "chord body"))
    step.apply_async((who, "countdown"), countdown=1)
    step.apply_async((who, "fifo"), queue="ordered.fifo")
    orders.send("placed", {"who": who})
    orders.publish("shipped", who=who)
    with app.producer_pool.acquire() as producer:
        producer.publish({"who": who}, exchange="", routing_key="plain", headers={"what": "plain"})
    calls(who)
    step.apply_async(("nobody", "none"), tenant=None)
    step.apply_async(("beta", "other"), tenant="beta")
    step.apply_async(("by-hand", "by hand"), MessageGroupId="by-hand")


@app.task(bind=True, name="calls")
def calls(self: Task, who: str) -> None:
    """Called like a function, by a task that runs."""
    step.delay(who, "called")


@app.task(bind=True, name="retries")
def retries(self: Task, who: str) -> None:
    wrote(self, who)
    if self.request.retries < 2:
        raise self.retry(countdown=self.request.retries)
    step.delay(who, "after retries")


@app.task(bind=True, name="fails")
def fails(self: Task, who: str) -> None:
    wrote(self, who)
    raise ValueError(who)


@app.task(bind=True, name="times_out")
def times_out(self: Task, who: str) -> None:
    """Its errback is sent by the main process of the worker."""
    wrote(self, who)
    time.sleep(5)


@app.task(bind=True, name="replaced")
def replaced(self: Task, who: str) -> None:
    wrote(self, who)
    raise self.replace(step.si(who, "replacement"))


@app.task(bind=True, name="rejected", acks_late=True)
def rejected(self: Task, who: str) -> None:
    wrote(self, who)
    raise Reject(who, requeue=False)


@orders.on("placed", group="email")
def first_handler(who: str) -> None:
    step.delay(who, "first handler")


@orders.on("placed", group="email")
def second_handler(who: str) -> None:
    step.delay(who, "second handler")


@orders.on("placed", group="stock", bind=True, name="single_handler")
def single_handler(self: Task, who: str) -> None:
    wrote(self, who)
    step.delay(who, "single handler")


@orders.on("shipped", group="stock", bind=True, name="failing_handler")
def failing_handler(self: Task, who: str) -> None:
    wrote(self, who)
    raise ValueError(who)
