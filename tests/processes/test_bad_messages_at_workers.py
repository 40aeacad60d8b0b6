"""Messages that used to end a worker, one by one: it lives, runs what follows, and each message can be found."""

import base64
import bz2
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.celery_workers import Stage, Worker, client, stage, wait_until
from support.emulators import Emulator

POOLS = ("prefork", "threads", "solo")


@pytest.fixture
def on_stage(aws: Emulator, tmp_path: Path) -> Iterator[Stage]:
    with stage(aws.url(visibility_timeout="60"), tmp_path) as found:
        yield found


def envelope(body: bytes | str, queue: str, headers: dict[str, Any], content_type: str = "application/json") -> str:
    data = body if isinstance(body, bytes) else body.encode()
    properties = {
        "body_encoding": "base64",
        "delivery_tag": "1",
        "delivery_info": {"exchange": "", "routing_key": queue},
    }
    text = base64.b64encode(data).decode()
    encoding = "utf-8" if content_type == "application/json" else "binary"
    return json.dumps(
        {"body": text, "content-type": content_type, "content-encoding": encoding, "headers": headers,
         "properties": properties}
    )  # fmt: skip


def task(queue: str, body: bytes | str = "[[1], {}, null]", **headers: Any) -> str:
    return envelope(body, queue, {"task": "good", "id": "8d1b", **headers})


class Pickled:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def nested(levels: int) -> str:
    return f"[[{'[' * levels}{']' * levels}], {{}}, null]"


def bomb() -> bytes:
    return bz2.compress(b"0" * 200_000_000)


class Queues:
    def __init__(self, aws: Emulator) -> None:
        self.aws = aws
        self.sqs = aws.client("sqs")

    def url(self, queue: str) -> str:
        return str(self.sqs.get_queue_url(QueueName=f"{self.aws.namespace}__{queue}")["QueueUrl"])

    def send(self, queue: str, text: str) -> str:
        return str(self.sqs.send_message(QueueUrl=self.url(queue), MessageBody=text)["MessageId"])

    def dead(self, queue: str) -> list[tuple[str, str]]:
        """Bodies of the dead letters that are there now, and their reasons."""
        found: list[tuple[str, str]] = []
        while True:
            answer = self.sqs.receive_message(
                QueueUrl=self.url(f"{queue}-dead"), MaxNumberOfMessages=10, MessageAttributeNames=["All"],
                VisibilityTimeout=600,
            )  # fmt: skip
            for item in answer.get("Messages") or ():
                found.append((item["Body"], item["MessageAttributes"]["hake-death-reason"]["StringValue"]))
            if not answer.get("Messages"):
                return found


def start(on_stage: Stage, pool: str) -> Worker:
    return on_stage.start("apps.badly", "-P", pool, "-c", "2", "-Q", "kept,bare,audit")


def runs_a_good_task(on_stage: Stage, worker: Worker, queue: str, number: int) -> None:
    client(on_stage).send_task("good", [number], queue=queue)
    try:
        on_stage.runs.wait_for(1, number=number)
    except AssertionError:
        raise AssertionError(worker.log[-6000:]) from None
    assert worker.process.poll() is None, worker.log[-6000:]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("pool", POOLS)
def test_a_bad_message_is_set_aside_and_the_worker_goes_on(
    on_stage: Stage, aws: Emulator, pool: str, tmp_path: Path
) -> None:
    worker = start(on_stage, pool)
    queues = Queues(aws)
    made = tmp_path / "made-by-a-pickle"
    pickled = pickle.dumps([[], {"a": Pickled(made)}, {}])
    event = {"task": "kombu_hake.event", "id": "e1", "hake-origin": {"exchange": "orders", "routing_key": "placed"}}
    of_kept = {
        task("kept", id=["no", "text"]): "malformed: id is of type list, not text",
        task("kept", task={"a": 1}): "malformed: task is of type dict, not text",
        task("kept", nested(600)): "malformed: its body is nested deeper than 300 levels",
        task("kept", timelimit="soon"): "malformed: timelimit is not a pair",
        task("kept", eta=[1]): "malformed: eta is of type list, not a date and time",
        task("kept", "[1, 2]"): "malformed: its body is of type list, not [args, kwargs, embed]",
        task("kept", stamped_headers=7): "malformed: stamped_headers is not a list of texts",
        task("kept", bomb(), compression="bzip2"): "rejected",
        task("kept", b"x", compression="none such"): "rejected",
    }
    of_audit = {envelope(pickled, "audit", event, "application/x-python-serialize"): "malformed"}
    number = 0
    for queue, bad in (("kept", of_kept), ("audit", of_audit)):
        for text in bad:
            number += 1
            queues.send(queue, text)
            runs_a_good_task(on_stage, worker, "kept", number)
    topic = aws.client("sns").create_topic(Name=f"{aws.namespace}__orders")["TopicArn"]
    attributes = {"rk": {"DataType": "String", "StringValue": "%FF"}, "exchange": {
        "DataType": "String", "StringValue": "orders"}}  # fmt: skip
    aws.client("sns").publish(TopicArn=topic, Message='{"order": 1}', MessageAttributes=attributes)
    runs_a_good_task(on_stage, worker, "kept", number + 1)
    expected = sorted([*of_kept.items(), ("pickled", "malformed"), ('{"order": 1}', "malformed")])
    found: list[tuple[str, str]] = []

    def all_there() -> bool:
        found.extend(queues.dead("kept"))
        # What a group sets aside carries its history.
        found.extend(("pickled" if "x-python" in text else text, why) for text, why in queues.dead("audit"))
        return len(found) >= len(expected)

    wait_until(all_there, lambda: f"{found}\n{worker.log[-4000:]}")
    assert sorted(found) == expected
    assert not made.exists()
    worker.stop()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("pool", POOLS)
def test_without_dead_letters_it_stays_hidden_and_the_log_says_where(on_stage: Stage, aws: Emulator, pool: str) -> None:
    worker = start(on_stage, pool)
    queues = Queues(aws)
    for number, text in enumerate((task("bare", id=5), task("bare", nested(700)), task("bare", retries="x"))):
        message_id = queues.send("bare", text)
        line = f"Message {message_id} of queue bare cannot be handled (malformed: "
        wait_until(lambda line=line: line in worker.log, lambda: worker.log[-4000:])  # type: ignore[misc]
        runs_a_good_task(on_stage, worker, "bare", number)
        assert worker.log.count(message_id) == 1
    assert worker.log.count(f"It stays in {queues.url('bare')} and is redelivered in 60 s.") == 3
    worker.stop()
