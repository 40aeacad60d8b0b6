"""Publishing by an exchange's name alone, as seen in AWS: what a first publish makes, and what a publisher costs.

Where messages go is stated in ``test_contract_routing.py`` (``TestProducerThatDeclaredNothing``, ``TestUnroutable``).
"""

from typing import Any

import pytest
from contract.broker import Broker, declare, publish
from contract.features import Can, needs
from kombu import Exchange, Queue
from kombu.exceptions import ChannelError


def topics(broker: Broker) -> set[str]:
    """Exchanges of the namespace that have a topic."""
    broker.wait_for_lists()
    pages = broker.aws.client("sns").get_paginator("list_topics").paginate()
    names = {topic["TopicArn"].rpartition(":")[2] for page in pages for topic in page["Topics"]}
    return {name.partition("__")[2] for name in names if name.startswith(f"{broker.aws.namespace}__")}


def queues(broker: Broker) -> list[Any]:
    broker.wait_for_lists()
    return list(broker.aws.client("sqs").list_queues(QueueNamePrefix=broker.aws.namespace).get("QueueUrls", []))


@needs(Can.AWS)
class TestFirstPublish:
    def test_makes_the_exchange_and_no_queue(self, broker: Broker) -> None:
        publish(broker.stranger(), 1, "orders", "order.placed")
        assert topics(broker) == {"orders"}
        assert queues(broker) == []

    def test_queue_that_is_bound_later_gets_what_is_published_from_then_on(self, broker: Broker) -> None:
        producer = broker.stranger()
        publish(producer, "too early", "orders", "order.placed")
        declare(broker.stranger(), Queue("email", Exchange("orders", "topic"), "order.*"))
        publish(producer, "in time", "orders", "order.placed")
        assert broker.bodies("email") == {"email": ["in time"]}

    @pytest.mark.parametrize("unroutable", ["warn", "ignore"])
    def test_mandatory_raises_each_time_until_there_is_a_queue(self, broker: Broker, unroutable: str) -> None:
        producer = broker.stranger(unroutable=unroutable)
        for _ in range(2):
            with pytest.raises(ChannelError, match="orders"):
                publish(producer, 1, "orders", "order.placed", mandatory=True)
        declare(producer, Queue("email", Exchange("orders", "topic"), "order.*"))
        publish(producer, 2, "orders", "order.placed", mandatory=True)
        assert broker.bodies("email") == {"email": [2]}

    def test_to_a_missing_queue_makes_nothing(self, broker: Broker) -> None:
        publish(broker.stranger(), 1, "", "nobody")
        assert (topics(broker), queues(broker)) == (set(), [])

    def test_after_somebody_deleted_the_topic_makes_it_again(self, broker: Broker) -> None:
        producer = broker.stranger()
        publish(producer, 1, "orders", "order.placed")
        sns = broker.aws.client("sns")
        sns.delete_topic(TopicArn=sns.create_topic(Name=f"{broker.aws.namespace}__orders")["TopicArn"])
        publish(producer, 2, "orders", "order.placed")
        assert topics(broker) == {"orders"}


@needs(Can.AWS)
class TestFifo:
    """A FIFO exchange feeds FIFO queues, in the order of each group."""

    def test_order_of_a_group_is_kept_in_every_queue(self, broker: Broker) -> None:
        exchange = Exchange("events.fifo", "topic")
        declare(broker.stranger(), Queue("one.fifo", exchange, "a.#"), Queue("two.fifo", exchange, "#"))
        producer = broker.stranger()
        for number in range(6):
            publish(producer, number, "events.fifo", "a.b", MessageGroupId=f"group-{number % 2}")
        for queue in ("one.fifo", "two.fifo"):
            seen: list[Any] = []
            channel = broker.connect().default_channel
            while len(seen) < 6:
                message = channel.basic_get(queue, no_ack=True)  # None while an earlier one's delete is under way
                seen += [message.payload] if message is not None else []
            assert [n for n in seen if n % 2 == 0] == [0, 2, 4]
            assert [n for n in seen if n % 2 == 1] == [1, 3, 5]


@needs(Can.AWS)
class TestTenants:
    """On a standard queue the group id is the tenant, also through a topic."""

    def test_tenant_is_the_group_id_and_the_readers_property(self, broker: Broker) -> None:
        declare(broker.stranger(), Queue("work", Exchange("orders", "topic"), "#"))
        producer = broker.stranger()
        publish(producer, 1, "", "work", tenant="Acme Corp")
        publish(producer, 2, "orders", "placed", tenant="Acme Corp")
        publish(producer, 3, "orders", "placed", MessageGroupId="by-hand")
        publish(producer, 4, "orders", "placed")
        sqs = broker.aws.client("sqs")
        url = sqs.get_queue_url(QueueName=f"{broker.aws.namespace}__work")["QueueUrl"]
        sqs.send_message(QueueUrl=url, MessageBody="5", MessageGroupId="theirs")
        groups: dict[str, str | None] = {}
        handles: list[str] = []
        while len(groups) < 5:
            answer = sqs.receive_message(
                QueueUrl=url, VisibilityTimeout=60, WaitTimeSeconds=1, MessageSystemAttributeNames=["MessageGroupId"]
            )
            for raw in answer.get("Messages", []):
                groups[raw["MessageId"]] = raw.get("Attributes", {}).get("MessageGroupId")
                handles.append(raw["ReceiptHandle"])
        for handle in handles:
            sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0)
        messages = broker.drain("work")["work"]
        seen = {m.payload: (groups[m.properties["message_id"]], m.properties.get("tenant")) for m in messages}
        assert seen == {
            1: ("hake:Acme%20Corp", "Acme Corp"),
            2: ("hake:Acme%20Corp", "Acme Corp"),
            3: ("by-hand", "by-hand"),
            4: (None, None),
            5: ("theirs", "theirs"),
        }
