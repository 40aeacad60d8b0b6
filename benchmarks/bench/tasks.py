"""The Celery application of producers and workers. Its settings come from the environment (``BENCH_...``)."""

import os
import time
from typing import Any

from celery import Celery
from celery.signals import worker_ready

from .peers import Broker
from .stamps import STAMP

broker = Broker.from_environment()

app = Celery("bench", broker=broker.url, set_as_current=True)
app.conf.update(
    broker_transport_options=broker.options,
    broker_connection_retry_on_startup=True,
    broker_pool_limit=32,
    task_default_queue=os.environ["BENCH_QUEUE"],
    task_ignore_result=True,
    worker_prefetch_multiplier=int(os.environ.get("BENCH_MULTIPLIER", "4")),
    worker_enable_remote_control=False,
)


_files: dict[tuple[int, str], int] = {}


def _append(variable: str, data: bytes) -> None:
    """Append to the file that a variable names; one small write is atomic, so processes and threads may share it."""
    key = (os.getpid(), variable)
    if key not in _files:
        _files[key] = os.open(os.environ[variable], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_files[key], data)


@app.task(name="bench.noop")
def noop(*args: Any) -> None:
    """One byte in the file that counts finished tasks."""
    _append("BENCH_DONE", b".")


@app.task(name="bench.stamp")
def stamp(sent_at: float) -> None:
    """When it was sent and when it started, by one machine's clock."""
    _append("BENCH_DONE", STAMP.pack(sent_at, time.time()))


@worker_ready.connect
def _say_ready(**_: Any) -> None:
    if "BENCH_READY" in os.environ:
        _append("BENCH_READY", b"ready")
