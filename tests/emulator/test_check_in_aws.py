"""`hake check` and its probe on emulators, as boto3 and IAM meet them."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue
from support.emulators import Emulator
from support.rights import CONSUMER, DECLARER, PRODUCER, as_user
from support.shops import declare_own

from kombu_hake.admin import CheckReport, connect
from kombu_hake.groups.topic import Topic

READER = (
    "sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sqs:ListQueueTags", "sqs:ListQueues", "sns:GetTopicAttributes",
    "sns:ListSubscriptionsByTopic", "sns:GetSubscriptionAttributes", "sns:ListTagsForResource",
)  # fmt: skip


def nothing(**payload: Any) -> None:
    """A handler."""


def shop(aws: Emulator, **options: Any) -> Celery:
    app = Celery("shop", broker=aws.url(), set_as_current=False)
    app.conf.broker_transport_options = options
    orders = Topic("orders", app=app)
    orders.on("placed", "paid", group="email", name="receipt")(nothing)
    orders.on("placed", group="stock", name="reserve")(nothing)
    app.conf.task_queues = [Queue("celery"), Queue("audit", Exchange("news", "fanout"))]
    return app


def report(app: Celery, **options: Any) -> CheckReport:
    with connect(app) as broker:
        return broker.check(**options)


def codes(found: CheckReport) -> list[str]:
    return sorted({finding.code for finding in found.findings})


def url_of(aws: Emulator, queue: str) -> str:
    return str(aws.client("sqs").get_queue_url(QueueName=f"{aws.namespace}__{queue}")["QueueUrl"])


def set_queue(aws: Emulator, queue: str, **attributes: str) -> None:
    aws.client("sqs").set_queue_attributes(QueueUrl=url_of(aws, queue), Attributes=attributes)


def subscription_of(aws: Emulator, queue: str) -> str:
    sns = aws.client("sns")
    arn = aws.client("sqs").get_queue_attributes(QueueUrl=url_of(aws, queue), AttributeNames=["QueueArn"])
    for page in sns.get_paginator("list_subscriptions").paginate():
        for item in page["Subscriptions"]:
            if item["Endpoint"] == arn["Attributes"]["QueueArn"]:
                return str(item["SubscriptionArn"])
    raise AssertionError("there is no subscription")


def set_subscription(aws: Emulator, queue: str, name: str, value: str) -> None:
    aws.client("sns").set_subscription_attributes(
        SubscriptionArn=subscription_of(aws, queue), AttributeName=name, AttributeValue=value
    )


def policies(aws: Emulator) -> dict[str, str | None]:
    sqs = aws.client("sqs")
    return {
        queue: sqs.get_queue_attributes(QueueUrl=url_of(aws, queue), AttributeNames=["All"])["Attributes"].get("Policy")
        for queue in ("audit", "celery", "email", "stock")
    }


def names(aws: Emulator) -> set[str]:
    urls = aws.client("sqs").list_queues(QueueNamePrefix=f"{aws.namespace}__").get("QueueUrls", [])
    topics = [topic["TopicArn"] for topic in aws.client("sns").list_topics()["Topics"]]
    return {*urls, *(arn for arn in topics if f":{aws.namespace}__" in arn)}


def test_a_sound_topology_is_clean_and_its_deliveries_are_proved(aws: Emulator) -> None:
    app = shop(aws)
    declare_own(app)
    before, shown = names(aws), policies(aws)
    found = report(app, roles=["producer", "consumer", "declarer", "operator"], probe=True)
    assert found.findings == ()
    assert {probed.outcome for probed in found.probes} == {"delivered"}
    assert sum(len(probed.subscriptions) for probed in found.probes) == found.subscriptions == 3
    assert names(aws) == before
    assert policies(aws) == shown
    assert shown["audit"]


def test_what_apply_made_is_clean(aws: Emulator) -> None:
    app = shop(aws, dead_letter_queue="{queue}-failed")
    with connect(app) as broker:
        assert "queue-missing" in codes(broker.check())
        broker.apply()
        assert codes(broker.check()) == []


@pytest.mark.parametrize(
    ("code", "plant"),
    [
        ("queue-missing", lambda aws: aws.client("sqs").delete_queue(QueueUrl=url_of(aws, "email"))),
        ("policy-lacks-topic", lambda aws: set_queue(aws, "email", Policy="")),
        ("raw-delivery-off", lambda aws: set_subscription(aws, "email", "RawMessageDelivery", "false")),
        ("filter-too-narrow", lambda aws: set_subscription(aws, "email", "FilterPolicy", '{"rk":["paid"]}')),
        (
            "subscription-missing",
            lambda aws: aws.client("sns").unsubscribe(SubscriptionArn=subscription_of(aws, "email")),
        ),
        ("queue-delay", lambda aws: set_queue(aws, "celery", DelaySeconds="30")),
        (
            "dead-letters",
            lambda aws: aws.client("sqs").send_message(QueueUrl=url_of(aws, "email-dead"), MessageBody="x"),
        ),
    ],
)
def test_a_fault_planted_with_boto3_is_found(aws: Emulator, code: str, plant: Callable[[Emulator], object]) -> None:
    app = shop(aws)
    declare_own(app)
    plant(aws)
    assert codes(report(app)) == [code]


def test_a_probe_fails_like_the_messages_it_stands_for(ministack: Emulator) -> None:
    """The only emulator that enforces queue policies."""
    aws = ministack.in_namespace("probed")
    app = shop(aws)
    declare_own(app)
    set_queue(aws, "email", Policy="")
    found = report(app, probe=True, wait_s=1)
    outcomes = {name: probed.outcome for probed in found.probes for name in probed.subscriptions}
    assert outcomes["email <- orders"] == "undelivered"
    assert outcomes["stock <- orders"] == "delivered"


@pytest.mark.parametrize(
    ("action", "role"),
    [
        ("sns:Publish", "producer"),
        ("sqs:SendMessage", "producer"),
        ("sqs:ReceiveMessage", "consumer"),
        ("sqs:DeleteMessage", "consumer"),
        ("sqs:ChangeMessageVisibility", "consumer"),
        ("sqs:SetQueueAttributes", "declarer"),
        ("sqs:TagQueue", "declarer"),
    ],
)
def test_a_right_that_iam_denies_is_named(ministack: Emulator, action: str, role: str) -> None:
    aws = ministack.in_namespace("rights")
    declare_own(shop(aws))
    allowed = {*PRODUCER, *CONSUMER, *DECLARER, *READER} - {action}
    user = as_user(aws, sorted(allowed))
    found = report(shop(replace(user, namespace="rights")), roles=[role])
    assert codes(found) == ["right-missing"]
    [finding] = found.findings
    assert json.loads(finding.remedy.partition(": ")[2])["Action"] == action


def test_a_role_with_what_it_needs_and_the_reads_is_clean(ministack: Emulator) -> None:
    aws = ministack.in_namespace("enough")
    declare_own(shop(aws))
    user = as_user(aws, sorted({*PRODUCER, *CONSUMER, *READER}))
    found = report(shop(replace(user, namespace="enough")), roles=["producer", "consumer"])
    assert found.findings == ()
    assert "denied" not in {right.verdict for right in found.rights}


def test_a_consumer_may_not_see_all_and_is_told_what_is_unknown(ministack: Emulator) -> None:
    aws = ministack.in_namespace("blind")
    declare_own(shop(aws))
    found = report(shop(replace(as_user(aws, CONSUMER), namespace="blind")), roles=["consumer"])
    assert codes(found) == ["cannot-check"]
    told = " ".join(finding.remedy for finding in found.findings)
    for action in ("sns:GetTopicAttributes", "sns:ListSubscriptionsByTopic", "sqs:ListQueueTags"):
        assert f"Allow {action}" in told
