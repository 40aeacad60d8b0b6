"""Messages that would hold a worker, or lead a retry or an answer to a queue that their publisher chose."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange
from support.celery_workers import Stage, client, unfinished, wait_until
from support.emulators import Emulator

from kombu_hake.amqp.tasks import PRIVATE_EXCHANGE

pytestmark = pytest.mark.timeout(150)
THREADS = ("-P", "threads", "-c", "1")
MAILBOX = Exchange("celery.pidbox", "fanout")


def send_text(aws: Emulator, queue: str, text: str) -> None:
    sqs = aws.client("sqs")
    url = sqs.get_queue_url(QueueName=f"{aws.namespace}__{queue}")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody=text)


def task(name: str, number: int, *more: Any, delivery_info: Any, **properties: Any) -> str:
    return json.dumps(
        {
            "body": json.dumps([[number, *more], {}, {}]),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"task": name, "id": f"id-{number}", "lang": "py", "retries": 0},
            "properties": {"body_encoding": "utf-8", "delivery_info": delivery_info, "delivery_tag": "t", **properties},
        }
    )


@pytest.mark.parametrize("name", ["expiration", "first_sent_ms"])
def test_a_number_without_end_does_not_freeze_a_worker(on_stage: Stage, aws: Emulator, name: str) -> None:
    worker = on_stage.start("apps.plain", *THREADS)
    number = '{"__type__": "decimal", "__value__": "1E+900000000"}'
    text = f'{{"body": "", "properties": {{"delivery_tag": "t", "expiration": "1", "{name}": {number}}}}}'
    assert len(text) < 200
    send_text(aws, "celery", text)
    send_text(aws, "celery", task("handle", 1, delivery_info={"exchange": "", "routing_key": "celery"}))
    on_stage.runs.wait_for(1, number=1)
    wait_until(lambda: unfinished(aws) == (0, 0), "the end of both messages")
    worker.stop()


@pytest.mark.parametrize("exchange", ["", PRIVATE_EXCHANGE, "inventory"])
def test_a_task_can_not_have_its_retry_sent_to_another_queue(on_stage: Stage, aws: Emulator, exchange: str) -> None:
    aws.client("sqs").create_queue(QueueName=f"{aws.namespace}__inventory")
    worker = on_stage.start("apps.groups", "-Q", "email", *THREADS)
    claimed = {"exchange": exchange, "routing_key": "inventory"}
    send_text(aws, "email", task("handle_with_trouble", 1, "email", 2, delivery_info=claimed))
    runs = on_stage.runs.wait_for(3, number=1)
    assert [(run["queue"], run["retries"]) for run in runs] == [("email", 0), ("email", 1), ("email", 2)]
    assert unfinished(aws, "inventory") == (0, 0)
    worker.stop()


def test_a_task_of_protocol_1_can_not_either(on_stage: Stage, aws: Emulator) -> None:
    aws.client("sqs").create_queue(QueueName=f"{aws.namespace}__inventory")
    worker = on_stage.start("apps.groups", "-Q", "email", *THREADS)
    envelope = json.loads(task("", 1, delivery_info={"exchange": "", "routing_key": "inventory"}))
    body = {"task": "handle_with_trouble", "id": "id-1", "args": [1, "email", 2], "kwargs": {}, "retries": 0}
    send_text(aws, "email", json.dumps({**envelope, "body": json.dumps(body), "headers": {}}))
    runs = on_stage.runs.wait_for(3, number=1)
    assert [(run["queue"], run["retries"]) for run in runs] == [("email", 0), ("email", 1), ("email", 2)]
    assert unfinished(aws, "inventory") == (0, 0)
    worker.stop()


@contextmanager
def operator(stage: Stage) -> Iterator[Celery]:
    app = client(stage)
    try:
        yield app
    finally:
        app.close()


def topics(aws: Emulator) -> set[str]:
    found = aws.client("sns").list_topics()["Topics"]
    return {topic["TopicArn"].rpartition(":")[2].removeprefix(f"{aws.namespace}__") for topic in found}


@pytest.mark.parametrize("exchange", ["elsewhere", "", PRIVATE_EXCHANGE])
def test_a_command_can_not_have_its_answer_sent_to_another_queue(on_stage: Stage, aws: Emulator, exchange: str) -> None:
    aws.client("sqs").create_queue(QueueName=f"{aws.namespace}__inventory")
    worker = on_stage.start("apps.groups", "-Q", "email", *THREADS)
    command = {
        "method": "ping",
        "arguments": {},
        "destination": None,
        "ticket": "t",
        "reply_to": {"exchange": exchange, "routing_key": "inventory"},
    }
    with operator(on_stage) as app:
        with app.connection_for_write() as connection:
            connection.Producer().publish(command, exchange=MAILBOX, routing_key="")
        wait_until(lambda: "not a reply queue of its mailbox" in worker.log, lambda: worker.log[-2000:])
        wait_until(lambda: app.control.ping(timeout=3), "the answer to a command that is right")
    assert unfinished(aws, "inventory") == (0, 0)
    assert "elsewhere" not in topics(aws)
    assert "Control command error" not in worker.log
    worker.stop()
