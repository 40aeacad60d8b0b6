"""The stand-in, reached past all that is measured: fill a queue, look what is left, tidy up."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import boto3

from .peers import REGION


def client(service: str, endpoint_url: str) -> Any:
    """A boto3 client as a script would make it."""
    return boto3.client(
        service,
        endpoint_url=endpoint_url,
        region_name=REGION,
        aws_access_key_id="bench",
        aws_secret_access_key="bench",
    )


def fill(aws_url: str, queue: str, count: int) -> None:
    """Turn the one task in a queue into ``count`` of them, with ids of their own.

    Raises:
        LookupError: there is no message in the queue, or no task id in it.
    """
    sqs = client("sqs", aws_url)
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    found = sqs.receive_message(QueueUrl=url, MessageAttributeNames=["All"], WaitTimeSeconds=2)
    if not found.get("Messages"):
        raise LookupError(f"nothing to copy in {queue}")
    (message,) = found["Messages"]
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    common = {"MessageAttributes": message["MessageAttributes"]} if "MessageAttributes" in message else {}
    for start in range(0, count, 10):
        numbers = range(start, min(start + 10, count))
        entries = [{"Id": str(number), "MessageBody": with_new_id(message["Body"]), **common} for number in numbers]
        sqs.send_message_batch(QueueUrl=url, Entries=entries)


def with_new_id(body: str) -> str:
    """A kombu message for another task: its id replaced wherever it stands.

    Raises:
        LookupError: there is no ``id`` or ``correlation_id`` in it.
    """
    is_encoded = not body.startswith("{")
    text = base64.b64decode(body).decode() if is_encoded else body
    envelope = json.loads(text)
    task_id = envelope["headers"].get("id") or envelope["properties"].get("correlation_id")
    if not task_id:
        raise LookupError("no task id in the message")
    text = text.replace(task_id, str(uuid.uuid4()))
    return base64.b64encode(text.encode()).decode() if is_encoded else text


def left_in(aws_url: str, queue: str) -> int:
    """Messages in a queue: visible, in flight and delayed. The stand-in counts exactly."""
    sqs = client("sqs", aws_url)
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(attributes.get(name, 0)) for name in names)


def delete_queues(aws_url: str, prefix: str) -> None:
    """Delete every queue whose name starts so; the topics stay."""
    sqs = client("sqs", aws_url)
    for page in sqs.get_paginator("list_queues").paginate(QueueNamePrefix=prefix, PaginationConfig={"PageSize": 100}):
        for url in page.get("QueueUrls", []):
            sqs.delete_queue(QueueUrl=url)
