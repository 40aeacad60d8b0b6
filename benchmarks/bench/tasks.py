"""The Celery application of producers and workers. Its settings come from the environment (``BENCH_...``)."""

import os
import time
from typing import Any

from celery import Celery
from celery.signals import worker_init, worker_ready

from . import telemetry
from .peers import Broker
from .stamps import STAMP, append

broker = Broker.from_environment()
telemetry.set_up()

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
if broker.url.startswith("amqps:"):
    app.conf.broker_use_ssl = {"ca_certs": broker.ca_file}


@app.task(name="bench.noop")
def noop(*args: Any) -> None:
    """One byte in the file that counts finished tasks."""
    append("BENCH_DONE", b".")


@app.task(name="bench.stamp")
def stamp(sent_at: float) -> None:
    """When it was sent and when it started, by one machine's clock."""
    append("BENCH_DONE", STAMP.pack(sent_at, time.time()))


@worker_ready.connect
def _say_ready(**_: Any) -> None:
    if "BENCH_READY" in os.environ:
        append("BENCH_READY", b"ready")


@worker_init.connect
def _fill(**_: Any) -> None:
    """A broker in this process's memory is filled by the worker itself, before it consumes."""
    for number in range(int(os.environ.get("BENCH_FILL", "0"))):
        noop.delay(number)
