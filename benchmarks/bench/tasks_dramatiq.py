"""The same task for Dramatiq with dramatiq-sqs, and what publishes it."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq_sqs import SQSBroker

from .meter import Meter
from .peers import REGION, Broker
from .stamps import append
from .standin import control

_BROKER = Broker.from_environment()
_QUEUE = os.environ["BENCH_QUEUE"]
dramatiq.set_broker(
    SQSBroker(
        endpoint_url=_BROKER.url,
        region_name=REGION,
        aws_access_key_id="bench",
        aws_secret_access_key="bench",
        middleware=[],
    )
)


@dramatiq.actor(queue_name=_QUEUE, actor_name="bench.noop")
def noop(*args: Any) -> None:
    """One byte in the file that counts finished tasks."""
    append("BENCH_DONE", b".")


def publish(queue: str, count: int, warm_up_count: int) -> dict[str, Any]:
    """``.send()``, one at a time."""
    for number in range(warm_up_count):
        noop.send(number)
    with Meter(_BROKER) as meter:
        for number in range(count):
            noop.send(number)
    return meter.result(count)


def fill(queue: str, count: int) -> dict[str, Any]:
    """Put tasks into the queue. Not measured."""
    sent = noop.send(0)
    control(_BROKER.side_url, fill={"queue": queue, "count": count, "id": sent.message_id})
    return {}
