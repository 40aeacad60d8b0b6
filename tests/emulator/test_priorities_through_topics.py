"""Queues with priorities that are fed by exchanges: each message once, on its level. On both emulators."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from kombu import Connection, Exchange, Producer, Queue, binding
from kombu.exceptions import ChannelError
from support.emulators import Emulator

from kombu_hake.amqp.bindings import from_tags
from kombu_hake.amqp.envelope import decode
from kombu_hake.amqp.naming import Namer
from kombu_hake.amqp.priorities import MAX_LEVELS, level_name

EVENTS = Exchange("events", "topic")


def jobs(*keys: str, name: str = "jobs", highest: int | None = 9, exchange: Exchange = EVENTS) -> Queue:
    return Queue(name, [binding(exchange, key) for key in keys or ("job.#",)], max_priority=highest)


def publish(connection: Connection, body: object, key: str = "job.mail", **options: Any) -> None:
    Producer(connection).publish(body, exchange="events", routing_key=key, **options)


def publish_raw(aws: Emulator, text: str, **attributes: str) -> None:
    given = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
    sns = aws.client("sns")
    arn = sns.create_topic(Name=f"{aws.namespace}__events")["TopicArn"]
    sns.publish(TopicArn=arn, Message=text, MessageAttributes=given)


def payload(text: str) -> Any:
    found = decode(text, "jobs")
    return json.loads(found.body) if found.content_type == "application/json" else bytes(found.body).decode()


def taken(aws: Emulator, queue: str = "jobs") -> list[Any]:
    """Everything in a queue, taken out: the best first, and of one level in whatever order."""
    sqs, names = aws.client("sqs"), Namer(aws.namespace)
    found: list[Any] = []
    for level in range(MAX_LEVELS):
        try:
            url = sqs.get_queue_url(QueueName=names.queue(level_name(queue, level)))["QueueUrl"]
        except sqs.exceptions.QueueDoesNotExist:
            break
        here: list[Any] = []
        request = {"QueueUrl": url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0}
        while messages := sqs.receive_message(**request).get("Messages", []):
            here += [payload(message["Body"]) for message in messages]
        found = [*sorted(here, key=str), *found]
    return found


def levels(aws: Emulator) -> dict[str, dict[str, Any]]:
    """The SQS queues of the namespace by name, with what SNS and SQS know of them."""
    sqs, sns = aws.client("sqs"), aws.client("sns")
    found: dict[str, dict[str, Any]] = {}
    for url in sqs.list_queues(QueueNamePrefix=aws.namespace).get("QueueUrls", []):
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        found[attributes["QueueArn"]] = {
            "policy": json.loads(attributes.get("Policy") or "{}").get("Statement", []),
            "tags": sqs.list_queue_tags(QueueUrl=url).get("Tags", {}),
            "filters": [],
        }
    for page in sns.get_paginator("list_subscriptions").paginate():
        for item in page["Subscriptions"]:
            if f":{aws.namespace}__" in item["TopicArn"]:
                text = sns.get_subscription_attributes(SubscriptionArn=item["SubscriptionArn"])["Attributes"]
                policy = json.loads(text.get("FilterPolicy") or "{}")
                found.setdefault(item["Endpoint"], {"gone": True, "filters": []})["filters"].append(policy)
    return found


def subscriptions(aws: Emulator) -> int:
    return sum(len(one["filters"]) for one in levels(aws).values())


@pytest.mark.parametrize("highest", [1, 2, 9])
def test_every_priority_arrives_once_and_the_best_first(aws: Emulator, highest: int) -> None:
    priorities = sorted({0, 1, 2, 3, 4, 5, 9, 10, 100, 255, 300, highest, highest + 1})
    with Connection(aws.url()) as connection:
        jobs(highest=highest)(connection.default_channel).declare()
        for priority in priorities:
            publish(connection, priority, priority=priority)
        assert connection.default_channel.queue_declare("jobs", passive=True).message_count == len(priorities)
        seen = taken(aws)
    assert sorted(seen) == priorities
    assert seen[-1] == 0
    first = [priority for priority in priorities if priority >= highest]
    assert set(seen[: len(first)]) == set(first)


def test_queue_that_asks_for_no_priority_gets_nothing_new(aws: Emulator) -> None:
    with Connection(aws.url()) as connection:
        jobs(highest=None)(connection.default_channel).declare()
        publish(connection, 1, priority=9)
        assert taken(aws) == [1]
    [(_, queue)] = levels(aws).items()
    assert queue["filters"] == [{"rk": ["job", {"prefix": "job."}]}]
    assert "hake:max-priority" not in queue["tags"]


@pytest.mark.parametrize("attributes", [{"rk": "job.mail"}, {"rk": "job.mail", "priority": "high"}])
def test_message_of_others_without_our_attribute_is_on_the_lowest_level(
    aws: Emulator, attributes: dict[str, str]
) -> None:
    with Connection(aws.url()) as connection:
        jobs()(connection.default_channel).declare()
        publish_raw(aws, '"raw"', **attributes)
        publish(connection, "urgent", priority=9)
        assert taken(aws) == ["urgent", "raw"]


def test_patterns_of_every_kind_share_their_messages_out(aws: Emulator) -> None:
    """Also such as take several attributes, or an operator that an emulator lacks."""
    keys = ["order.*", "*.created.#", "#.eu", "plain"]
    with Connection(aws.url()) as connection:
        jobs(*keys)(connection.default_channel).declare()
        wanted = ["order.x", "a.created", "a.created.b", "b.c.eu", "eu", "plain"]
        for key in [*wanted, "order", "created", "x.y"]:
            for priority in (0, 9):
                publish(connection, f"{key} {priority}", key, priority=priority)
        seen = taken(aws)
    assert sorted(seen) == sorted(f"{key} {priority}" for key in wanted for priority in (0, 9))


class TestEverythingOfAnExchange:
    """A filter on the lowest level would lose what carries no attribute at all: SNS can't say that."""

    @pytest.mark.parametrize("exchange", [Exchange("events", "fanout"), EVENTS], ids=["fanout", "topic"])
    def test_stays_on_the_lowest_level_and_says_so_once(
        self, aws: Emulator, caplog: pytest.LogCaptureFixture, exchange: Exchange
    ) -> None:
        with caplog.at_level(logging.WARNING), Connection(aws.url()) as connection:
            for _ in range(2):
                jobs("#", exchange=exchange)(connection.default_channel).declare()
            publish(connection, "first", priority=0)
            publish(connection, "second", priority=9)
            publish_raw(aws, '"third"')
            assert sorted(taken(aws)) == ["first", "second", "third"]
        assert [record.getMessage().count("fanout_priorities") for record in caplog.records] == [1]
        assert subscriptions(aws) == 1

    def test_is_shared_out_where_the_user_says_so(self, aws: Emulator) -> None:
        with Connection(aws.url(fanout_priorities="true")) as connection:
            jobs("", exchange=Exchange("events", "fanout"))(connection.default_channel).declare()
            for priority in (0, 5, 9):
                publish(connection, priority, priority=priority)
            publish_raw(aws, '"raw"', any="thing")
            assert taken(aws)[:2] == [9, 5]

    def test_a_key_more_can_end_the_sharing_and_loses_nothing(self, aws: Emulator) -> None:
        with Connection(aws.url()) as connection:
            channel = connection.default_channel
            jobs("job.#")(channel).declare()
            assert subscriptions(aws) == 4
            jobs("#")(channel).declare()
            assert subscriptions(aws) == 1
            publish(connection, 9, priority=9)
            assert taken(aws) == [9]
            jobs("job.#")(channel).unbind_from(EVENTS, "#")
            assert subscriptions(aws) == 4
            publish(connection, 0)
            publish(connection, 9, priority=9)
            assert taken(aws) == [9, 0]


class TestOverTime:
    def test_queue_that_was_there_before_gets_its_levels_with_the_next_declare(self, aws: Emulator) -> None:
        with Connection(aws.url()) as connection:
            jobs(highest=None)(connection.default_channel).declare()
            publish(connection, "before", priority=9)
        with Connection(aws.url(read_timeout=14)) as connection:
            jobs()(connection.default_channel).declare()
            publish(connection, "bulk")
            publish(connection, "urgent", priority=9)
            assert taken(aws) == ["urgent", "before", "bulk"]

    def test_process_that_does_not_know_of_the_priorities_keeps_them(self, aws: Emulator) -> None:
        """It binds one more key, without the queue's arguments."""
        with Connection(aws.url()) as connection:
            jobs("job.mail")(connection.default_channel).declare()
        with Connection(aws.url(read_timeout=14)) as connection:
            jobs("job.push", highest=None)(connection.default_channel).declare()
            for key in ("job.mail", "job.push"):
                for priority in (0, 9):
                    publish(connection, f"{key} {priority}", key, priority=priority)
            # And what it consumes is all of it.
            assert connection.default_channel.queue_declare("jobs", passive=True).message_count == 4
            seen = taken(aws)
        assert sorted(seen[:2]) == ["job.mail 9", "job.push 9"]
        assert sorted(seen[2:]) == ["job.mail 0", "job.push 0"]

    def test_fewer_priorities_leave_no_level_unread(self, aws: Emulator) -> None:
        with Connection(aws.url()) as connection:
            jobs(highest=9)(connection.default_channel).declare()
            publish(connection, 9, priority=9)
        with Connection(aws.url(read_timeout=14)) as connection:
            jobs(highest=1)(connection.default_channel).declare()
            publish(connection, 1, priority=1)
            assert taken(aws) == [9, 1]

    def test_level_that_somebody_deleted_is_made_again_and_fed(self, aws: Emulator) -> None:
        with Connection(aws.url()) as connection:
            jobs()(connection.default_channel).declare()
            [top] = [arn for arn, one in levels(aws).items() if {"numeric": [">", 6]} in priority_of(one)]
            sqs = aws.client("sqs")
            sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=top.rpartition(":")[2])["QueueUrl"])
        with Connection(aws.url(read_timeout=14)) as connection:
            jobs()(connection.default_channel).declare()
            publish(connection, 9, priority=9)
            assert taken(aws) == [9]


def priority_of(level: dict[str, Any]) -> list[Any]:
    return [value for found in level["filters"] for value in found.get("hake-priority", [])]


class TestRemoval:
    def test_unbinding_one_key_narrows_every_level(self, aws: Emulator) -> None:
        with Connection(aws.url()) as connection:
            queue = jobs("job.mail", "job.push")(connection.default_channel)
            queue.declare()
            queue.unbind_from(EVENTS, "job.push")
            for priority in (0, 5, 9):
                publish(connection, priority, "job.push", priority=priority)
                publish(connection, priority, "job.mail", priority=priority)
            assert taken(aws) == [9, 5, 0]

    def test_unbinding_the_last_key_leaves_no_subscription_or_statement(self, aws: Emulator) -> None:
        with Connection(aws.url()) as connection:
            queue = jobs("job.mail")(connection.default_channel)
            queue.declare()
            queue.unbind_from(EVENTS, "job.mail")
        found = levels(aws)
        assert len(found) == 4
        assert [one["policy"] for one in found.values()] == [[]] * 4
        assert subscriptions(aws) == 0

    @pytest.mark.parametrize("knows", [True, False], ids=["declarer", "stranger"])
    def test_deleting_the_queue_leaves_nothing(self, aws: Emulator, knows: bool) -> None:
        with Connection(aws.url()) as connection:
            jobs()(connection.default_channel).declare()
            if knows:
                connection.default_channel.queue_delete("jobs")
        with Connection(aws.url(read_timeout=14)) as connection:
            connection.default_channel.queue_delete("jobs")
        assert levels(aws) == {}

    def test_deleting_the_exchange_leaves_no_trace_of_it(self, aws: Emulator) -> None:
        other = Exchange("others", "topic")
        with Connection(aws.url()) as connection:
            channel = connection.default_channel
            Queue("jobs", [binding(EVENTS, "job.#"), binding(other, "job.#")], max_priority=9)(channel).declare()
            EVENTS(channel).delete()
            found = levels(aws)
            assert len(found) == 4
            for one in found.values():
                assert "__events" not in json.dumps(one["policy"])
                assert "__others" in json.dumps(one["policy"])
                assert {binding.exchange for binding in from_tags(one["tags"]).bindings} <= {"others"}
                assert len(one["filters"]) == 1
            pages = aws.client("sns").get_paginator("list_topics").paginate()
            topics = [topic["TopicArn"] for page in pages for topic in page["Topics"]]
            assert [topic for topic in topics if f":{aws.namespace}__events" in topic] == []
            Producer(channel).publish("still", exchange="others", routing_key="job.x", priority=9)
            assert taken(aws) == ["still"]


class TestVerify:
    def test_finds_what_was_made_right(self, aws: Emulator) -> None:
        with Connection(aws.url()) as connection:
            jobs()(connection.default_channel).declare()
        with Connection(aws.url(topology="verify")) as connection:
            jobs()(connection.default_channel).declare()
            publish(connection, 9, priority=9)
            assert taken(aws) == [9]

    def test_names_a_level_that_is_not_fed(self, aws: Emulator) -> None:
        with Connection(aws.url()) as connection:
            jobs()(connection.default_channel).declare()
        sns = aws.client("sns")
        arn = sns.create_topic(Name=f"{aws.namespace}__events")["TopicArn"]
        for item in sns.list_subscriptions_by_topic(TopicArn=arn)["Subscriptions"]:
            found = sns.get_subscription_attributes(SubscriptionArn=item["SubscriptionArn"])["Attributes"]
            if '"numeric":[">",6]' in found["FilterPolicy"].replace(" ", ""):
                sns.unsubscribe(SubscriptionArn=item["SubscriptionArn"])
        with Connection(aws.url(topology="verify")) as connection:
            jobs()(connection.default_channel).declare()
            with pytest.raises(ChannelError, match="priority"):
                publish(connection, 9, priority=9)
