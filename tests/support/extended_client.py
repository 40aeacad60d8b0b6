"""AWS's extended client for Python, in a process of its own: importing it replaces ``boto3.Session``.

``python -m support.extended_client send|receive|delete QUEUE_URL BUCKET [SIZE]``. Prints one line of JSON.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.emulators import Emulator


def run(aws: Emulator, *arguments: str) -> Any:
    """What it prints."""
    environment = os.environ | {
        "AWS_ENDPOINT_URL": aws.endpoint_url,
        "AWS_ACCESS_KEY_ID": aws.key,
        "AWS_SECRET_ACCESS_KEY": aws.secret,
        "AWS_DEFAULT_REGION": aws.region,
    }
    command = [sys.executable, "-W", "ignore", "-m", "support.extended_client", *arguments]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def main(what: str, url: str, bucket: str, *more: str) -> Any:
    import sqs_extended_client  # noqa: F401
    import boto3  # isort: skip

    sqs = boto3.client("sqs")
    sqs.large_payload_support = bucket
    if what == "send":
        [size, key] = more
        attributes = {"S3Key": {"DataType": "String", "StringValue": key}} if key else {}
        return sqs.send_message(QueueUrl=url, MessageBody="\u00e4" * int(size), MessageAttributes=attributes)
    found = sqs.receive_message(QueueUrl=url, MessageAttributeNames=["All"], WaitTimeSeconds=5)["Messages"]
    [message] = found
    if what == "delete":
        sqs.delete_payload_from_s3 = True
        sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return message["Body"]


if __name__ == "__main__":
    json.dump(main(*sys.argv[1:]), sys.stdout, default=str)
