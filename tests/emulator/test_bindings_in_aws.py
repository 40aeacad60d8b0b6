"""Bindings as AWS holds them: the statement, the filter and the tags; also when two processes bind at one instant."""

import json
import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from kombu import Connection, Consumer, Exchange, Message, Producer, Queue, binding
from support.emulators import Emulator

from kombu_hake.amqp.bindings import from_tags

#: On both emulators together. Two hundred is the figure to believe; fifty will do on a laptop.
RACES = int(os.environ.get("HAKE_RACES", "50"))
ANSWER_TIMEOUT_S = 60.0
WAYS = ("keys", "exchanges", "types")


class Seen(NamedTuple):
    """A queue as AWS shows it."""

    statements: list[dict[str, Any]]
    tags: dict[str, str]
    #: Exchange to the filter policy of the queue's subscription to it.
    filters: dict[str, Any]


def look(aws: Emulator, queue: str) -> Seen:
    sqs, sns = aws.client("sqs"), aws.client("sns")
    url = sqs.get_queue_url(QueueName=f"{aws.namespace}__{queue}")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    tags = sqs.list_queue_tags(QueueUrl=url).get("Tags", {})
    filters = {}
    for exchange in from_tags(tags).exchanges():
        topic = f"arn:aws:sns:{aws.region}:{attributes['QueueArn'].split(':')[4]}:{aws.namespace}__{exchange}"
        for item in sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]:
            if item["Endpoint"] == attributes["QueueArn"]:
                found = sns.get_subscription_attributes(SubscriptionArn=item["SubscriptionArn"])["Attributes"]
                assert found["RawMessageDelivery"] == "true"
                filters[exchange] = json.loads(found.get("FilterPolicy") or "{}")
    return Seen(json.loads(attributes.get("Policy") or '{"Statement": []}')["Statement"], tags, filters)


def topics_let_in(statement: dict[str, Any]) -> set[str]:
    """Exchanges of our namespaces that a statement lets in."""
    condition = statement["Condition"]
    arns = condition.get("ArnEquals", condition.get("ArnLike"))["aws:SourceArn"]
    return {arn.rpartition("__")[2] for arn in ([arns] if isinstance(arns, str) else arns)}


def take(connection: Connection, queue: str, count: int) -> list[object]:
    found: list[Message] = []
    with Consumer(connection.channel(), [Queue(queue)], on_message=found.append, auto_declare=False, no_ack=True):
        while len(found) < count:
            connection.drain_events(timeout=20)
    return sorted(message.payload for message in found)


def test_two_fanout_exchanges_make_one_statement_beside_those_of_others(aws: Emulator) -> None:
    foreign = {
        "Sid": "backup", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:root"},
        "Action": ["sqs:ReceiveMessage"], "Resource": "*",
    }  # fmt: skip
    with Connection(aws.url(wait_time_seconds=1)) as connection:
        channel = connection.default_channel
        Queue("audit")(channel).declare()
        sqs = aws.client("sqs")
        url = sqs.get_queue_url(QueueName=f"{aws.namespace}__audit")["QueueUrl"]
        policy = {"Version": "2012-10-17", "Statement": [foreign]}
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy)})
        orders, logins = Exchange("orders", "fanout"), Exchange("logins", "fanout")
        Queue("audit", [binding(orders), binding(logins)])(channel).declare()

        seen = look(aws, "audit")
        assert foreign in seen.statements
        (ours,) = [statement for statement in seen.statements if statement != foreign]
        assert ours["Principal"] == {"Service": "sns.amazonaws.com"}
        assert topics_let_in(ours) == {"orders", "logins"}
        assert seen.filters == {"orders": {}, "logins": {}}

        Producer(channel).publish("order", exchange="orders")
        Producer(channel).publish("login", exchange="logins")
        assert take(connection, "audit", 2) == ["login", "order"]


def test_attributes_that_an_operator_tuned_are_kept(aws: Emulator) -> None:
    queue = Queue("work", Exchange("orders", "fanout"))
    with Connection(aws.url()) as connection:
        queue(connection.default_channel).declare()
        sqs = aws.client("sqs")
        url = sqs.get_queue_url(QueueName=f"{aws.namespace}__work")["QueueUrl"]
        tuned = {"VisibilityTimeout": "77", "MessageRetentionPeriod": "600", "DelaySeconds": "3"}
        sqs.set_queue_attributes(QueueUrl=url, Attributes=tuned)
    # Other options: what the first connection remembered does not count.
    with Connection(aws.url(visibility_timeout=33)) as connection:
        queue(connection.default_channel).declare()
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(tuned))["Attributes"]
    assert found == tuned


def test_tags_say_who_made_it_and_for_which_namespace(aws: Emulator) -> None:
    with Connection(aws.url()) as connection:
        Queue("work", Exchange("orders", "fanout"))(connection.default_channel).declare()
    seen = look(aws, "work")
    assert seen.tags["hake:made-by"].startswith("kombu_hake ")
    assert seen.tags["hake:namespace"] == aws.namespace
    sns = aws.client("sns")
    (topic,) = [t["TopicArn"] for t in all_topics(sns) if f":{aws.namespace}__" in t["TopicArn"]]
    tags = {tag["Key"]: tag["Value"] for tag in sns.list_tags_for_resource(ResourceArn=topic)["Tags"]}
    assert tags["hake:namespace"] == aws.namespace


def all_topics(sns: Any) -> list[dict[str, str]]:
    return [topic for page in sns.get_paginator("list_topics").paginate() for topic in page["Topics"]]


# --- two processes -----------------------------------------------------------------------------------------------


def the_binding(way: str, side: int) -> tuple[Exchange, str]:
    """What one of two processes binds: different keys of one exchange, different exchanges, or both."""
    if way == "keys":
        return Exchange("sales", "direct"), f"key{side}"
    if way == "exchanges":
        return Exchange(f"fan{side}", "fanout"), ""
    return (Exchange("sales", "direct"), "key0") if side == 0 else (Exchange("events", "topic"), "*.created.#")


def bind_again_and_again(url: str, side: int, barrier: Barrier, orders: Any, answers: Any) -> None:
    """In a process of its own: bind the queue that is named, at the instant the other process does."""
    with Connection(url) as connection:
        for queue, way in iter(orders.get, None):
            exchange, key = the_binding(way, side)
            try:
                barrier.wait(ANSWER_TIMEOUT_S)
                Queue(queue, exchange, key)(connection.default_channel).declare()
                answers.put((side, None))
            except Exception as error:
                answers.put((side, repr(error)))


class Pair:
    """Two processes that bind at once."""

    def __init__(self, url: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._barrier = context.Barrier(2)  # kept: it must exist when a process starts to run
        self._answers = context.Queue()
        self._orders = [context.Queue() for _ in range(2)]
        self._processes = [
            context.Process(
                target=bind_again_and_again, args=(url, side, self._barrier, orders, self._answers), daemon=True
            )
            for side, orders in enumerate(self._orders)
        ]
        for process in self._processes:
            process.start()

    def bind(self, queue: str, way: str) -> None:
        """Returns when both have declared."""
        for orders in self._orders:
            orders.put((queue, way))
        answers = dict(self._answers.get(timeout=ANSWER_TIMEOUT_S) for _ in range(2))
        assert answers == {0: None, 1: None}

    def close(self) -> None:
        for orders in self._orders:
            orders.put(None)
        for process in self._processes:
            process.join(20)
            if process.is_alive():
                process.kill()
                process.join()


@pytest.fixture
def pair(aws: Emulator) -> Iterator[Pair]:
    pair = Pair(aws.url())
    yield pair
    pair.close()


@pytest.mark.timeout(60 + RACES)
def test_two_processes_that_bind_at_one_instant_are_both_heard(aws: Emulator, pair: Pair) -> None:
    lost = []
    with Connection(aws.url(wait_time_seconds=1, unroutable="ignore")) as connection:
        for i in range(RACES // 2):
            way = WAYS[i % len(WAYS)]
            queue = f"race{i}"
            pair.bind(queue, way)
            lost += [(queue, way, what) for what in not_effective(aws, queue, way)]
            if i % 10 == 0:  # and seen from outside: what both bound is delivered
                assert delivered(connection, queue, way) >= {0, 1}
    assert lost == []


def not_effective(aws: Emulator, queue: str, way: str) -> list[str]:
    """What is missing of the two bindings in tags, policy and filters."""
    seen = look(aws, queue)
    tagged = {(found.exchange, found.routing_key) for found in from_tags(seen.tags).bindings}
    (statement,) = seen.statements
    let_in = topics_let_in(statement)
    missing = []
    for side in range(2):
        exchange, key = the_binding(way, side)
        if (exchange.name, key) not in tagged:
            missing.append(f"tag of {exchange.name} {key}")
        if exchange.name not in let_in:
            missing.append(f"{exchange.name} in the policy")
        if exchange.name not in seen.filters:
            missing.append(f"subscription to {exchange.name}")
        elif exchange.type == "direct" and key not in json.dumps(seen.filters[exchange.name]):
            missing.append(f"{key} in the filter {seen.filters[exchange.name]}")
    return missing


def delivered(connection: Connection, queue: str, way: str) -> set[object]:
    """Sides whose message arrives; bodies are the sides."""
    mark = uuid4().hex
    for side in range(2):
        exchange, key = the_binding(way, side)
        routing_key = key.replace("*", "order").replace("#", "eu")
        Producer(connection).publish(side, exchange=exchange.name, routing_key=routing_key, headers={"mark": mark})
    found: list[Message] = []
    with Consumer(connection.channel(), [Queue(queue)], on_message=found.append, auto_declare=False, no_ack=True):
        while {message.payload for message in found if message.headers.get("mark") == mark} != {0, 1}:
            connection.drain_events(timeout=20)
    return {message.payload for message in found}
