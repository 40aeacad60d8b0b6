"""What publishers and workers run: three groups on one exchange, plain tasks that write down each run."""

import json
import os
import random
import socket
import time
from pathlib import Path

from celery import Celery, Task
from celery.result import AsyncResult
from kombu import Exchange, Queue

BROKER = "CAMPAIGN_BROKER"
FOLDER = "CAMPAIGN_FOLDER"
#: While this file is in the folder, no name is resolved in processes of the campaign.
NO_DNS = "no-dns"
HOST_NAME = "aws.campaign.invalid"
GROUPS = ("email", "inventory", "analytics")
#: Bytes of an event; 0 for a small one.
LARGE = int(os.environ.get("CAMPAIGN_LARGE", "0"))
EVENTS = Exchange("events", "fanout")
PLAIN = "plain"

app = Celery("campaign", broker=os.environ.get(BROKER, "hake://"))
app.conf.task_queues = [*(Queue(group, EVENTS) for group in GROUPS), Queue(PLAIN)]
TO_ALL = {"exchange": EVENTS.name, "routing_key": "event"}
app.conf.task_routes = {"record": TO_ALL, "retrying": TO_ALL}
app.conf.task_ignore_result = True
app.conf.task_acks_late = os.environ.get("CAMPAIGN_EARLY") is None
app.conf.task_reject_on_worker_lost = True
app.conf.worker_prefetch_multiplier = 4
app.conf.broker_transport_options = json.loads(os.environ.get("CAMPAIGN_OPTIONS", "{}"))


def append(name: str, **fields: object) -> None:
    """One line in one write, so that no two processes mix theirs."""
    with open(Path(os.environ[FOLDER]) / name, "ab", buffering=0) as lines:
        lines.write(json.dumps({**fields, "at": time.time()}).encode() + b"\n")


def _note(task: Task, number: int, kind: str) -> None:
    request = task.request
    append(
        "runs", number=number, kind=kind, id=request.id, retries=request.retries, pid=os.getpid(),
        group=request.delivery_info["routing_key"],  # which names the queue, also after a fan-out
        worker=str(request.hostname).partition("@")[0], message=request.properties["message_id"],
        receives=request.properties["receive_count"],
    )  # fmt: skip


@app.task(bind=True, name="record")
def record(self: Task, number: int, kind: str = "event") -> None:
    """A run of an event."""
    _note(self, number, kind)
    time.sleep(random.uniform(0.0, 0.02))


@app.task(bind=True, name="record_plain")
def record_plain(self: Task, number: int, kind: str = "plain") -> None:
    """A run of what is sent to a queue."""
    _note(self, number, kind)


@app.task(bind=True, name="retrying", max_retries=5)
def retrying(self: Task, number: int, kind: str = "retry", padding: str = "") -> None:
    """Fails twice in each group."""
    if self.request.retries < 2:
        raise self.retry(countdown=1)
    _note(self, number, kind)


def send(number: int) -> AsyncResult:
    """Publish an event."""
    return retrying.delay(number, padding="x" * LARGE) if LARGE else record.delay(number)


def _resolve_our_name() -> None:
    """Names without a name server: ours is this machine, as long as there is DNS."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, *args: object, **kwargs: object) -> object:
        if host != HOST_NAME:
            return resolve(host, *args, **kwargs)  # type: ignore[arg-type]
        if (Path(os.environ[FOLDER]) / NO_DNS).exists():
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve("127.0.0.1", *args, **kwargs)  # type: ignore[arg-type]

    socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]


if FOLDER in os.environ:
    _resolve_our_name()
