"""The same task for taskiq with taskiq-aio-sqs, and what publishes it."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from taskiq_aio_sqs import SQSBroker

from .meter import Meter
from .peers import REGION, Broker
from .stamps import append
from .standin import control

_BROKER = Broker.from_environment()
broker = SQSBroker(
    os.environ["BENCH_QUEUE"],
    endpoint_url=_BROKER.url,
    region_name=REGION,
    aws_access_key_id="bench",
    aws_secret_access_key="bench",
    max_number_of_messages=10,
    wait_time_seconds=20,
    visibility_timeout=120,
)


@broker.task(task_name="bench.noop")
async def noop(*args: Any) -> None:
    """One byte in the file that counts finished tasks."""
    append("BENCH_DONE", b".")


def publish(queue: str, count: int, warm_up_count: int) -> dict[str, Any]:
    """``.kiq()``, one at a time."""
    return asyncio.run(_publish(queue, count, warm_up_count))


async def _publish(queue: str, count: int, warm_up_count: int) -> dict[str, Any]:
    _make(queue)
    await broker.startup()
    for number in range(warm_up_count):
        await noop.kiq(number)
    with Meter(_BROKER) as meter:
        for number in range(count):
            await noop.kiq(number)
    await broker.shutdown()
    return meter.result(count)


def fill(queue: str, count: int) -> dict[str, Any]:
    """Put tasks into the queue. Not measured."""

    async def send() -> str:
        await broker.startup()
        sent = await noop.kiq(0)
        await broker.shutdown()
        return sent.task_id

    _make(queue)
    control(_BROKER.side_url, fill={"queue": queue, "count": count, "id": asyncio.run(send())})
    return {}


def _make(queue: str) -> None:
    """The broker takes a queue that is there already."""
    from . import aws

    aws.client("sqs", _BROKER.side_url).create_queue(QueueName=queue)
