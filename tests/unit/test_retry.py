"""A failing request is sent again in one place: how many requests a failure costs."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from publishing import Process
from test_credentials import QUEUE_URL, TOPIC, Aws, aws, make_clients

from kombu_hake.amqp.naming import QueueUrl, TopicArn
from kombu_hake.aws import clients as clients_module
from kombu_hake.aws import patience
from kombu_hake.aws import retry as retry_module
from kombu_hake.aws import wire as wire_module
from kombu_hake.exceptions import BrokerUnavailable, QueueNotFound
from kombu_hake.publish import publisher as publisher_module
from kombu_hake.publish.batching import Published
from kombu_hake.publish.publisher import outgoing
from kombu_hake.publish.routes import QueueTarget, TopicTarget

__all__ = ["aws"]

TARGETS = {"queue": QueueTarget("q", QueueUrl(QUEUE_URL)), "topic": TopicTarget("t", TopicArn(TOPIC))}
each_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


class Time:
    """Time that passes only while something sleeps."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch, aws: Aws) -> Time:
    found = Time()
    for module in (retry_module, wire_module, clients_module, publisher_module):
        clock = SimpleNamespace(monotonic=found.monotonic, perf_counter=found.monotonic, sleep=found.sleep)
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(
        retry_module, "backoff_s", lambda attempt, first_s, most_s: min(most_s, first_s * 2.0**attempt) * 0.5
    )
    return found


def fail(aws: Aws, code: str = "InternalFailure") -> None:
    aws.refuses_all = (code, "try again")


@each_target
def test_a_failing_batch_is_tried_for_ten_seconds_in_few_requests(aws: Aws, time: Time, target: Any) -> None:
    fail(aws)
    clients = make_clients(aws)
    dispatcher = Process(clients, clock=time.monotonic).dispatcher
    items = [(Published("", "q", {}), outgoing("x", {}, {})) for _ in range(10)]
    began = time.now
    assert [type(error) for error in dispatcher.send_batch(target, items)] == [BrokerUnavailable] * 10
    assert 5 <= len(aws.seen) <= 9
    assert 5 <= time.now - began <= 10


@each_target
def test_a_failing_request_is_tried_as_often_as_the_option_says(aws: Aws, time: Time, target: Any) -> None:
    fail(aws)
    publisher = Process(make_clients(aws, max_attempts=3), clock=time.monotonic).publisher
    with pytest.raises(BrokerUnavailable):
        publisher.send(target, outgoing("x", {}, {}))
    assert len(aws.seen) == 3
    aws.seen.clear()
    with pytest.raises(BrokerUnavailable):
        publisher.send_many(target, [outgoing("x", {}, {})] * 2)
    assert len(aws.seen) == 3


def test_entries_that_keep_failing_cost_one_request_each_time(aws: Aws, time: Time) -> None:
    clients = make_clients(aws)  # the server names no entry as accepted, so each counts as failed
    errors = Process(clients, clock=time.monotonic).publisher.send_many(TARGETS["queue"], [outgoing("x", {}, {})] * 2)
    assert [type(error) for error in errors] == [BrokerUnavailable] * 2
    assert len(aws.seen) == 4


@pytest.mark.parametrize("seconds", [90, 5])
def test_throttled_control_calls_are_tried_for_ninety_seconds_or_for_the_time_of_the_caller(
    aws: Aws, time: Time, seconds: int
) -> None:
    fail(aws, "Throttling")
    clients = make_clients(aws)
    began = time.now
    with pytest.raises(BrokerUnavailable) as caught, nullcontext() if seconds == 90 else patience(seconds):
        clients.sqs("get_queue_url", QueueName="q")
    assert caught.value.is_throttle
    assert seconds / 2 <= time.now - began <= seconds
    assert len(aws.seen) < 40


def test_polls_are_made_once(aws: Aws, time: Time) -> None:
    fail(aws)
    clients = make_clients(aws)
    with pytest.raises(BrokerUnavailable), patience(60):
        clients.sqs("receive_message", QueueUrl=QUEUE_URL)
    assert len(aws.seen) == 1


def test_tries_that_the_user_configures_are_those_of_the_sdk_alone(aws: Aws, time: Time) -> None:
    fail(aws)
    clients = make_clients(aws, client_config={"retries": {"mode": "standard", "total_max_attempts": 2}})
    with pytest.raises(BrokerUnavailable):
        clients.sqs("send_message", QueueUrl=QUEUE_URL, MessageBody="x")
    assert len(aws.seen) in (1, 2)  # the SDK looks at the status of an answer too, which this server gives as 403


# --- queues that were created just now


@pytest.fixture
def create(aws: Aws, time: Time, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Creates a queue on an endpoint that counts as AWS; the clients then."""
    monkeypatch.setattr("kombu_hake.config.settings.Settings.is_local", False)
    clients = make_clients(aws)
    clients.sqs("create_queue", QueueName="q")
    aws.seen.clear()
    return clients


def test_new_queue_that_aws_does_not_know_everywhere_yet_is_asked_for_again(
    aws: Aws, time: Time, create: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    known_at = time.now + 0.9

    def refusal(request: Any, action: str) -> tuple[str, str] | None:
        return None if time.now >= known_at else ("QueueDoesNotExist", "The specified queue does not exist.")

    monkeypatch.setattr(aws, "refusal", refusal)
    for operation, params in (("tag_queue", {"Tags": {"a": "b"}}), ("receive_message", {})):
        known_at = time.now + 0.9
        create.sqs(operation, QueueUrl=QUEUE_URL, **params)
        assert time.now < known_at + 0.5
    assert aws.seen == ["TagQueue"] * 5 + ["ReceiveMessage"] * 5


def test_queue_that_stays_unknown_does_not_exist(aws: Aws, time: Time, create: Any) -> None:
    fail(aws, "QueueDoesNotExist")
    started = time.now
    with pytest.raises(QueueNotFound):
        create.sqs("tag_queue", QueueUrl=QUEUE_URL, Tags={})
    assert 3.0 < time.now - started < 4.0
    aws.seen.clear()
    with pytest.raises(QueueNotFound):
        create.sqs("tag_queue", QueueUrl=QUEUE_URL, Tags={})
    assert aws.seen == ["TagQueue"]


@pytest.mark.parametrize("url", [QUEUE_URL, "http://127.0.0.1/111122223333/other"])
def test_queue_that_was_deleted_or_is_not_new_does_not_exist_at_once(
    aws: Aws, time: Time, create: Any, url: str
) -> None:
    create.sqs("delete_queue", QueueUrl=QUEUE_URL)
    fail(aws, "QueueDoesNotExist")
    aws.seen.clear()
    with pytest.raises(QueueNotFound):
        create.sqs("tag_queue", QueueUrl=url, Tags={})
    assert aws.seen == ["TagQueue"]
