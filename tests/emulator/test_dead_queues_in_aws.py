"""Dead-letter queues that were asked for, as AWS's own redrive and people's commands meet them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner
from kombu import Connection, Exchange, Producer, Queue
from support.celery_workers import wait_until
from support.emulators import Emulator

from kombu_hake.cli.main import hake

ORDERS = Exchange("orders", type="fanout")
ASKED = {"x-dead-letter-queue": True, "x-delivery-limit": 2}


@pytest.fixture
def connection(aws: Emulator) -> Iterator[Connection]:
    with Connection(aws.url(visibility_timeout=1, wait_time_seconds=1)) as made:
        yield made


def attributes(aws: Emulator, queue: str) -> dict[str, Any]:
    sqs = aws.client("sqs")
    url = sqs.get_queue_url(QueueName=f"{aws.namespace}__{queue}")["QueueUrl"]
    return dict(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"])


def ready(aws: Emulator, queue: str) -> int:
    return int(attributes(aws, queue)["ApproximateNumberOfMessages"])


def names(aws: Emulator) -> list[str]:
    prefix = f"{aws.namespace}__"
    urls = aws.client("sqs").list_queues(QueueNamePrefix=prefix).get("QueueUrls", [])
    return sorted(url.rpartition(prefix)[2] for url in urls)


def run(aws: Emulator, *arguments: str) -> str:
    app = Celery(broker=aws.url(), set_as_current=False)
    result = CliRunner().invoke(hake, list(arguments), obj=CLIContext(app, no_color=True, workdir=None))
    assert result.exit_code == 0, result.output
    return result.output


def test_a_message_that_is_received_too_often_is_set_aside_shown_and_sent_back(
    aws: Emulator, connection: Connection
) -> None:
    channel = connection.default_channel
    queue = Queue("mails", queue_arguments=ASKED)(channel)
    queue.declare()
    assert json.loads(attributes(aws, "mails")["RedrivePolicy"])["maxReceiveCount"] in (2, "2")
    Producer(channel).publish({"order": 7}, routing_key="mails", headers={"task": "t", "id": "one"})
    for _ in range(2):
        message = queue.get()
        while message is None:
            message = queue.get()
        message.requeue()
    wait_until(lambda: queue.get() is None and ready(aws, "mails-dead") == 1, "the redrive")
    assert "received too often" in run(aws, "dlq", "list", "mails")
    assert "1 dead letter of group mails sent back" in run(aws, "dlq", "requeue", "mails")
    message = queue.get()
    while message is None:
        message = queue.get()
    assert message.payload == {"order": 7}
    message.ack()


def test_a_rejected_message_is_shown_with_its_reason_and_removed(aws: Emulator, connection: Connection) -> None:
    channel = connection.default_channel
    queue = Queue("mails", queue_arguments=ASKED)(channel)
    queue.declare()
    Producer(channel).publish("x", routing_key="mails")
    message = queue.get()
    assert message is not None
    message.reject()
    wait_until(lambda: ready(aws, "mails-dead") == 1, "the dead letter")
    assert json.loads(run(aws, "dlq", "list", "mails", "--json"))[0]["reason"] == "rejected"
    run(aws, "dlq", "purge", "mails", "--all", "-f")
    wait_until(lambda: ready(aws, "mails-dead") == 0, "its removal")


def test_a_dead_letter_queue_that_somebody_deleted_is_made_again(aws: Emulator, connection: Connection) -> None:
    channel = connection.default_channel
    queue = Queue("mails", queue_arguments=ASKED)(channel)
    queue.declare()
    before = attributes(aws, "mails-dead")
    sqs = aws.client("sqs")
    sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=f"{aws.namespace}__mails-dead")["QueueUrl"])
    Producer(channel).publish("x", routing_key="mails")
    message = queue.get()
    assert message is not None
    message.reject()
    wait_until(lambda: ready(aws, "mails-dead") == 1, "the dead letter")
    after = attributes(aws, "mails-dead")
    assert after["QueueArn"] == before["QueueArn"]
    assert after.get("RedriveAllowPolicy") == before.get("RedriveAllowPolicy")
    assert "1 dead letter of group mails sent back" in run(aws, "dlq", "requeue", "mails")


def test_the_subscription_names_a_queue_for_what_sns_cannot_deliver(aws: Emulator, connection: Connection) -> None:
    channel = connection.default_channel
    queue = Queue("mails", ORDERS, queue_arguments=ASKED)(channel)
    queue.declare()
    assert names(aws) == ["mails", "mails-dead", "mails-undelivered"]
    sns = aws.client("sns")
    [topic] = [t["TopicArn"] for t in _topics(sns) if t["TopicArn"].endswith(f":{aws.namespace}__orders")]
    [subscription] = sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    found = sns.get_subscription_attributes(SubscriptionArn=subscription["SubscriptionArn"])["Attributes"]
    keeper = attributes(aws, "mails-undelivered")
    assert json.loads(found["RedrivePolicy"]) == {"deadLetterTargetArn": keeper["QueueArn"]}
    [statement] = json.loads(keeper["Policy"])["Statement"]
    assert topic in json.dumps(statement["Condition"])
    queue.delete()
    assert names(aws) == []


def test_what_was_not_delivered_can_be_sent_to_its_queue(aws: Emulator, connection: Connection) -> None:
    """No emulator keeps what SNS can't deliver, so the test puts it there as SNS does: raw."""
    channel = connection.default_channel
    queue = Queue("mails", ORDERS, queue_arguments=ASKED)(channel)
    queue.declare()
    Producer(channel).publish({"order": 7}, exchange="orders", headers={"task": "t", "id": "one"})
    message = queue.get()
    while message is None:
        message = queue.get()
    sqs = aws.client("sqs")
    url = sqs.get_queue_url(QueueName=f"{aws.namespace}__mails-undelivered")["QueueUrl"]
    delivery = channel.unsettled[message.delivery_tag]
    sqs.send_message(QueueUrl=url, MessageBody=delivery.message["Body"])
    message.ack()
    [group] = json.loads(run(aws, "groups", "mails", "--json"))
    assert (group["undelivered"], group["dead"]) == (1, 0)
    assert "undelivered" in run(aws, "dlq", "list", "mails", "--undelivered")
    assert "1 dead letter" in run(aws, "dlq", "requeue", "mails", "--undelivered")
    message = queue.get()
    while message is None:
        message = queue.get()
    assert message.payload == {"order": 7}
    message.ack()


def _topics(sns: Any) -> Iterator[dict[str, str]]:
    for page in sns.get_paginator("list_topics").paginate():
        yield from page["Topics"]
