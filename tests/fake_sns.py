"""SNS in memory, for :mod:`fakes`. One method for each operation, with boto3's parameters and answers."""

from __future__ import annotations

import fnmatch
import itertools
import json
import re
from dataclasses import dataclass, field
from typing import Any

from fake_sqs import FakeQueue, FakeSqs, size_of
from unit.sns_model import faults, passes

from kombu_hake.exceptions import DeclarationMismatch, HakeError, PublishError, TopicNotFound, TopologyError

__all__ = ["FakeSns", "lets_in"]

MAX_BYTES = 262_144
PAGE = 100


@dataclass
class Subscription:
    """A queue's subscription to a topic."""

    arn: str
    endpoint: str
    attributes: dict[str, str]


@dataclass
class Topic:
    """A topic."""

    arn: str
    attributes: dict[str, str]
    tags: dict[str, str]
    subscriptions: dict[str, Subscription] = field(default_factory=dict)


def lets_in(policy: str | None, queue_arn: str, topic_arn: str) -> bool:
    """Whether a queue's policy allows SNS to send to it for this topic. Knows what a test may write, and no more."""
    statements = json.loads(policy)["Statement"] if policy else []
    allowed = False
    for statement in statements:
        services = statement["Principal"]["Service"] if isinstance(statement["Principal"], dict) else ["*"]
        if "sns.amazonaws.com" not in services and "*" not in services:
            continue
        if statement["Action"].lower() != "sqs:sendmessage" or statement["Resource"] != queue_arn:
            continue
        tests = statement.get("Condition", {})
        if all(
            key == "aws:SourceArn" and operator in {"ArnEquals", "ArnLike"} and _any_like(patterns, topic_arn)
            for operator, conditions in tests.items()
            for key, patterns in conditions.items()
        ):
            if statement["Effect"] == "Deny":
                return False
            allowed = True
    return allowed


def _any_like(patterns: str | list[str], arn: str) -> bool:
    listed = [patterns] if isinstance(patterns, str) else patterns
    return any(
        all(fnmatch.fnmatchcase(part, wanted) for part, wanted in zip(arn.split(":"), pattern.split(":"), strict=True))
        for pattern in listed
    )


class FakeSns:
    """All topics of an account and region. The caller holds the lock of the queues."""

    def __init__(self, account: str, region: str, queues: FakeSqs) -> None:
        self._home = f"arn:aws:sns:{region}:{account}"
        self._queues = queues
        self._numbers = itertools.count(1)
        self.by_name: dict[str, Topic] = {}
        #: (queue or endpoint, reason) of every delivery that SNS gave up.
        self.lost: list[tuple[str, str]] = []

    def topic(self, arn: str) -> Topic:
        name = arn.rsplit(":", 1)[1]
        if arn != f"{self._home}:{name}" or name not in self.by_name:
            raise TopicNotFound("Topic does not exist")
        return self.by_name[name]

    # --- topics

    def create_topic(
        self, Name: str, Attributes: dict[str, str] | None = None, Tags: list[dict[str, str]] | None = None
    ) -> dict[str, Any]:
        attributes, tags = dict(Attributes or {}), {tag["Key"]: tag["Value"] for tag in Tags or []}
        legal = re.fullmatch(r"[A-Za-z0-9_-]+", Name.removesuffix(".fifo")) and len(Name) <= 256
        if not legal or Name.endswith(".fifo") != (attributes.get("FifoTopic") == "true"):
            raise TopologyError(f"Invalid parameter: Topic Name {Name!r}")
        existing = self.by_name.get(Name)
        if existing is None:
            existing = self.by_name[Name] = Topic(f"{self._home}:{Name}", attributes, tags)
        elif not attributes.items() <= existing.attributes.items():
            raise DeclarationMismatch("Topic already exists with different attributes")
        elif Tags is not None and tags != existing.tags:
            raise DeclarationMismatch("Topic already exists with different tags")
        return {"TopicArn": existing.arn}

    def delete_topic(self, TopicArn: str) -> dict[str, Any]:
        self.by_name.pop(TopicArn.rsplit(":", 1)[1], None)
        return {}

    def list_topics(self, NextToken: str = "0") -> dict[str, Any]:
        start, topics = int(NextToken), list(self.by_name.values())
        answer: dict[str, Any] = {"Topics": [{"TopicArn": topic.arn} for topic in topics[start : start + PAGE]]}
        return {**answer, "NextToken": str(start + PAGE)} if len(topics) > start + PAGE else answer

    def get_topic_attributes(self, TopicArn: str) -> dict[str, Any]:
        topic = self.topic(TopicArn)
        counted = {"SubscriptionsConfirmed": str(len(topic.subscriptions)), "SubscriptionsPending": "0"}
        return {"Attributes": {**topic.attributes, **counted, "TopicArn": topic.arn}}

    def list_tags_for_resource(self, ResourceArn: str) -> dict[str, Any]:
        return {"Tags": [{"Key": key, "Value": value} for key, value in self.topic(ResourceArn).tags.items()]}

    # --- subscriptions

    def subscribe(
        self,
        TopicArn: str,
        Protocol: str,
        Endpoint: str,
        Attributes: dict[str, str] | None = None,
        ReturnSubscriptionArn: bool = False,
    ) -> dict[str, Any]:
        topic, attributes = self.topic(TopicArn), dict(Attributes or {})
        if Protocol == "sqs" and not Endpoint.startswith("arn:aws:sqs:"):
            raise TopologyError("Invalid parameter: SQS endpoint ARN")
        self._check_filter(attributes.get("FilterPolicy"))
        existing = topic.subscriptions.get(Endpoint)
        if existing is None:
            arn = f"{topic.arn}:00000000-0000-4000-8000-{next(self._numbers):012x}"
            existing = topic.subscriptions[Endpoint] = Subscription(arn, Endpoint, attributes)
        elif not attributes.items() <= existing.attributes.items():
            raise DeclarationMismatch("Subscription already exists with different attributes")
        return {"SubscriptionArn": existing.arn}

    def unsubscribe(self, SubscriptionArn: str) -> dict[str, Any]:
        for topic in self.by_name.values():
            topic.subscriptions = {
                endpoint: item for endpoint, item in topic.subscriptions.items() if item.arn != SubscriptionArn
            }
        return {}

    def list_subscriptions_by_topic(self, TopicArn: str, NextToken: str = "0") -> dict[str, Any]:
        start, items = int(NextToken), list(self.topic(TopicArn).subscriptions.values())
        answer: dict[str, Any] = {
            "Subscriptions": [
                {"SubscriptionArn": one.arn, "Endpoint": one.endpoint, "Protocol": one.endpoint.split(":")[2]}
                for one in items[start : start + PAGE]
            ]
        }
        return {**answer, "NextToken": str(start + PAGE)} if len(items) > start + PAGE else answer

    def get_subscription_attributes(self, SubscriptionArn: str) -> dict[str, Any]:
        return {"Attributes": {"RawMessageDelivery": "false", **self._subscription(SubscriptionArn).attributes}}

    def set_subscription_attributes(
        self, SubscriptionArn: str, AttributeName: str, AttributeValue: str
    ) -> dict[str, Any]:
        if AttributeName == "FilterPolicy":
            self._check_filter(AttributeValue)
        self._subscription(SubscriptionArn).attributes[AttributeName] = AttributeValue
        return {}

    def _subscription(self, arn: str) -> Subscription:
        for topic in self.by_name.values():
            for item in topic.subscriptions.values():
                if item.arn == arn:
                    return item
        raise TopicNotFound("Subscription does not exist")

    @staticmethod
    def _check_filter(text: str | None) -> None:
        if text and text != "{}" and (found := faults(json.loads(text))):
            raise TopologyError(f"Invalid parameter: FilterPolicy: {'; '.join(found)}")

    # --- publishing

    def publish(
        self,
        TopicArn: str,
        Message: str,
        MessageAttributes: dict[str, Any] | None = None,
        MessageGroupId: str | None = None,
        MessageDeduplicationId: str | None = None,
    ) -> dict[str, Any]:
        topic, attributes = self.topic(TopicArn), dict(MessageAttributes or {})
        if not Message:
            raise PublishError("Invalid parameter: Empty message")
        if size_of(Message, attributes) > MAX_BYTES:
            raise PublishError("Invalid parameter: Message too long")
        if any(not value.get("StringValue") for value in attributes.values()):
            raise PublishError("ParameterValueInvalid: must contain non-empty message attribute value")
        if topic.arn.endswith(".fifo") != (MessageDeduplicationId is not None):
            raise PublishError("Invalid parameter: MessageDeduplicationId is for FIFO topics, which need it.")
        message_id = f"10000000-0000-4000-8000-{next(self._numbers):012x}"
        for subscription in topic.subscriptions.values():
            reason = self._deliver(topic, subscription, Message, attributes, MessageGroupId, MessageDeduplicationId)
            if reason and not self._keep(topic, subscription, Message, attributes):
                self.lost.append((subscription.endpoint.rsplit(":", 1)[1], reason))
        return {"MessageId": message_id}

    def publish_batch(self, TopicArn: str, PublishBatchRequestEntries: list[dict[str, Any]]) -> dict[str, Any]:
        entries = PublishBatchRequestEntries
        self.topic(TopicArn)
        if not 1 <= len(entries) <= 10 or len({entry["Id"] for entry in entries}) < len(entries):
            raise PublishError("A batch has one to ten entries with distinct ids.")
        if sum(size_of(entry["Message"], entry.get("MessageAttributes")) for entry in entries) > MAX_BYTES:
            raise PublishError("BatchRequestTooLong")
        answer: dict[str, Any] = {"Successful": [], "Failed": []}
        for entry in entries:
            try:
                self.publish(TopicArn, **{name: value for name, value in entry.items() if name != "Id"})
                answer["Successful"].append({"Id": entry["Id"]})
            except HakeError as exc:
                answer["Failed"].append(
                    {"Id": entry["Id"], "Code": "InvalidParameter", "Message": str(exc), "SenderFault": True}
                )
        return answer

    def _deliver(
        self,
        topic: Topic,
        subscription: Subscription,
        text: str,
        attributes: dict[str, Any],
        group: str | None,
        deduplication: str | None,
    ) -> str:
        """Put the message into the queue; why not, if not. The publisher never learns of it."""
        policy = json.loads(subscription.attributes.get("FilterPolicy") or "{}")
        values = {name: value["StringValue"] for name, value in attributes.items()}
        if policy and not passes(policy, values):
            return ""
        queue = self._queues.of_arn(subscription.endpoint)
        if queue is None:
            return "the queue is gone"
        if not lets_in(queue.attributes.get("Policy"), queue.arn, topic.arn):
            return "the queue's policy does not let the topic in"
        is_raw = subscription.attributes.get("RawMessageDelivery", "").lower() == "true"
        if is_raw and len(attributes) > 10:
            return "more than ten attributes"
        body = text if is_raw else self._notification(topic, text, attributes)
        self._store(queue, body, attributes if is_raw else {}, group, deduplication)
        return ""

    def _keep(self, topic: Topic, subscription: Subscription, text: str, attributes: dict[str, Any]) -> bool:
        """Put what can't be delivered into the subscription's dead-letter queue, if there is one that lets SNS in."""
        target = json.loads(subscription.attributes.get("RedrivePolicy") or "{}").get("deadLetterTargetArn")
        queue = self._queues.of_arn(target) if target else None
        if queue is None or not lets_in(queue.attributes.get("Policy"), queue.arn, topic.arn):
            return False
        self._store(queue, text, attributes, None, None)
        return True

    def _store(
        self, queue: FakeQueue, body: str, attributes: dict[str, Any], group: str | None, deduplication: str | None
    ) -> None:
        try:
            self._queues.put(queue, body, attributes, group, deduplication)
        except HakeError as exc:
            self.lost.append((queue.name, str(exc)))

    @staticmethod
    def _notification(topic: Topic, text: str, attributes: dict[str, Any]) -> str:
        return json.dumps(
            {
                "Type": "Notification",
                "MessageId": "20000000-0000-4000-8000-000000000000",
                "TopicArn": topic.arn,
                "Message": text,
                "Timestamp": "2026-01-01T00:00:00.000Z",
                "SignatureVersion": "1",
                "MessageAttributes": {
                    name: {"Type": "String", "Value": value["StringValue"]} for name, value in attributes.items()
                },
            }
        )
