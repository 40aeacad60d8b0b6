"""`hake check`: every planted fault is found by its code and by no other, and a sound topology has no finding."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from celery import Celery
from fakes import ACCOUNT, REGION, FakeClients, connected
from kombu import Exchange, Queue

from kombu_hake.admin import connect
from kombu_hake.admin.check import CODES, CheckReport, Finding
from kombu_hake.groups.topic import Topic

BROKER = f"hake://localhost:1/ns?region={REGION}"
OTHER_QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:ns__gone"


def nothing(**payload: Any) -> None:
    """A handler."""


def shop(broker: str = BROKER, **options: Any) -> Celery:
    """Groups, a plain queue, priorities through a topic, and FIFO."""
    app = Celery("shop", broker=broker, set_as_current=False)
    orders = Topic("orders", app=app)
    orders.on("placed", "paid", group="email", name="receipt")(nothing)
    orders.on("placed", group="stock", name="reserve")(nothing)
    app.conf.broker_transport_options = options
    app.conf.task_queues = [
        Queue("celery"),
        Queue("ranked", Exchange("work", "topic"), "job.#", max_priority=9),
        Queue("jobs.fifo", Exchange("jobs.fifo", "topic"), "job"),
    ]
    return app


def declare(app: Celery) -> None:
    app.finalize()
    with app.connection_for_write() as connection:
        for queue in app.amqp.queues.values():
            queue(connection.default_channel).declare()


class Aws:
    """A fake AWS as an operator changes it."""

    def __init__(self, fake: FakeClients) -> None:
        self.fake = fake

    def url(self, queue: str) -> str:
        return self.fake.queues.queue(f"ns__{queue}").url

    def arn(self, queue: str) -> str:
        return f"arn:aws:sqs:{REGION}:{ACCOUNT}:ns__{queue}"

    def topic(self, exchange: str) -> str:
        return f"arn:aws:sns:{REGION}:{ACCOUNT}:ns__{exchange}"

    def attributes(self, queue: str) -> dict[str, str]:
        """To be changed in place, also to what AWS shows of itself or takes no more."""
        return self.fake.queues.queue(f"ns__{queue}").attributes

    def subscription(self, queue: str, exchange: str = "orders") -> Any:
        return self.fake.topics.topic(self.topic(exchange)).subscriptions[self.arn(queue)]

    def set(self, queue: str, exchange: str = "orders", **attributes: str) -> None:
        for name, value in attributes.items():
            self.fake.sns(
                "set_subscription_attributes", SubscriptionArn=self.subscription(queue, exchange).arn,
                AttributeName=name, AttributeValue=value,
            )  # fmt: skip

    def policy(self, queue: str, *statements: dict[str, Any]) -> None:
        self.attributes(queue)["Policy"] = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})

    def allow(self, queue: str, exchange: str = "orders", **condition: Any) -> dict[str, Any]:
        tests = condition or {"ArnEquals": {"aws:SourceArn": self.topic(exchange)}}
        return {
            "Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage",
            "Resource": self.arn(queue), "Condition": tests,
        }  # fmt: skip


@pytest.fixture
def fake() -> FakeClients:
    return FakeClients()


@pytest.fixture
def app(fake: FakeClients) -> Iterator[Celery]:
    app = shop()
    with connected(fake):
        declare(app)
        yield app


def report(app: Celery, **options: Any) -> CheckReport:
    with connect(app, must_answer=False) as broker:
        return broker.check(**options)


def codes(findings: tuple[Finding, ...]) -> list[str]:
    return sorted({finding.code for finding in findings})


class Fault(NamedTuple):
    code: str
    plant: Callable[[Aws], object]
    #: What tells one case of a code from another.
    case: str = ""


def redrive(aws: Aws, queue: str, target: str, receives: int = 20) -> None:
    policy = {"deadLetterTargetArn": target, "maxReceiveCount": receives}
    aws.attributes(queue)["RedrivePolicy"] = json.dumps(policy)


def allow_redrive(aws: Aws, **policy: Any) -> None:
    aws.attributes("email-dead")["RedriveAllowPolicy"] = json.dumps(policy)


def subscribe(aws: Aws, endpoint: str, protocol: str = "sqs", exchange: str = "orders") -> None:
    aws.fake.sns("subscribe", TopicArn=aws.topic(exchange), Protocol=protocol, Endpoint=endpoint)


def tag(aws: Aws, **tags: str) -> None:
    aws.fake.sqs("tag_queue", QueueUrl=aws.url("email"), Tags=tags)


def orphan(aws: Aws) -> None:
    url = aws.fake.sqs("create_queue", QueueName="ns__gone")["QueueUrl"]
    subscribe(aws, OTHER_QUEUE)
    aws.fake.sqs("delete_queue", QueueUrl=url)


def bind_more(aws: Aws) -> None:
    """As an older version of the app did."""
    app = shop()
    orders = Topic("orders", app=app)
    orders.on("refunded", group="email", name="older")(nothing)
    declare(app)


def in_flight(aws: Aws) -> None:
    real = aws.fake.queues.get_queue_attributes

    def shown(QueueUrl: str, AttributeNames: list[str]) -> dict[str, Any]:
        answer = real(QueueUrl, AttributeNames)
        answer["Attributes"]["ApproximateNumberOfMessagesNotVisible"] = "110000"
        return answer

    aws.fake.queues.get_queue_attributes = shown  # type: ignore[method-assign]


def pending(aws: Aws) -> None:
    aws.subscription("email").arn = "PendingConfirmation"


def crowded(aws: Aws, count: int) -> None:
    """Queues of others, subscribed with a filter."""
    for number in range(count):
        url = aws.fake.sqs("create_queue", QueueName=f"other-{number}")["QueueUrl"]
        arn = aws.fake.queues.of_url(url).arn
        attributes = {"FilterPolicy": '{"rk":["x"]}'}
        aws.fake.sns("subscribe", TopicArn=aws.topic("orders"), Protocol="sqs", Endpoint=arn, Attributes=attributes)


DENY = {"Sid": "NoSns", "Effect": "Deny", "Principal": "*", "Action": "sqs:*"}
FAULTS = [
    Fault("queue-missing", lambda aws: aws.fake.sqs("delete_queue", QueueUrl=aws.url("email"))),
    Fault("queue-missing", lambda aws: aws.fake.sqs("delete_queue", QueueUrl=aws.url("celery")), "without topics"),
    Fault("topic-missing", lambda aws: aws.fake.sns("delete_topic", TopicArn=aws.topic("orders"))),
    Fault(
        "subscription-missing",
        lambda aws: aws.fake.sns("unsubscribe", SubscriptionArn=aws.subscription("email").arn),
    ),
    Fault("subscription-pending", pending),
    Fault("policy-lacks-topic", lambda aws: aws.attributes("email").pop("Policy"), "none"),
    Fault("policy-lacks-topic", lambda aws: aws.policy("email", aws.allow("email", "other")), "another topic"),
    Fault("policy-lacks-topic", lambda aws: aws.attributes("stock-undelivered").pop("Policy"), "undelivered queue"),
    Fault(
        "policy-denies",
        lambda aws: aws.policy("email", aws.allow("email"), {**DENY, "Resource": aws.arn("email")}),
    ),
    Fault(
        "policy-other-account",
        lambda aws: aws.policy(
            "email",
            aws.allow(
                "email", ArnLike={"aws:SourceArn": aws.topic("*")}, StringEquals={"aws:SourceAccount": "999999999999"}
            ),
        ),
    ),
    Fault(
        "policy-in-doubt",
        lambda aws: aws.policy(
            "email", aws.allow("email"),
            {**DENY, "Resource": "*", "Condition": {"StringNotEquals": {"aws:PrincipalOrgID": "o-1"}}},
        ),  # fmt: skip
    ),
    Fault("policy-unreadable", lambda aws: aws.attributes("email").update(Policy='{"Statement": 7}')),
    Fault(
        "policy-near-limit",
        lambda aws: aws.policy("email", *[{**aws.allow("email"), "Sid": f"S{number}"} for number in range(19)]),
    ),
    Fault("raw-delivery-off", lambda aws: aws.set("email", RawMessageDelivery="false")),
    Fault("filter-too-narrow", lambda aws: aws.set("email", FilterPolicy='{"rk":["paid"]}')),
    Fault("filter-too-narrow", lambda aws: aws.set("ranked", "work", FilterPolicy='{"rk":["job"]}'), "of a level"),
    Fault("filter-too-wide", lambda aws: aws.set("email", FilterPolicy="{}"), "none"),
    Fault("filter-too-wide", lambda aws: aws.set("email", FilterPolicy='{"rk":["paid","placed","x"]}'), "one more"),
    Fault(
        "filter-on-body",
        lambda aws: aws.subscription("email").attributes.update(
            FilterPolicyScope="MessageBody", FilterPolicy='{"order":["placed"]}'
        ),
    ),
    Fault("undelivered-not-kept", lambda aws: aws.subscription("email").attributes.pop("RedrivePolicy")),
    Fault(
        "undelivered-queue-missing",
        lambda aws: aws.fake.sqs("delete_queue", QueueUrl=aws.url("email-undelivered")),
    ),
    Fault("orphan-subscription", orphan),
    Fault("foreign-subscription", lambda aws: subscribe(aws, f"arn:aws:sqs:{REGION}:999999999999:audit"), "queue"),
    Fault("dead-letters-off", lambda aws: aws.attributes("email").pop("RedrivePolicy")),
    Fault("dead-queue-missing", lambda aws: aws.fake.sqs("delete_queue", QueueUrl=aws.url("email-dead"))),
    Fault("dead-queue-missing", lambda aws: redrive(aws, "email", OTHER_QUEUE), "a foreign one"),
    Fault("dead-queue-refuses", lambda aws: allow_redrive(aws, redrivePermission="denyAll"), "all"),
    Fault(
        "dead-queue-refuses",
        lambda aws: allow_redrive(aws, redrivePermission="byQueue", sourceQueueArns=[OTHER_QUEUE]),
        "by queue",
    ),
    Fault("max-receives-low", lambda aws: redrive(aws, "email", aws.arn("email-dead"), 2)),
    Fault("dead-retention-short", lambda aws: aws.attributes("email-dead").update(MessageRetentionPeriod="345600")),
    Fault(
        "dead-letters",
        lambda aws: aws.fake.sqs("send_message", QueueUrl=aws.url("email-dead"), MessageBody="x"),
    ),
    Fault(
        "undelivered",
        lambda aws: aws.fake.sqs("send_message", QueueUrl=aws.url("email-undelivered"), MessageBody="x"),
    ),
    Fault("retention-short", lambda aws: aws.attributes("celery").update(MessageRetentionPeriod="300")),
    Fault("queue-delay", lambda aws: aws.attributes("celery").update(DelaySeconds="60")),
    Fault("message-size-small", lambda aws: aws.attributes("celery").update(MaximumMessageSize="65536")),
    Fault(
        "fifo-attributes",
        lambda aws: aws.attributes("jobs.fifo").update(
            FifoThroughputLimit="perMessageGroupId", DeduplicationScope="queue"
        ),
    ),
    Fault("key-closed-to-sns", lambda aws: aws.attributes("email").update(KmsMasterKeyId="alias/aws/sqs")),
    Fault("own-key", lambda aws: aws.attributes("email").update(KmsMasterKeyId="alias/shop")),
    Fault("tags-near-limit", lambda aws: tag(aws, **{f"team{number}": "x" for number in range(42)})),
    Fault("in-flight-near-limit", in_flight),
    Fault("damaged-tags", lambda aws: tag(aws, **{"hake:b:0123456789abcdef": "no binding"})),
    Fault("binding-without-handler", bind_more),
    Fault("clock-skew", lambda aws: setattr(aws.fake, "clock_offset_s", -95.0)),
    Fault("cannot-check", lambda aws: aws.fake.deny("sqs:ListQueueTags"), "tags"),
    Fault("cannot-check", lambda aws: aws.fake.deny("sqs:GetQueueAttributes"), "attributes"),
    Fault("cannot-check", lambda aws: aws.fake.deny("sqs:GetQueueUrl"), "addresses"),
    Fault("cannot-check", lambda aws: aws.fake.deny("sns:GetSubscriptionAttributes"), "subscription attributes"),
    Fault(
        "cannot-check",
        lambda aws: aws.fake.deny("sns:GetTopicAttributes", "sns:ListSubscriptionsByTopic"),
        "topics",
    ),
    Fault("right-missing", lambda aws: aws.fake.deny("sqs:ReceiveMessage"), "consumer"),
    Fault("right-missing", lambda aws: aws.fake.deny("sns:Publish"), "producer"),
    Fault("right-missing", lambda aws: aws.fake.deny("sqs:TagQueue"), "declarer"),
    Fault("right-missing", lambda aws: setattr(aws.fake, "simulated", {"sqs:CreateQueue"}), "simulated"),
]
#: How many requests may come of it, and not found by planting in one account: see the tests below.
ELSEWHERE = {
    "abandoned-queue", "account-mismatch", "drift", "endpoint-unreachable", "exchange-reaches-nobody",
    "fifo-on-standard-topic", "filters-near-limit", "group-without-bindings", "partition-mismatch", "probe-failed",
    "probe-late", "probe-undelivered", "region-mismatch", "sns-rate", "standard-on-fifo-topic",
    "subscriptions-near-limit", "visibility-short",
}  # fmt: skip


def test_every_code_is_planted() -> None:
    assert {fault.code for fault in FAULTS} | ELSEWHERE == set(CODES)
    assert len({fault.code for fault in FAULTS}) >= 20


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.code} {fault.case}".strip())
def test_a_planted_fault_is_found_and_nothing_else(fault: Fault, app: Celery, fake: FakeClients) -> None:
    fault.plant(Aws(fake))
    found = report(app)
    assert codes(found.findings) == [fault.code]
    assert found.is_clean == (CODES[fault.code].severity == "info")
    for finding in found.findings:
        assert finding.what.endswith((".", "…"))
        assert finding.where and finding.why and finding.remedy
