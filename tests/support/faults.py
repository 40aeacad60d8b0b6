"""What operators and other tools do to queues, topics and subscriptions, and the line of a plan that shows each.

Queues and topics have the names of the shop ``attributes and tags``; :class:`Aws` maps them to those of another app.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from support.inventory import inventory, topic_arns

__all__ = ["FAULTS", "FAULTS_WITH_PRIORITIES", "FOREIGN", "Aws", "FakeClient", "Fault", "see_and_mend"]

FOREIGN = {
    "Sid": "theirs",
    "Effect": "Allow",
    "Principal": {"Service": "s3.amazonaws.com"},
    "Action": "sqs:SendMessage",
    "Resource": "*",
}


class FakeClient:
    """As one of boto3's, to the fake."""

    def __init__(self, fake: Any, service: str) -> None:
        self._call = getattr(fake, service)

    def __getattr__(self, operation: str) -> Any:
        return lambda **params: self._call(operation, **params)


class Aws:
    """Queues, topics and subscriptions by logical name, with boto3."""

    def __init__(
        self,
        sqs: Any,
        sns: Any,
        prefix: str,
        pass_time: Callable[[float], None] = lambda s: None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            pass_time: Lets AWS's time pass, where it refuses the name of a deleted queue.
            names: Other names of queues and topics.
        """
        self.sqs, self.sns, self.prefix, self._pass_time = sqs, sns, prefix, pass_time
        self._names = names or {}

    def name(self, name: str) -> str:
        """The name in AWS, also of a queue that belongs to another one, such as ``email-dead``."""
        stem, dash, role = name.partition("-")
        return f"{self.prefix}{self._names.get(stem, stem)}{dash}{role}"

    def line(self, text: str) -> str:
        """A line of a plan with the names in AWS in place of ``__email``."""
        return re.sub(r"__([\w.-]+)", lambda match: self.name(match[1]), text)

    def url(self, name: str) -> str:
        found: str = self.sqs.get_queue_url(QueueName=self.name(name))["QueueUrl"]
        return found

    def level(self, name: str, number: int) -> str:
        """A priority level's URL."""
        found = sorted(url for url in self.all_urls() if re.search(rf"__{name}_priority-{number}_x", url))
        return found[0]

    def delete(self, url: str) -> None:
        """Delete a queue, and wait as long as AWS refuses its name."""
        self.sqs.delete_queue(QueueUrl=url)
        self._pass_time(61)

    def all_urls(self) -> list[str]:
        return list(self.sqs.list_queues(QueueNamePrefix=self.prefix).get("QueueUrls", []))

    def arn(self, url: str) -> str:
        found: str = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        return found

    def set(self, url: str, **attributes: str) -> None:
        shown = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        kept = {"Policy": shown["Policy"]} if "Policy" in shown else {}  # moto drops it with any other attribute
        self.sqs.set_queue_attributes(QueueUrl=url, Attributes=kept | attributes)

    def topic(self, name: str) -> str:
        return next(arn for arn in topic_arns(self.sns) if arn.endswith(f":{self.name(name)}"))

    def subscription(self, topic: str, queue: str) -> str:
        listed: list[dict[str, str]] = []
        token: dict[str, str] = {}
        while not listed or token:
            page = self.sns.list_subscriptions_by_topic(TopicArn=self.topic(topic), **token)
            listed += page["Subscriptions"]
            token = {"NextToken": page["NextToken"]} if page.get("NextToken") else {}
        return next(item["SubscriptionArn"] for item in listed if item["Endpoint"].endswith(f":{self.name(queue)}"))

    def subscribe(self, name: str, value: str, topic: str = "orders", queue: str = "email") -> None:
        self.sns.set_subscription_attributes(
            SubscriptionArn=self.subscription(topic, queue), AttributeName=name, AttributeValue=value
        )

    def binding_tags(self, name: str) -> list[str]:
        tags = self.sqs.list_queue_tags(QueueUrl=self.url(name))["Tags"]
        return sorted(key for key in tags if key.startswith("hake:b:"))

    def inventory(self) -> dict[str, Any]:
        found = inventory(self.sqs, self.sns, self.prefix)
        for queue in found["queues"].values():
            for changing in ("LastModifiedTimestamp", "CreatedTimestamp"):
                queue["attributes"].pop(changing, None)
        for subscription in found["subscriptions"].values():
            subscription.pop("SubscriptionArn", None)
        return found


class Fault(NamedTuple):
    """Something that was changed with boto3, and how each line of the plan begins, or what it holds."""

    make: Callable[[Aws], Any]
    lines: list[str]
    #: Name in a line, or its beginning, of a queue that is new afterwards, without the tags that others gave it.
    recreates: str = ""
    #: Name in a line of a queue whose policy has a foreign statement then, which stays.
    keeps_foreign: str = ""


def without_policy(aws: Aws) -> None:
    aws.set(aws.url("email"), Policy="")


def with_other_statement(aws: Aws) -> None:
    """Ours is replaced by a foreign one, which has to stay."""
    aws.set(aws.url("stock"), Policy=json.dumps({"Version": "2012-10-17", "Statement": [FOREIGN]}))


def redrive(aws: Aws, **changes: Any) -> None:
    url = aws.url("email")
    shown = aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"])["Attributes"]
    aws.set(url, RedrivePolicy=json.dumps(json.loads(shown["RedrivePolicy"]) | changes))


def in_body(aws: Aws) -> None:
    aws.subscribe("FilterPolicy", "{}")
    aws.subscribe("FilterPolicyScope", "MessageBody")
    aws.subscribe("FilterPolicy", '{"a": ["b"]}')


FAULTS: dict[str, Fault] = {
    "queue deleted": Fault(
        lambda aws: aws.delete(aws.url("email")), ["create queue __email:"], recreates="__email"
    ),
    "dead-letter queue deleted": Fault(
        lambda aws: aws.delete(aws.url("email-dead")), ["create queue __email-dead:"], recreates="__email-dead"
    ),
    "undelivered queue deleted": Fault(
        lambda aws: aws.delete(aws.url("email-undelivered")),
        ["create queue __email-undelivered:"],
        recreates="__email-undelivered",
    ),
    "topic deleted": Fault(
        lambda aws: aws.sns.delete_topic(TopicArn=aws.topic("audit")),
        ["create topic __audit:", "create subscription __audit -> __log:"],
    ),
    "subscription deleted": Fault(
        lambda aws: aws.sns.unsubscribe(SubscriptionArn=aws.subscription("orders", "stock")),
        ["create subscription __orders -> __stock:"],
    ),
    "filter altered": Fault(
        lambda aws: aws.subscribe("FilterPolicy", '{"rk": ["other"]}'),
        ["change subscription __orders -> __email: FilterPolicy"],
    ),
    "filter removed": Fault(
        lambda aws: aws.subscribe("FilterPolicy", "{}"), ["change subscription __orders -> __email: FilterPolicy"]
    ),
    "filter on the body": Fault(
        in_body,
        [
            "change subscription __orders -> __email: FilterPolicy should be {}.",
            "change subscription __orders -> __email: FilterPolicyScope",
            'change subscription __orders -> __email: FilterPolicy should be {"',
        ],
    ),
    "not raw": Fault(
        lambda aws: aws.subscribe("RawMessageDelivery", "false"),
        ["change subscription __orders -> __email: RawMessageDelivery"],
    ),
    "redrive policy of a subscription removed": Fault(
        lambda aws: aws.subscribe("RedrivePolicy", ""), ["change subscription __orders -> __email: RedrivePolicy"]
    ),
    "redrive policy of a subscription altered": Fault(
        lambda aws: aws.subscribe(
            "RedrivePolicy", json.dumps({"deadLetterTargetArn": aws.arn(aws.url("email-dead"))})
        ),
        ["change subscription __orders -> __email: RedrivePolicy"],
    ),
    "policy removed": Fault(without_policy, ["change policy __email:"]),
    "policy replaced": Fault(with_other_statement, ["change policy __stock:"], keeps_foreign="__stock"),
    "policy of the undelivered queue removed": Fault(
        lambda aws: aws.set(aws.url("email-undelivered"), Policy=""), ["change policy __email-undelivered:"]
    ),
    "redrive policy removed": Fault(
        lambda aws: aws.set(aws.url("email"), RedrivePolicy=""),
        ["change attribute __email: RedrivePolicy is missing."],
    ),
    "redrive policy altered": Fault(
        lambda aws: redrive(aws, maxReceiveCount=3), ["change attribute __email: RedrivePolicy is"]
    ),
    "visibility timeout altered": Fault(
        lambda aws: aws.set(aws.url("email"), VisibilityTimeout="77"),
        ["change attribute __email: VisibilityTimeout is 77, but is declared as 1800."],
    ),
    "wait time altered": Fault(
        lambda aws: aws.set(aws.url("log"), ReceiveMessageWaitTimeSeconds="0"),
        ["change attribute __log: ReceiveMessageWaitTimeSeconds is 0, but is declared as 20."],
    ),
    "retention of the dead-letter queue altered": Fault(
        lambda aws: aws.set(aws.url("email-dead"), MessageRetentionPeriod="3600"),
        ["change attribute __email-dead: MessageRetentionPeriod is 3600, but is declared as 86400."],
    ),
    "attribute by option altered": Fault(
        lambda aws: aws.set(aws.url("stock"), DelaySeconds="0"),
        ["change attribute __stock: DelaySeconds is 0, but is declared as 5."],
    ),
    "key altered": Fault(
        lambda aws: aws.set(aws.url("stock-dead"), KmsMasterKeyId="alias/other"),
        ["change attribute __stock-dead: KmsMasterKeyId is alias/other, but is declared as alias/own."],
    ),
    "tags removed": Fault(
        lambda aws: aws.sqs.untag_queue(QueueUrl=aws.url("email"), TagKeys=["hake:made-by", "team"]),
        ["change tag __email: Tag team is missing.", "change tag __email: Tag hake:made-by is missing."],
    ),
    "tag altered": Fault(
        lambda aws: aws.sqs.tag_queue(QueueUrl=aws.url("log"), Tags={"hake:namespace": "other"}),
        ["change tag __log: Tag hake:namespace is other"],
    ),
    "owner of a dead-letter queue removed": Fault(
        lambda aws: aws.sqs.untag_queue(QueueUrl=aws.url("email-dead"), TagKeys=["hake:dead-letters-of"]),
        ["change tag __email-dead: Tag hake:dead-letters-of is missing."],
    ),
    "tag of a binding removed": Fault(
        lambda aws: aws.sqs.untag_queue(QueueUrl=aws.url("stock"), TagKeys=aws.binding_tags("stock")),
        ["change binding __stock: No tag records its binding to exchange orders with key placed."],
    ),
    "tag of a binding altered": Fault(
        lambda aws: aws.sqs.tag_queue(QueueUrl=aws.url("stock"), Tags={aws.binding_tags("stock")[0]: "topic x"}),
        ["change binding __stock: No tag records its binding to exchange orders with key placed."],
    ),
    "tags of a topic removed": Fault(
        lambda aws: aws.sns.untag_resource(
            ResourceArn=aws.topic("orders"), TagKeys=["hake:exchange-type", "hake:namespace"]
        ),
        [
            "change tag __orders: Tag hake:namespace is missing.",
            "change tag __orders: Tag hake:exchange-type is missing.",
        ],
    ),
}  # fmt: skip
FAULTS_WITH_PRIORITIES: dict[str, Fault] = {
    "level deleted": Fault(
        lambda aws: aws.delete(aws.level("jobs", 2)), ["create queue __jobs_priority-2"],
        recreates="__jobs_priority-2",
    ),
    "policy of a level removed": Fault(
        lambda aws: aws.set(aws.level("jobs", 1), Policy=""), ["change policy __jobs_priority-1"]
    ),
    "redrive policy of a level removed": Fault(
        lambda aws: aws.set(aws.level("jobs", 3), RedrivePolicy=""), ["change attribute __jobs_priority-3"]
    ),
    "tag of a level removed": Fault(
        lambda aws: aws.sqs.untag_queue(QueueUrl=aws.level("jobs", 1), TagKeys=["hake:level-of"]),
        ["change tag __jobs_priority-1"],
    ),
    "highest priority removed": Fault(
        lambda aws: aws.sqs.untag_queue(QueueUrl=aws.url("jobs"), TagKeys=["hake:max-priority"]),
        ["change tag __jobs: Tag hake:max-priority is missing."],
    ),
    "subscription of a level altered": Fault(
        lambda aws: aws.subscribe("FilterPolicy", "{}", "work", "jobs"), ["change subscription __work -> __jobs:"]
    ),
}  # fmt: skip
FAULTS["redrive allow policy denies"] = Fault(
    lambda aws: aws.set(aws.url("email-dead"), RedriveAllowPolicy='{"redrivePermission": "denyAll"}'),
    ["change attribute __email-dead: RedriveAllowPolicy is"],
)


def see_and_mend(
    aws: Aws,
    fault: Fault,
    plan: Callable[[], Sequence[str]],
    apply: Callable[[], Sequence[str]],
    expected: Sequence[str] | None = None,
) -> None:
    """Plant a fault in what was applied: a plan names it and nothing else, apply mends it, and what others have stays.

    Args:
        plan: Lines of the changes of a plan.
        apply: Lines of the changes that were made.
        expected: How the lines begin; default: those of the fault.
    """
    theirs = aws.sqs.create_queue(QueueName=f"{aws.prefix}theirs")["QueueUrl"]
    for item in [one for one in aws.sns.list_topics()["Topics"] if not one["TopicArn"].endswith(".fifo")][:1]:
        aws.sns.subscribe(TopicArn=item["TopicArn"], Protocol="sqs", Endpoint=aws.arn(theirs))
    for url in aws.all_urls():
        aws.sqs.tag_queue(QueueUrl=url, Tags={"theirs": "x"})
    before = aws.inventory()
    fault.make(aws)
    left = aws.inventory()["topics"]
    for topic, queue in list(before["subscriptions"]):
        if topic not in left and queue == f"{aws.prefix}theirs":
            del before["subscriptions"][topic, queue]  # nobody but its owner can restore it
    shown = plan()
    starts = [aws.line(line) for line in (fault.lines if expected is None else expected)]
    assert [line[: len(start)] for line, start in zip(shown, starts, strict=False)] == starts
    assert len(shown) == len(starts)
    assert sorted(apply()) == sorted(shown)
    assert plan() == []
    after = aws.inventory()
    for name, queue in after["queues"].items():
        policy = queue["attributes"].get("Policy")
        if policy is not None and fault.keeps_foreign and aws.line(fault.keeps_foreign) == name:
            assert FOREIGN in policy["Statement"]
            policy["Statement"].remove(FOREIGN)
        if fault.recreates and name.startswith(aws.line(fault.recreates)):
            queue["tags"]["theirs"] = "x"
    assert after == before
