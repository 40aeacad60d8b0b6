"""``topology=verify`` and ``assume`` on what infrastructure code made, and workers with few rights."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from celery import Celery
from kombu import Connection, Consumer, Exchange, Message, Producer, Queue
from support.emulators import Emulator
from support.rights import as_user

from kombu_hake.amqp.bindings import Binding
from kombu_hake.amqp.policy import queue_policy
from kombu_hake.amqp.routing import compile_filter, filter_json
from kombu_hake.exceptions import TopologyIncomplete

EMAIL = Queue("email", Exchange("orders", "topic"), "order.#")
DATA_PLANE = (
    "sns:Publish", "sqs:SendMessage", "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility",
)  # fmt: skip
START_TIMEOUT_S = 60.0


def make(aws: Emulator, queue: str, exchange: str, binding: Binding) -> None:
    """Topic, queue, policy and subscription, as infrastructure code makes them."""
    sqs, sns = aws.client("sqs"), aws.client("sns")
    topic = sns.create_topic(Name=f"{aws.namespace}__{exchange}")["TopicArn"]
    url = sqs.create_queue(QueueName=f"{aws.namespace}__{queue}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": queue_policy(None, arn, [topic]) or ""})
    attributes = {"RawMessageDelivery": "true"}
    wanted = compile_filter([binding], wildcards=False)
    if wanted.policy is not None:
        attributes["FilterPolicy"] = filter_json(wanted)
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes=attributes)


def consume(connection: Connection, queue: Queue, count: int) -> list[object]:
    found: list[Message] = []
    with Consumer(connection.channel(), [queue], on_message=found.append):
        deadline = time.monotonic() + 20
        while len(found) < count and time.monotonic() < deadline:
            connection.drain_events(timeout=20)
        for message in found:
            message.ack()
    return sorted(message.payload for message in found)


@pytest.fixture
def made(aws: Emulator) -> Emulator:
    make(aws, "email", "orders", Binding("orders", "topic", "order.#"))
    return aws


@pytest.mark.parametrize("mode", ["verify", "assume"])
def test_what_infrastructure_made_is_used(made: Emulator, mode: str) -> None:
    with Connection(made.url(topology=mode, wait_time_seconds=1)) as connection:
        EMAIL(connection.default_channel).declare()
        producer = Producer(connection)
        producer.publish("one", exchange="orders", routing_key="order.created")
        producer.publish("none", exchange="orders", routing_key="invoice.sent")
        producer.publish("two", exchange="", routing_key="email")
        assert consume(connection, EMAIL, 2) == ["one", "two"]


def test_verify_lists_what_is_missing(made: Emulator) -> None:
    with Connection(made.url(topology="verify")) as connection:
        channel = connection.default_channel
        EMAIL(channel).declare()
        Queue("email", Exchange("logins", "fanout"))(channel).declare()
        Queue("sms", Exchange("orders", "topic"), "order.#")(channel).declare()
        with pytest.raises(TopologyIncomplete) as caught:
            channel.basic_consume("email")
    faults = caught.value.faults
    assert len(faults) == 3, faults
    assert "does not allow" in faults[0]
    assert "'logins' has no topic" in faults[1]
    assert "no queue 'sms'" in faults[2]


def test_verify_warns_of_a_filter_that_differs(aws: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    make(aws, "email", "orders", Binding("orders", "direct", "order.created"))
    with Connection(aws.url(topology="verify")) as connection:
        EMAIL(connection.default_channel).declare()
        Producer(connection).publish("one", exchange="orders", routing_key="order.created")
    assert "Check that it passes everything that is bound" in caplog.text


def test_the_type_of_an_exchange_is_read_from_its_topic(aws: Emulator) -> None:
    with Connection(aws.url()) as connection:
        Queue("email", Exchange("orders", "topic"), "order.#")(connection.default_channel).declare()
    with Connection(aws.url(read_timeout=16)) as stranger:
        channel = stranger.default_channel
        Queue("sms")(channel).declare()
        Queue("sms", channel=channel).bind_to("orders", "order.#")
        Producer(channel).publish("one", exchange="orders", routing_key="order.created")
        assert consume(stranger, Queue("sms"), 1) == ["one"]


@pytest.mark.ministack
class TestRights:
    @pytest.fixture
    def root(self, ministack: Emulator) -> Emulator:
        return ministack.in_namespace(f"t{uuid4().hex[:8]}")

    def test_assume_needs_no_right_to_the_control_plane(self, root: Emulator) -> None:
        make(root, "email", "orders", Binding("orders", "topic", "order.#"))
        user = as_user(root, DATA_PLANE)
        with Connection(user.url(topology="assume", wait_time_seconds=1)) as connection:
            EMAIL(connection.default_channel).declare()
            Producer(connection).publish("one", exchange="orders", routing_key="order.created")
            assert consume(connection, EMAIL, 1) == ["one"]

    def test_worker_without_rights_to_sns_runs_with_one_warning(self, root: Emulator, tmp_path: Path) -> None:
        user = as_user(root, ("sqs:*",))
        with worker(user.url(wait_time_seconds=1), tmp_path) as log:
            assert log.count("WARNING") == 1, log
            assert "Remote control and events are off" in log
            assert "sns:" in log

    def test_worker_under_assume_runs_with_the_data_plane_alone(self, root: Emulator, tmp_path: Path) -> None:
        root.client("sqs").create_queue(QueueName=f"{root.namespace}__celery")
        user = as_user(root, DATA_PLANE)
        with worker(user.url(wait_time_seconds=1, topology="assume"), tmp_path) as log:
            assert log.count("WARNING") == 1, log
            assert "worker_enable_remote_control=False" in log


APP = """
from pathlib import Path
from celery import Celery
app = Celery("app", broker={url!r})
app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=True)

@app.task(name="mark")
def mark(path):
    Path(path).write_text("done")
"""


@contextmanager
def worker(url: str, folder: Path) -> Iterator[str]:
    """A worker that has run one task; gives its log."""
    (folder / "app.py").write_text(APP.format(url=url))
    log, done = folder / "log", folder / "done"
    command = [sys.executable, "-m", "celery", "-A", "app", "worker", "-P", "solo", "-l", "warning", "--hostname=w@h"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=dict(os.environ), stdout=output, stderr=output)
        try:
            with Celery("app", broker=url, set_as_current=False) as client:
                client.send_task("mark", [str(done)])
            deadline = time.monotonic() + START_TIMEOUT_S
            while not done.exists() and time.monotonic() < deadline:
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            assert done.exists(), log.read_text()
        finally:
            process.terminate()
            process.wait(20)
    yield log.read_text()
