"""The stand-in, reached past all that is measured: what is left, tidy up."""

from __future__ import annotations

from typing import Any

import boto3

REGION = "us-east-1"


def client(service: str, endpoint_url: str) -> Any:
    """A boto3 client as a script would make it."""
    return boto3.client(
        service,
        endpoint_url=endpoint_url,
        region_name=REGION,
        aws_access_key_id="bench",
        aws_secret_access_key="bench",
    )


def left_in(side_url: str, queue: str) -> int:
    """Messages in a queue: visible, in flight and delayed. The stand-in counts exactly."""
    sqs = client("sqs", side_url)
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(attributes.get(name, 0)) for name in names)
