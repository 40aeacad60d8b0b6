"""Topology on an AWS that shows attributes and tags a minute late and rations control calls, over HTTP."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fake_aws import SLOW
from kombu import Connection, Exchange, Queue, binding
from support.standin import StandIn

from kombu_hake.amqp import Binding as Wanted
from kombu_hake.amqp import compile_filter, named_topics

ORDERS, EVENTS = Exchange("orders", "topic"), Exchange("events", "fanout")
BOUND = Queue("work", [binding(ORDERS, "order.placed"), binding(ORDERS, "order.paid"), binding(EVENTS)])
THEIRS = {
    "Sid": "theirs",
    "Effect": "Allow",
    "Principal": {"Service": "s3.amazonaws.com"},
    "Action": "sqs:SendMessage",
    "Resource": "*",
}
#: Until AWS shows everything, and the checks that follow a write were made.
SETTLED_S = 130


@pytest.fixture
def aws() -> Iterator[StandIn]:
    with StandIn(SLOW) as stand_in, stand_in.taken_for_aws():
        yield stand_in


@pytest.fixture
def no_warning(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    of_topology = [one for one in caplog.records if one.name.startswith("kombu_hake.topology")]
    assert not [one.getMessage() for one in of_topology if one.levelno >= logging.WARNING]


def declare(aws: StandIn, *queues: Queue) -> Connection:
    """By a process of its own."""
    connection = Connection(aws.url())
    for queue in queues:
        queue(connection.default_channel).declare()
    return connection


def policy(aws: StandIn) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(aws.fake.queues.queue("standin__work").attributes.get("Policy") or "{}")
    return found


def allowed(aws: StandIn) -> set[str]:
    return {arn.rpartition("__")[2] for arn in named_topics(json.dumps(policy(aws)))}


def replace_policy(aws: StandIn, *statements: Any) -> None:
    """As a tool would that knows nothing of this package."""
    text = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    sqs = aws.client("sqs")
    url = sqs.get_queue_url(QueueName="standin__work")["QueueUrl"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": text})


@pytest.mark.usefixtures("no_warning")
def test_declare_writes_attributes_three_times_at_most_and_warns_of_nothing(aws: StandIn) -> None:
    with declare(aws, BOUND):
        aws.pass_time(SETTLED_S)
        assert aws.fake.count("set_queue_attributes") <= 3
    assert allowed(aws) == {"orders", "events"}
    [subscription] = aws.fake.topics.by_name["standin__orders"].subscriptions.values()
    keys = [Wanted("orders", "topic", key) for key in ("order.placed", "order.paid")]
    assert json.loads(subscription.attributes["FilterPolicy"]) == compile_filter(keys).policy


@pytest.mark.usefixtures("no_warning")
def test_second_process_that_declares_the_same_later_writes_nothing(aws: StandIn) -> None:
    with declare(aws, BOUND):
        aws.pass_time(SETTLED_S)
    aws.fake.calls.clear()
    with Connection(aws.url(read_timeout=16)) as connection:
        BOUND(connection.default_channel).declare()
        aws.pass_time(SETTLED_S)
    writes = ("set_queue_attributes", "tag_queue", "untag_queue", "set_subscription_attributes", "list_queue_tags")
    assert not aws.fake.count(*writes)


@pytest.mark.parametrize("after_s", [5, 30, 55])
def test_statement_that_another_writer_dropped_is_back_within_90_s(aws: StandIn, after_s: int) -> None:
    with declare(aws, BOUND):
        aws.pass_time(after_s)
        replace_policy(aws, THEIRS)
        aws.pass_time(90)
        assert allowed(aws) == {"orders", "events"}
        assert THEIRS in policy(aws)["Statement"]


def test_statement_of_others_is_kept_by_a_bind(aws: StandIn) -> None:
    with declare(aws, Queue("work")) as connection:
        replace_policy(aws, THEIRS)
        aws.pass_time(65)
        BOUND(connection.default_channel).declare()
        aws.pass_time(SETTLED_S)
        assert THEIRS in policy(aws)["Statement"]
        assert allowed(aws) == {"orders", "events"}
