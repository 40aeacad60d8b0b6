"""SNS in memory, for :mod:`fakes`. One method for each operation, with boto3's parameters and answers.

Refuses what AWS refuses, with :class:`fake_aws.AwsError`; how late changes are seen and act is in
:class:`fake_aws.Timings`.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fake_aws import AwsError, Past
from fake_sqs import FakeQueue, FakeSqs, size_of
from unit.sns_model import faults, passes, passes_body

__all__ = ["FakeSns", "lets_in"]

MAX_BYTES = 262_144
MOST_BYTES = 1_048_576
PAGE = 100
MOST_TAGS = 50
#: Subscriptions with a filter policy that a topic may have, and subscriptions of a topic with larger messages.
MOST_FILTERS = 200
MOST_OF_LARGE = MOST_OF_FIFO = 100
DEDUPLICATION_S = 300
RAW_ATTRIBUTES = 10
TOPIC_ATTRIBUTES = {
    *("DeliveryPolicy", "DisplayName", "FifoTopic", "Policy", "SignatureVersion", "TracingConfig", "KmsMasterKeyId"),
    *(
        "ArchivePolicy",
        "ContentBasedDeduplication",
        "FifoThroughputScope",
        "MaximumMessageSize",
        "DataProtectionPolicy",
    ),
}
FIFO_TOPIC_ATTRIBUTES = {"ContentBasedDeduplication", "FifoThroughputScope", "ArchivePolicy"}
SUBSCRIPTION_ATTRIBUTES = {
    *("DeliveryPolicy", "FilterPolicy", "FilterPolicyScope", "RawMessageDelivery", "RedrivePolicy"),
    *("SubscriptionRoleArn", "ReplayPolicy"),
}


@dataclass
class Subscription:
    """A queue's subscription to a topic. ``attributes`` are as they were set last."""

    arn: str
    endpoint: str
    attributes: dict[str, str]
    created_at: float = float("-inf")
    past: Past[dict[str, str]] = field(default_factory=Past)

    @property
    def has_filter(self) -> bool:
        return self.attributes.get("FilterPolicy", "{}") not in ("", "{}")


@dataclass
class Topic:
    """A topic."""

    arn: str
    attributes: dict[str, str]
    tags: dict[str, str]
    #: ARN of the endpoint to its subscription.
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    deduplicated: dict[str, float] = field(default_factory=dict)
    past_tags: Past[dict[str, str]] = field(default_factory=Past)

    @property
    def is_fifo(self) -> bool:
        return self.arn.endswith(".fifo")

    @property
    def most_bytes(self) -> int:
        return int(self.attributes.get("MaximumMessageSize", MAX_BYTES))


def lets_in(policy: str | None, queue_arn: str, topic_arn: str) -> bool:
    """Whether a queue's policy allows SNS to send to it for this topic. A condition it does not know does not hold."""
    try:
        statements = json.loads(policy)["Statement"] if policy else []
    except (ValueError, KeyError, TypeError):
        return False
    allowed = False
    for statement in statements if isinstance(statements, list) else [statements]:
        if _is_about(statement, queue_arn) and _holds(statement.get("Condition") or {}, topic_arn):
            if statement.get("Effect") == "Deny":
                return False
            allowed = allowed or statement.get("Effect") == "Allow"
    return allowed


def _is_about(statement: Any, queue_arn: str) -> bool:
    """Whether a statement is about SNS sending to this queue."""
    if not isinstance(statement, dict):
        return False
    principal = statement.get("Principal")
    services = _listed(principal.get("Service")) + _listed(principal.get("AWS")) if isinstance(principal, dict) else []
    if principal != "*" and not {"*", "sns.amazonaws.com"} & set(services):
        return False
    actions = [str(action).lower() for action in _listed(statement.get("Action"))]
    if not any(fnmatch.fnmatchcase("sqs:sendmessage", action) for action in actions):
        return False
    return any(fnmatch.fnmatchcase(queue_arn, str(resource)) for resource in _listed(statement.get("Resource")))


def _holds(condition: Any, topic_arn: str) -> bool:
    account = topic_arn.split(":")[4]
    facts = {"aws:sourcearn": topic_arn, "aws:sourceaccount": account, "aws:securetransport": "true"}
    tests: dict[str, Callable[[str, str], bool]] = {
        "ArnEquals": _is_like,
        "ArnLike": _is_like,
        "StringEquals": lambda pattern, fact: pattern == fact,
        "StringLike": lambda pattern, fact: fnmatch.fnmatchcase(fact, pattern),
        "Bool": lambda pattern, fact: pattern == fact,
    }
    if not isinstance(condition, dict):
        return False
    return all(
        operator in tests
        and key.lower() in facts
        and any(tests[operator](str(pattern), facts[key.lower()]) for pattern in _listed(patterns))
        for operator, conditions in condition.items()
        for key, patterns in conditions.items()
    )


def _is_like(pattern: str, arn: str) -> bool:
    wanted = pattern.split(":", 5)
    return len(wanted) == 6 and all(
        fnmatch.fnmatchcase(part, each) for part, each in zip(arn.split(":", 5), wanted, strict=True)
    )


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


class FakeSns:
    """All topics of an account and region. The caller holds the lock of the queues."""

    def __init__(self, account: str, region: str, queues: FakeSqs) -> None:
        self._home = f"arn:aws:sns:{region}:{account}"
        self._account = account
        self._queues = queues
        self._clock = queues._clock
        self._numbers = itertools.count(1)
        self.timings = queues.timings
        self.by_name: dict[str, Topic] = {}
        #: (queue or endpoint, reason) of every delivery that SNS gave up.
        self.lost: list[tuple[str, str]] = []
        #: Every change up to this time is in effect.
        self._acted_at = float("-inf")

    def topic(self, arn: str) -> Topic:
        name = arn.rsplit(":", 1)[1]
        if not arn.startswith("arn:"):
            raise _invalid("TopicArn")
        if arn != f"{self._home}:{name}":
            raise _invalid("TopicArn") if arn.split(":")[3] != self._home.split(":")[3] else _no_topic()
        if name not in self.by_name:
            raise _no_topic()
        return self.by_name[name]

    def act(self) -> None:
        """Have every change in effect. Reads are as late as before."""
        self._acted_at = self._clock()

    def settle(self) -> None:
        """Have every change seen by all readers, and in effect."""
        for topic in self.by_name.values():
            topic.past_tags.clear()
            for subscription in topic.subscriptions.values():
                subscription.past.clear()
                subscription.created_at = float("-inf")

    # --- topics

    def create_topic(
        self, Name: str, Attributes: dict[str, str] | None = None, Tags: list[dict[str, str]] | None = None
    ) -> dict[str, Any]:
        attributes, tags = dict(Attributes or {}), {tag["Key"]: tag["Value"] for tag in Tags or []}
        legal = re.fullmatch(r"[A-Za-z0-9_-]+", Name.removesuffix(".fifo")) and len(Name) <= 256
        if not legal or Name.endswith(".fifo") != (attributes.get("FifoTopic") == "true"):
            raise _invalid(f"Topic Name {Name!r}")
        if attributes.get("FifoTopic") == "false":
            del attributes["FifoTopic"]
        for name, value in attributes.items():
            self._check_topic_attribute(name, value, is_fifo=Name.endswith(".fifo"))
        self._check_tags(tags)
        existing = self.by_name.get(Name)
        if existing is None:
            existing = self.by_name[Name] = Topic(f"{self._home}:{Name}", attributes, tags)
        elif not attributes.items() <= existing.attributes.items():
            raise _invalid("Attributes Reason: Topic already exists with different attributes")
        elif not tags.items() <= existing.tags.items():
            raise _invalid("Tags Reason: Topic already exists with different tags")
        return {"TopicArn": existing.arn}

    def delete_topic(self, TopicArn: str) -> dict[str, Any]:
        self.by_name.pop(TopicArn.rsplit(":", 1)[1], None)
        return {}

    def list_topics(self, NextToken: str | None = None) -> dict[str, Any]:
        return _page("Topics", [{"TopicArn": topic.arn} for topic in self.by_name.values()], NextToken)

    def get_topic_attributes(self, TopicArn: str) -> dict[str, Any]:
        topic = self.topic(TopicArn)
        counted = {
            "SubscriptionsConfirmed": str(len(topic.subscriptions)),
            "SubscriptionsPending": "0",
            "SubscriptionsDeleted": "0",
            "Owner": self._account,
        }
        return {"Attributes": {**topic.attributes, **counted, "TopicArn": topic.arn}}

    def set_topic_attributes(self, TopicArn: str, AttributeName: str, AttributeValue: str = "") -> dict[str, Any]:
        topic = self.topic(TopicArn)
        self._check_topic_attribute(AttributeName, AttributeValue, is_fifo=topic.is_fifo)
        if AttributeName == "MaximumMessageSize" and int(AttributeValue) > MAX_BYTES:
            self._check_large(topic, list(topic.subscriptions))
        topic.attributes[AttributeName] = AttributeValue
        return {}

    @staticmethod
    def _check_topic_attribute(name: str, value: str, *, is_fifo: bool) -> None:
        if name not in TOPIC_ATTRIBUTES or (name in FIFO_TOPIC_ATTRIBUTES and not is_fifo):
            raise _invalid(f"Attributes Reason: Unknown attribute {name}")
        is_size = re.fullmatch(r"[0-9]{1,9}", value) is not None and 1_024 <= int(value) <= MOST_BYTES
        if name == "MaximumMessageSize" and not is_size:
            raise _invalid(f"MaximumMessageSize: {value} is not an integer between 1024 and {MOST_BYTES} bytes")

    @staticmethod
    def _check_large(topic: Topic, endpoints: list[str]) -> None:
        """What a topic with messages above 256 KiB may have as subscriptions."""
        if len(endpoints) > MOST_OF_LARGE:
            raise _invalid(
                f"A topic with MaximumMessageSize greater than {MAX_BYTES} bytes supports a maximum of "
                f"{MOST_OF_LARGE} subscriptions"
            )
        if any(endpoint.split(":")[2:3] not in (["sqs"], ["firehose"], ["lambda"]) for endpoint in endpoints):
            raise _invalid(f"MaximumMessageSize greater than {MAX_BYTES} bytes is not supported for this protocol")

    def list_tags_for_resource(self, ResourceArn: str) -> dict[str, Any]:
        topic = self._tagged(ResourceArn)
        tags = topic.past_tags.seen(topic.tags, self._clock() - self.timings.tag_reads_s)
        return {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}

    def tag_resource(self, ResourceArn: str, Tags: list[dict[str, str]]) -> dict[str, Any]:
        topic = self._tagged(ResourceArn)
        merged = {**topic.tags, **{tag["Key"]: tag["Value"] for tag in Tags}}
        self._check_tags(merged)
        self._retag(topic, merged)
        return {}

    def untag_resource(self, ResourceArn: str, TagKeys: list[str]) -> dict[str, Any]:
        topic = self._tagged(ResourceArn)
        self._retag(topic, {key: value for key, value in topic.tags.items() if key not in TagKeys})
        return {}

    def _retag(self, topic: Topic, tags: dict[str, str]) -> None:
        if tags != topic.tags:
            topic.past_tags.replaced(topic.tags, self._clock())
            topic.tags = tags

    def _tagged(self, arn: str) -> Topic:
        try:
            return self.topic(arn)
        except AwsError as exc:
            if exc.code != "NotFound":
                raise
            raise AwsError("ResourceNotFound", "Resource does not exist", 404) from None

    @staticmethod
    def _check_tags(tags: dict[str, str]) -> None:
        if len(tags) > MOST_TAGS:
            raise AwsError("TagLimitExceeded", "Could not complete request: tag quota of per resource exceeded")
        if any(not 1 <= len(key) <= 128 or len(value) > 256 for key, value in tags.items()):
            raise _invalid("Tags Reason: a tag is too long")

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
            raise _invalid("SQS endpoint ARN")
        if Endpoint.endswith(".fifo") and not topic.is_fifo:
            raise _invalid(
                "Invalid parameter: Endpoint Reason: FIFO SQS Queues can not be subscribed to standard SNS topics"
            )
        scope = attributes.get("FilterPolicyScope", "MessageAttributes")
        for name, value in attributes.items():
            self._check_subscription_attribute(name, value, scope)
        existing = topic.subscriptions.get(Endpoint)
        if existing is None:
            self._check_room(topic, Endpoint)
            if attributes.get("FilterPolicy", "{}") not in ("", "{}"):
                self._check_filter_quota(topic)
            arn = f"{topic.arn}:00000000-0000-4000-8000-{next(self._numbers):012x}"
            existing = Subscription(arn, Endpoint, attributes, self._clock())
            topic.subscriptions[Endpoint] = existing
        elif not _compared(attributes).items() <= _compared(existing.attributes, is_existing=True).items():
            raise _invalid("Attributes Reason: Subscription already exists with different attributes")
        return {"SubscriptionArn": existing.arn}

    def _check_room(self, topic: Topic, endpoint: str) -> None:
        if topic.is_fifo and len(topic.subscriptions) >= MOST_OF_FIFO:
            raise AwsError("SubscriptionLimitExceeded", "Subscription limit exceeded")
        if topic.most_bytes > MAX_BYTES:
            self._check_large(topic, [*topic.subscriptions, endpoint])

    @staticmethod
    def _check_filter_quota(topic: Topic) -> None:
        if sum(1 for item in topic.subscriptions.values() if item.has_filter) >= MOST_FILTERS:
            raise AwsError("FilterPolicyLimitExceeded", "Filter policy limit exceeded for the topic")

    def unsubscribe(self, SubscriptionArn: str) -> dict[str, Any]:
        parts = SubscriptionArn.split(":")
        if len(parts) < 6:
            raise _invalid(f"SubscriptionArn Reason: An ARN must have at least 6 elements, not {len(parts)}")
        for topic in self.by_name.values():
            for endpoint, item in list(topic.subscriptions.items()):
                if item.arn == SubscriptionArn:
                    del topic.subscriptions[endpoint]
        return {}

    def list_subscriptions_by_topic(self, TopicArn: str, NextToken: str | None = None) -> dict[str, Any]:
        return _page("Subscriptions", self._shown(self.topic(TopicArn)), NextToken)

    def list_subscriptions(self, NextToken: str | None = None) -> dict[str, Any]:
        every = [one for topic in self.by_name.values() for one in self._shown(topic)]
        return _page("Subscriptions", every, NextToken)

    def _shown(self, topic: Topic) -> list[dict[str, str]]:
        return [
            {
                "SubscriptionArn": one.arn,
                "Owner": self._account,
                "Protocol": one.endpoint.split(":")[2],
                "Endpoint": one.endpoint,
                "TopicArn": topic.arn,
            }
            for one in topic.subscriptions.values()
        ]

    def get_subscription_attributes(self, SubscriptionArn: str) -> dict[str, Any]:
        topic, subscription = self._subscription(SubscriptionArn)
        shown = subscription.past.seen(subscription.attributes, self._clock() - self.timings.subscription_reads_s)
        fixed = {
            "SubscriptionArn": SubscriptionArn,
            "TopicArn": topic.arn,
            "Endpoint": subscription.endpoint,
            "Protocol": "sqs",
            "Owner": self._account,
            "PendingConfirmation": "false",
            "ConfirmationWasAuthenticated": "true",
            "RawMessageDelivery": "false",
        }
        if shown.get("FilterPolicy"):
            fixed["FilterPolicyScope"] = "MessageAttributes"
        return {"Attributes": {**fixed, **{name: value for name, value in shown.items() if value}}}

    def set_subscription_attributes(
        self, SubscriptionArn: str, AttributeName: str, AttributeValue: str = ""
    ) -> dict[str, Any]:
        topic, subscription = self._subscription(SubscriptionArn)
        before = subscription.attributes
        scope = before.get("FilterPolicyScope", "MessageAttributes")
        self._check_subscription_attribute(AttributeName, AttributeValue, scope)
        if AttributeName == "FilterPolicy" and AttributeValue not in ("", "{}") and not subscription.has_filter:
            self._check_filter_quota(topic)
        if before.get(AttributeName) != AttributeValue:
            subscription.past.replaced(dict(before), self._clock())
            before[AttributeName] = AttributeValue
        return {}

    def _subscription(self, arn: str) -> tuple[Topic, Subscription]:
        for topic in self.by_name.values():
            for item in topic.subscriptions.values():
                if item.arn == arn:
                    return topic, item
        raise AwsError("NotFound", "Subscription does not exist")

    def _check_subscription_attribute(self, name: str, value: str, scope: str) -> None:
        if name not in SUBSCRIPTION_ATTRIBUTES:
            raise _invalid("AttributeName")
        if name == "RawMessageDelivery" and value.lower() not in ("true", "false"):
            raise _invalid(f"RawMessageDelivery: Invalid value [{value}]. Must be true or false.")
        if name == "FilterPolicyScope" and value not in ("MessageAttributes", "MessageBody"):
            raise _invalid(
                f"FilterPolicyScope: Invalid value [{value}]. Please use either MessageBody or MessageAttributes"
            )
        if name == "FilterPolicy":
            self._check_filter(value, scope)
        if name == "RedrivePolicy" and value:
            self._check_redrive(value)

    @staticmethod
    def _check_filter(text: str, scope: str) -> None:
        if not text or text == "{}":
            return
        try:
            policy = json.loads(text)
        except ValueError:
            raise _invalid("FilterPolicy: failed to parse JSON.") from None
        if scope == "MessageBody":
            return  # nested policies have rules of their own, which no caller of the package needs
        if isinstance(policy, dict) and any(isinstance(values, dict) for values in policy.values()):
            raise _invalid("FilterPolicy: Filter policy scope MessageAttributes does not support nested filter policy")
        if not isinstance(policy, dict) or (found := faults(policy)):
            raise _invalid(f"FilterPolicy: {'; '.join(found) if isinstance(policy, dict) else 'not an object'}")

    def _check_redrive(self, text: str) -> None:
        try:
            target = str(json.loads(text)["deadLetterTargetArn"])
        except (ValueError, KeyError, TypeError):
            raise _invalid("RedrivePolicy: failed to parse JSON.") from None
        if not re.fullmatch(r"arn:[a-z-]+:sqs:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_.-]+", target):
            raise _invalid("RedrivePolicy: deadLetterTargetArn is an invalid arn")

    # --- publishing

    def publish(
        self,
        TopicArn: str,
        Message: str,
        MessageAttributes: dict[str, Any] | None = None,
        MessageGroupId: str | None = None,
        MessageDeduplicationId: str | None = None,
        Subject: str | None = None,
    ) -> dict[str, Any]:
        topic, attributes = self.topic(TopicArn), dict(MessageAttributes or {})
        if not Message:
            raise _invalid("Empty message")
        if size_of(Message, attributes) > topic.most_bytes:
            raise _invalid("Message too long")
        for name, value in attributes.items():
            if not value.get("StringValue") and not value.get("BinaryValue"):
                raise AwsError(
                    "ParameterValueInvalid",
                    f"The message attribute '{name}' must contain non-empty message attribute value for message "
                    "attribute type 'String'.",
                )
            if any(ord(character) > 0xFFFF for character in value.get("StringValue", "")):
                raise AwsError("ParameterValueInvalid", f"Invalid attribute value was passed in for {name}")
        self._check_fifo(topic, MessageGroupId, MessageDeduplicationId)
        message_id = f"10000000-0000-4000-8000-{next(self._numbers):012x}"
        if self._is_duplicate(topic, Message, MessageDeduplicationId):
            return {"MessageId": message_id}
        for subscription in topic.subscriptions.values():
            reason = self._deliver(topic, subscription, Message, attributes, MessageGroupId, MessageDeduplicationId)
            if reason and not self._keep(topic, subscription, Message, attributes):
                self.lost.append((subscription.endpoint.rsplit(":", 1)[1], reason))
        return {"MessageId": message_id}

    @staticmethod
    def _check_fifo(topic: Topic, group: str | None, deduplication: str | None) -> None:
        if not topic.is_fifo:
            if deduplication is not None:
                raise _invalid(
                    "MessageDeduplicationId Reason: The request includes MessageDeduplicationId parameter that is not "
                    "valid for this topic type"
                )
            return
        if group is None:
            raise _invalid("The MessageGroupId parameter is required for FIFO topics")
        if deduplication is None and topic.attributes.get("ContentBasedDeduplication") != "true":
            raise _invalid(
                "The topic should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided "
                "explicitly"
            )

    def _is_duplicate(self, topic: Topic, text: str, deduplication: str | None) -> bool:
        if not topic.is_fifo:
            return False
        key, now = deduplication or text, self._clock()
        is_duplicate = now - topic.deduplicated.get(key, float("-inf")) < DEDUPLICATION_S
        if not is_duplicate:
            topic.deduplicated[key] = now
        return is_duplicate

    def publish_batch(self, TopicArn: str, PublishBatchRequestEntries: list[dict[str, Any]]) -> dict[str, Any]:
        entries = PublishBatchRequestEntries
        topic = self.topic(TopicArn)
        if not entries:
            raise AwsError("EmptyBatchRequest", "The batch request doesn't contain any entries.")
        if len(entries) > 10:
            raise AwsError("TooManyEntriesInBatchRequest", "The batch request contains more entries than permissible.")
        if len({entry["Id"] for entry in entries}) < len(entries):
            raise AwsError("BatchEntryIdsNotDistinct", "Two or more batch entries in the request have the same Id.")
        if not all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}", entry["Id"]) for entry in entries):
            raise AwsError(
                "InvalidBatchEntryId", "The Id of a batch entry in a batch request doesn't abide by the rule."
            )
        if sum(size_of(entry["Message"], entry.get("MessageAttributes")) for entry in entries) > topic.most_bytes:
            raise AwsError("BatchRequestTooLong", "The length of all the messages put together is more than the limit.")
        for entry in entries if topic.is_fifo else ():
            self._check_fifo(topic, entry.get("MessageGroupId"), entry.get("MessageDeduplicationId"))
        answer: dict[str, Any] = {"Successful": [], "Failed": []}
        for entry in entries:
            try:
                done = self.publish(TopicArn, **{name: value for name, value in entry.items() if name != "Id"})
                answer["Successful"].append({"Id": entry["Id"], **done})
            except AwsError as exc:
                answer["Failed"].append(
                    {"Id": entry["Id"], "Code": exc.code, "Message": exc.text, "SenderFault": exc.is_senders}
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
        if not self._acts(subscription):
            return "the subscription does not act yet"
        since = max(self._clock() - self.timings.filters_act_s, self._acted_at)
        acting = subscription.past.seen(subscription.attributes, since)
        if not _passes(acting, text, attributes):
            return ""
        queue = self._queues.of_arn(subscription.endpoint)
        if queue is None:
            return "the queue is gone"
        if not lets_in(self._queues.acting(queue).get("Policy"), queue.arn, topic.arn):
            return "the queue's policy does not let the topic in"
        is_raw = acting.get("RawMessageDelivery", "").lower() == "true"
        if is_raw and len(attributes) > RAW_ATTRIBUTES:
            return "more than ten attributes"
        body = text if is_raw else self._notification(topic, text, attributes)
        self._store(queue, body, attributes if is_raw else {}, group, deduplication)
        return ""

    def _keep(self, topic: Topic, subscription: Subscription, text: str, attributes: dict[str, Any]) -> bool:
        """Put what can't be delivered into the subscription's dead-letter queue, if there is one that lets SNS in."""
        if not self._acts(subscription):
            return False  # for SNS there is no subscription yet
        target = json.loads(subscription.attributes.get("RedrivePolicy") or "{}").get("deadLetterTargetArn")
        queue = self._queues.of_arn(target) if target else None
        if queue is None or not lets_in(self._queues.acting(queue).get("Policy"), queue.arn, topic.arn):
            return False
        self._store(queue, text, attributes, None, None)
        return True

    def _acts(self, subscription: Subscription) -> bool:
        """Whether a subscription is old enough to get anything."""
        return subscription.created_at <= max(self._clock() - self.timings.subscriptions_act_s, self._acted_at)

    def _store(
        self, queue: FakeQueue, body: str, attributes: dict[str, Any], group: str | None, deduplication: str | None
    ) -> None:
        is_standard = not queue.is_fifo
        try:
            self._queues.put(queue, body, attributes, group, None if is_standard else deduplication)
        except AwsError as exc:
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
                    name: {"Type": value["DataType"], "Value": value["StringValue"]}
                    for name, value in attributes.items()
                    if "StringValue" in value
                },
            }
        )


def _passes(acting: dict[str, str], text: str, attributes: dict[str, Any]) -> bool:
    policy = json.loads(acting.get("FilterPolicy") or "{}")
    if not policy:
        return True
    if acting.get("FilterPolicyScope") == "MessageBody":
        return passes_body(policy, text)
    values = {name: value["StringValue"] for name, value in attributes.items() if "StringValue" in value}
    types = {name: str(value.get("DataType", "String")) for name, value in attributes.items()}
    return passes(policy, values, types)


def _compared(attributes: dict[str, str], *, is_existing: bool = False) -> dict[str, str]:
    """Attributes of a subscription as Subscribe compares them: omitted ones are ignored."""
    found = {name: value for name, value in attributes.items() if value}
    if is_existing:
        found.setdefault("FilterPolicyScope", "MessageAttributes")
    if "RawMessageDelivery" in found:
        found["RawMessageDelivery"] = found["RawMessageDelivery"].lower()
    return found


def _page(name: str, items: list[Any], token: str | None) -> dict[str, Any]:
    start = int(token or 0)
    answer: dict[str, Any] = {name: items[start : start + PAGE]}
    return {**answer, "NextToken": str(start + PAGE)} if len(items) > start + PAGE else answer


def _invalid(text: str) -> AwsError:
    return AwsError("InvalidParameter", f"Invalid parameter: {text}")


def _no_topic() -> AwsError:
    return AwsError("NotFound", "Topic does not exist")
