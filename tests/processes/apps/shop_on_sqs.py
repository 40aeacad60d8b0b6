"""A project with the settings that kombu's and Celery's pages have for ``sqs://``; the test changes the scheme only."""

import ast
import os
import time

from celery import Celery, Task
from celery.exceptions import Reject
from kombu.transport import SQS

from apps.notes import BROKER, note

# The event loop of sqs:// needs pycurl. Without it, a worker polls with boto3 in its main thread, as with eventlet.
SQS.Transport.implements = SQS.Transport.implements.extend(asynchronous=False)

app = Celery("shop", broker=BROKER)
app.conf.broker_transport_options = ast.literal_eval(os.environ["SHOP_TRANSPORT_OPTIONS"])
app.conf.task_default_queue = "orders"
app.conf.task_ignore_result = True
app.conf.task_acks_late = True
app.conf.worker_prefetch_multiplier = 1
app.conf.worker_enable_remote_control = False


def told(task: Task, event: str, name: str) -> None:
    note(event=event, task=name, scheme=BROKER.partition("://")[0], worker=str(task.request.hostname).partition("@")[0])


@app.task(bind=True, name="shop.tasks.pack")
def pack(self: Task, name: str, seconds: float) -> None:
    told(self, "start", name)
    time.sleep(seconds)
    told(self, "end", name)


@app.task(bind=True, name="shop.tasks.charge")
def charge(self: Task, name: str, bank: str) -> None:
    """Refused until the file *bank* exists; ``backoff_policy`` says when it is tried again."""
    told(self, "start", name)
    if not os.path.exists(bank):
        raise Reject("the bank is closed", requeue=False)
    told(self, "end", name)
