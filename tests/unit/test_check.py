"""`hake check`: every planted fault is found by its code and by no other, and a sound topology has no finding.

``python tests/unit/test_check.py`` prints what the check says of each planted fault.
"""

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for those who run this file as a script
from celery import Celery
from celery.app.utils import find_app
from celery.bin import celery as celery_command
from celery.bin.base import CLIContext
from celery.bin.celery import celery
from click.testing import CliRunner, Result
from fakes import ACCOUNT, REGION, FakeClients, connected, make_settings
from kombu import Exchange, Queue
from support.shops import SHOPS, declare_all, declare_own, made_app

from kombu_hake.admin import CheckReport, Finding, connect
from kombu_hake.admin.blueprint import blueprint
from kombu_hake.admin.check.drift import at_queue, of_drift
from kombu_hake.admin.check.facts import Expected
from kombu_hake.admin.check.findings import CODES
from kombu_hake.admin.check.findings import found as found_at
from kombu_hake.admin.check.reading import Reader
from kombu_hake.admin.check.rights import _principal
from kombu_hake.admin.check.running import judged
from kombu_hake.admin.declared import Declared, declared
from kombu_hake.admin.export.rights import ROLES
from kombu_hake.amqp.ownership import Kind, kind_tag, user_tag
from kombu_hake.aws.reach import unreachable_at
from kombu_hake.cli.check import _ROLES
from kombu_hake.cli.main import hake
from kombu_hake.cli.tables import check_sheet
from kombu_hake.exceptions import BrokerUnavailable
from kombu_hake.groups.topic import Topic
from kombu_hake.topology import Blueprint, Drift

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
def app(fake: FakeClients) -> Iterator[Celery]:
    app = shop()
    with connected(fake):
        declare_own(app)
        yield app


def report(app: Celery, **options: Any) -> CheckReport:
    with connect(app, offline=True) as broker:
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


def untag(aws: Aws, queue: str, start: str) -> None:
    tags = aws.fake.queues.queue(f"ns__{queue}").tags
    for key in [key for key in tags if key.startswith(start)]:
        del tags[key]


def damaged_and_widened(aws: Aws) -> None:
    tag(aws, **{"hake:b:0123456789abcdef": "no binding"})
    aws.set("email", FilterPolicy="{}")


def orphan(aws: Aws) -> None:
    url = aws.fake.sqs("create_queue", QueueName="ns__gone")["QueueUrl"]
    subscribe(aws, OTHER_QUEUE)
    aws.fake.sqs("delete_queue", QueueUrl=url)


def bind_more(aws: Aws) -> None:
    """As an older version of the app did."""
    app = shop()
    orders = Topic("orders", app=app)
    orders.on("refunded", group="email", name="older")(nothing)
    declare_own(app)


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
            "email",
            aws.allow("email"),
            {**DENY, "Resource": "*", "Condition": {"StringNotEquals": {"aws:PrincipalOrgID": "o-1"}}},
        ),
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
    Fault("unbound-subscription", lambda aws: subscribe(aws, aws.arn("celery"))),
    Fault("unbound-subscription", lambda aws: subscribe(aws, aws.arn("email"), exchange="work"), "of a bound queue"),
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
    Fault("dead-size-small", lambda aws: aws.attributes("email-dead").update(MaximumMessageSize="262144")),
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
    Fault("damaged-tags", damaged_and_widened, "and a filter that may be of them"),
    Fault("binding-without-handler", bind_more),
    Fault("drift", lambda aws: aws.attributes("celery").update(ReceiveMessageWaitTimeSeconds="0"), "attribute"),
    Fault("drift", lambda aws: untag(aws, "stock", "hake:made-by"), "tag"),
    Fault("drift", lambda aws: untag(aws, "stock", "hake:b:"), "binding"),
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
#: Found in another app or region, or by the probe: see the tests below.
ELSEWHERE = {
    "abandoned-queue", "account-mismatch", "bucket-elsewhere", "bucket-missing", "bucket-unreachable",
    "endpoint-unreachable", "exchange-reaches-nobody", "fifo-on-standard-topic", "filters-near-limit",
    "group-without-bindings", "lifecycle-missing", "lifecycle-short", "partition-mismatch", "probe-failed",
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
        assert all((finding.where, finding.why, finding.remedy))


# --- no false alarm


def plain(broker: str = BROKER, **options: Any) -> Celery:
    """A task queue and nothing else."""
    app = Celery("plain", broker=broker, set_as_current=False)
    app.conf.broker_transport_options = options
    return app


def with_task_queues(broker: str = BROKER, **options: Any) -> Celery:
    app = plain(broker, **options)
    app.conf.task_queues = [
        Queue("mails", queue_arguments={"x-dead-letter-queue": True, "x-delivery-limit": 2}),
        Queue("audit", Exchange("news", "fanout")),
        Queue("by-header", Exchange("heads", "headers"), binding_arguments={"x-match": "all", "kind": "a"}),
        Queue("many", Exchange("work", "topic"), "a.*.c.#"),
    ]
    return app


SOUND: dict[str, Callable[[], Celery]] = {
    "demo": shop,
    "plain": plain,
    "task_queues": with_task_queues,
    "no namespace": lambda: shop(f"hake://localhost:1/?region={REGION}"),
    "policy for the namespace": lambda: shop(queue_policy="namespace"),
    "all dead letters": lambda: with_task_queues(dead_letter_queue="all-dead", max_receive_count=5),
    "own attributes": lambda: shop(queue_attributes={"MessageRetentionPeriod": 86_400, "DelaySeconds": 5}),
    "names of sqs": lambda: with_task_queues(name_style="kombu"),
    "prefix": lambda: with_task_queues(queue_name_prefix="old-"),
    "fanout priorities": lambda: shop(fanout_priorities=True),
    "undelivered not kept": lambda: shop(keep_undelivered=False),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_topology_has_no_finding(name: str, fake: FakeClients) -> None:
    app = SOUND[name]()
    with connected(fake):
        declare_own(app)
        found = report(app, roles=("producer", "consumer", "declarer", "operator"))
    assert found.findings == ()
    assert found.is_clean
    assert found.queues


@pytest.mark.parametrize("name", SHOPS)
def test_every_way_of_declaring_is_sound(name: str, fake: FakeClients) -> None:
    app = made_app(BROKER, name)
    with connected(fake):
        declare_all(app)
        found = report(app, probe=True, wait_s=0)
    known = {"attributes and tags": {"own-key"}, "documents by option": {"dead-queue-refuses"}}
    assert {finding.code for finding in found.findings} == known.get(name, set())
    assert {probed.outcome for probed in found.probes} == {"delivered"}


def test_what_infrastructure_code_made_has_no_finding_but_remarks(fake: FakeClients) -> None:
    """Queues and topics of other names, without filters, dead letters, tags and our attributes."""
    url = fake.sqs("create_queue", QueueName="mails-live")["QueueUrl"]
    topic = fake.sns("create_topic", Name="news-live")["TopicArn"]
    arn = fake.queues.of_url(url).arn
    policy = {"Statement": [{
        "Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": arn,
        "Condition": {"StringEquals": {"aws:SourceAccount": ACCOUNT}},
    }]}  # fmt: skip
    fake.sqs("set_queue_attributes", QueueUrl=url, Attributes={"Policy": json.dumps(policy)})
    fake.sns(
        "subscribe", TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"}
    )  # fmt: skip
    for mode in ("verify", "assume", "auto"):
        app = plain(
            topology=mode, predefined_queues={"mails": url}, predefined_exchanges={"news": topic},
        )  # fmt: skip
        app.conf.task_queues = [Queue("mails", Exchange("news", "topic"), "mail.#")]
        app.conf.task_default_queue = "mails"
        with connected(fake):
            found = report(app)
        assert {finding.code for finding in found.findings} <= {"filter-too-wide", "visibility-short"}
        assert found.is_clean


def test_groups_of_another_app_on_the_same_queue_are_no_fault(app: Celery, fake: FakeClients) -> None:
    """The queue's tags hold the bindings of both, and so does its filter."""
    other = plain()
    other.conf.task_queues = [Queue("ranked", Exchange("work", "topic"), "extra.#", max_priority=9)]
    with connected(fake):
        declare_own(other)
        assert report(app).findings == ()
        assert codes(report(other).findings) == []


def test_checking_changes_nothing(app: Celery, fake: FakeClients) -> None:
    url = Aws(fake).url("email")
    fake.sqs("send_message", QueueUrl=url, MessageBody="kept")
    before = json.dumps([vars(queue) for queue in fake.queues.by_name.values()], default=repr)
    fake.calls.clear()
    report(app, roles=("producer", "consumer", "declarer", "operator"))
    assert json.dumps([vars(queue) for queue in fake.queues.by_name.values()], default=repr) == before
    reads = {name for name in fake.counts() if name.startswith(("get_", "list_", "simulate_"))}
    empty = {"send_message_batch", "delete_message_batch", "change_message_visibility_batch", "receive_message",
             "set_queue_attributes", "tag_queue", "untag_queue", "publish_batch"}  # fmt: skip
    assert set(fake.counts()) - reads <= empty
    for name, params in fake.calls:
        if name in empty:
            rest = [value for key, value in params.items() if key not in ("QueueUrl", "TopicArn")]
            assert not any(rest), f"{name} is not empty: {params}"
        if name == "set_queue_attributes":  # in moto, this removes a policy
            assert not fake.queues.of_url(params["QueueUrl"]).attributes.get("Policy")


def test_requests_grow_with_the_topology_only(app: Celery, fake: FakeClients) -> None:
    fake.calls.clear()
    found = report(app)
    counts = fake.counts()
    assert counts["get_queue_attributes"] == found.queues
    assert counts["get_topic_attributes"] == counts["list_subscriptions_by_topic"] == found.topics
    assert counts["get_subscription_attributes"] == found.subscriptions
    assert counts["list_queue_tags"] == found.queues


# --- what needs another app, or another place


def found_in(app: Celery, fake: FakeClients, *, is_declared: bool = True) -> tuple[Finding, ...]:
    with connected(fake):
        if is_declared:
            declare_own(app)
        return report(app).findings


def test_a_fifo_queue_on_a_standard_topic(fake: FakeClients) -> None:
    unbound, bound, other = plain(), plain(), plain()
    unbound.conf.task_queues = [Queue("celery"), Queue("jobs.fifo", Exchange("jobs.fifo"), "jobs.fifo")]
    bound.conf.task_queues = [Queue("celery"), Queue("jobs.fifo", Exchange("orders", "topic"), "job")]
    other.conf.task_queues = [Queue("audit", Exchange("orders", "topic"), "#")]
    with connected(fake):
        declare_own(unbound)
        declare_own(other)
    assert codes(found_in(bound, fake, is_declared=False)) == ["fifo-on-standard-topic", "foreign-subscription"]


def test_a_group_that_is_bound_to_no_topic(fake: FakeClients) -> None:
    """Of a group that the app has handlers for, Celery may have a queue of that name without its bindings."""
    app = plain()
    with connected(fake), app.connection_for_write() as connection:
        declare_own(app)
        topology, clients = connection.connection.topology, connection.connection.clients
        made = declared(app)
        group = replace(made, queues=tuple(replace(queue, is_group=True) for queue in made.queues))
        expected = Expected(group, blueprint(group, clients.settings, topology.home), clients.settings)
        found = judged(expected, Reader(clients, topology.home).read(expected))
    assert [finding.code for finding in found] == ["group-without-bindings"]


def test_a_standard_queue_on_a_fifo_topic(fake: FakeClients) -> None:
    app = plain()
    app.conf.task_queues = [Queue("celery"), Queue("audit", Exchange("jobs.fifo", "topic"), "#")]
    assert codes(found_in(app, fake)) == ["standard-on-fifo-topic"]


@pytest.mark.parametrize("is_made", [True, False])
def test_an_exchange_that_reaches_nobody(fake: FakeClients, is_made: bool) -> None:
    app = plain()
    app.conf.task_routes = {"report.*": {"exchange": "reports", "exchange_type": "topic", "routing_key": "daily"}}
    if is_made:
        fake.sns("create_topic", Name="ns__reports")
    assert codes(found_in(app, fake)) == ["exchange-reaches-nobody"]


def publisher(broker: str = BROKER, **options: Any) -> Celery:
    """Publishes to a topic, and has no handler."""
    app = plain(broker, **options)
    app.conf.topics = [Topic("orders", app=app)]  # as the name in a module keeps it
    return app


@pytest.mark.parametrize("is_made", [True, False])
def test_a_topic_without_handlers_that_reaches_nobody(fake: FakeClients, is_made: bool) -> None:
    app = publisher()
    if is_made:
        fake.sns("create_topic", Name="ns__orders")
    [finding] = found_in(app, fake)
    assert (finding.code, finding.severity) == ("exchange-reaches-nobody", "warning")
    assert finding.where.endswith(":ns__orders")
    assert "fails" not in finding.what


@pytest.mark.parametrize(
    "options", [{"topology": "assume"}, {"predefined_exchanges": {"orders": f"arn:aws:sns:{REGION}:{ACCOUNT}:far"}}]
)
def test_publishing_to_a_topic_that_workers_do_not_create_fails(fake: FakeClients, options: dict[str, Any]) -> None:
    with connected(fake):
        declare_own(plain())
        [finding] = [one for one in report(publisher(**options)).findings if one.severity != "info"]
    assert finding.code == "exchange-reaches-nobody"
    assert "Publishing to it fails." in finding.what


def test_a_topic_without_handlers_that_others_are_subscribed_to(app: Celery, fake: FakeClients) -> None:
    assert app.main == "shop"
    assert found_in(publisher(), fake) == ()


def test_what_may_only_be_published_to_is_a_remark(app: Celery, fake: FakeClients) -> None:
    fake.deny("sns:GetTopicAttributes", "sns:ListSubscriptionsByTopic", "sns:ListTagsForResource")
    found = found_in(publisher(topology="assume"), fake, is_declared=False)
    assert codes(found) == ["cannot-check"]
    assert {finding.severity for finding in found if "orders" in finding.where} == {"info"}


def test_a_topic_without_handlers_needs_the_right_to_publish(app: Celery, fake: FakeClients) -> None:
    fake.deny("sns:Publish")
    assert codes(found_in(publisher(), fake)) == ["right-missing"]


def test_a_queue_shared_with_sqs_workers_that_hides_messages_for_two_minutes(fake: FakeClients) -> None:
    app = plain(name_style="kombu")
    with connected(fake):
        declare_own(app)
        Aws(fake).attributes("celery")["VisibilityTimeout"] = "120"
        [finding] = report(app).findings
    assert (finding.code, finding.severity) == ("visibility-short", "warning")
    assert '"VisibilityTimeout": "1800"' in finding.remedy


@pytest.mark.parametrize(
    ("attributes", "code"),
    [({"MaximumMessageSize": "1048576"}, "subscriptions-near-limit"), ({}, "filters-near-limit")],
)
def test_a_crowded_topic(app: Celery, fake: FakeClients, attributes: dict[str, str], code: str) -> None:
    aws = Aws(fake)
    crowded(aws, 92 if attributes else 183)
    for name, value in attributes.items():
        fake.sns("set_topic_attributes", TopicArn=aws.topic("orders"), AttributeName=name, AttributeValue=value)
    assert codes(report(app).findings) == sorted([code, "foreign-subscription"])


def test_a_foreign_subscription_that_waits_to_be_confirmed_is_nothing_yet(app: Celery, fake: FakeClients) -> None:
    subscribe(Aws(fake), OTHER_QUEUE)
    fake.topics.topic(Aws(fake).topic("orders")).subscriptions[OTHER_QUEUE].arn = "PendingConfirmation"
    assert report(app).findings == ()


def test_a_difference_is_drift_unless_all_of_it_is_explained() -> None:
    expected = Expected(Declared(), Blueprint(), make_settings())
    drift = Drift("change", "attribute", "ns__q", "Two differ.", attributes={"DelaySeconds": "0", "Other": "1"})
    arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:ns__q"
    half, whole = (found_at("queue-delay", arn, "x", explains=at_queue(arn, *names))
                   for names in (["DelaySeconds"], ["DelaySeconds", "Other"]))  # fmt: skip
    assert [finding.code for finding in of_drift(expected, [drift], [half])] == ["drift"]
    assert list(of_drift(expected, [drift], [whole])) == []


def test_a_region_with_a_low_rate() -> None:
    fake = FakeClients(region="eu-north-1")
    [finding] = found_in(with_task_queues("hake://localhost:1/ns?region=eu-north-1"), fake)
    assert (finding.code, finding.severity) == ("sns-rate", "info")
    assert "300 messages per second" in finding.what


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"predefined_queues": {"celery": f"arn:aws:sqs:us-east-1:{ACCOUNT}:q"}}, "region-mismatch"),
        ({"predefined_queues": {"celery": f"arn:aws-cn:sqs:{REGION}:{ACCOUNT}:q"}}, "partition-mismatch"),
        ({"predefined_exchanges": {"news": f"arn:aws:sns:us-east-1:{ACCOUNT}:t"}}, "region-mismatch"),
        ({"predefined_exchanges": {"news": f"arn:aws-us-gov:sns:{REGION}:{ACCOUNT}:t"}}, "partition-mismatch"),
    ],
)
def test_addresses_of_another_place(fake: FakeClients, options: dict[str, Any], code: str) -> None:
    before, app = plain(), plain(**options)
    for one in (before, app):
        one.conf.task_queues = [Queue("celery"), Queue("mails", Exchange("news", "topic"), "#")]
    with connected(fake):
        declare_own(before)
        assert code in codes(report(app).findings)
        assert set(codes(report(app).findings)) <= {code, "drift"}


@pytest.mark.parametrize(
    "url",
    [
        "https://sqs.us-east-1.amazonaws.com",
        "https://sns.us-east-1.amazonaws.com",
        "https://vpce-0a-b.sns.us-east-1.vpce.amazonaws.com",
    ],
)
def test_an_endpoint_of_another_region(
    url: str, app: Celery, fake: FakeClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoints = {"sqs": f"https://sqs-fips.{REGION}.api.aws", "sns": url}
    monkeypatch.setattr(fake, "endpoints", lambda: endpoints)
    assert codes(report(app).findings) == ["region-mismatch"]


def test_an_account_that_is_not_that_of_the_credentials(fake: FakeClients) -> None:
    with connected(fake):
        declare_own(plain())
        app = plain(account_id="999999999999")
        assert "account-mismatch" in codes(report(app).findings)


def test_abandoned_temporary_queues(app: Celery, fake: FakeClients) -> None:
    name = "ns__celery-9a0364b9e99bb480dd25e1f0284c8555"
    fake.sqs("create_queue", QueueName=name, tags=kind_tag(Kind(auto_delete=True)) | user_tag("u", 0, 60, "me"))
    fake.sqs("create_queue", QueueName=name.replace("9a", "9b"), tags=kind_tag(Kind(auto_delete=True)))
    [finding] = report(app).findings
    assert (finding.code, finding.severity, finding.where) == ("abandoned-queue", "info", name)


def test_a_prefix_may_leave_no_room_for_the_names_of_probes(fake: FakeClients) -> None:
    app = plain(f"hake://localhost:1?region={REGION}", name_style="kombu", queue_name_prefix="p" * 72)
    with connected(fake):
        declare_own(app)
        assert "abandoned-queue" not in codes(report(app).findings)


@pytest.mark.parametrize("action", ["sqs:ListQueues", "sns:ListTagsForResource"])
def test_a_read_that_matters_little_is_a_remark_if_it_is_denied(app: Celery, fake: FakeClients, action: str) -> None:
    fake.deny(action)
    found = report(app)
    assert [(finding.code, finding.severity) for finding in found.findings] == [("cannot-check", "info")]


# --- rights


def test_a_role_is_judged_only_if_it_is_asked_about(app: Celery, fake: FakeClients) -> None:
    fake.deny("sqs:ReceiveMessage")
    assert report(app, roles=["producer"]).findings == ()
    [finding] = report(app, roles=["consumer"]).findings
    statement = json.loads(finding.remedy.partition(": ")[2])
    assert statement["Action"] == "sqs:ReceiveMessage"
    assert Aws(fake).arn("email") in statement["Resource"]


def test_what_cannot_be_told_is_said(app: Celery, fake: FakeClients) -> None:
    verdicts = {right.action: right.verdict for right in report(app).rights}
    assert verdicts["sns:Subscribe"] == verdicts["sqs:CreateQueue"] == "unknown"
    assert verdicts["sns:Publish"] == verdicts["sqs:DeleteMessage"] == "not denied"
    assert verdicts["sqs:GetQueueAttributes"] == "allowed"
    fake.simulated = set()
    assert {right.verdict for right in report(app).rights} == {"allowed"}


def test_an_action_that_aws_denied_stays_denied_whatever_a_simulation_says(app: Celery, fake: FakeClients) -> None:
    fake.simulated = set()
    fake.deny("sqs:DeleteMessage")
    assert codes(report(app).findings) == ["right-missing"]


def test_a_right_to_create_is_looked_at_for_what_is_missing_too(fake: FakeClients) -> None:
    app = plain()
    with connected(fake):
        fake.simulated = {"sqs:CreateQueue"}
        assert codes(report(app).findings) == ["queue-missing", "right-missing"]


def test_workers_that_declare_nothing_need_no_right_to(app: Celery, fake: FakeClients) -> None:
    assert {right.role for right in report(app).rights} == {"producer", "consumer", "declarer"}
    with connected(fake):
        assert {right.role for right in report(shop(topology="verify")).rights} == {"producer", "consumer"}


@pytest.mark.parametrize(
    ("caller", "principal"),
    [
        ("arn:aws:iam::111122223333:user/team/ann", "arn:aws:iam::111122223333:user/team/ann"),
        ("arn:aws-cn:sts::111122223333:assumed-role/worker/i-1", "arn:aws-cn:iam::111122223333:role/worker"),
        ("arn:aws:iam::111122223333:root", None),
        ("arn:aws:sts::111122223333:federated-user/ann", None),
        ("", None),
    ],
)
def test_whose_policies_are_simulated(caller: str, principal: str | None) -> None:
    assert _principal(caller) == principal


# --- AWS does not answer


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that nothing listens on: bound, so that no other process takes it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_an_endpoint_that_does_not_answer_is_found(
    app: Celery, fake: FakeClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.fail("check", BrokerUnavailable("no answer"))
    with closed_port() as port:
        endpoints = {"sqs": f"http://127.0.0.1:{port}", "sns": "http://127.0.0.1:1"}
        monkeypatch.setattr(fake, "endpoints", lambda: endpoints)
        [finding] = report(app).findings
    assert (finding.code, finding.where) == ("endpoint-unreachable", f"http://127.0.0.1:{port}")
    assert "Nothing answers" in finding.what


@pytest.mark.parametrize(
    ("url", "step"),
    [
        (f"https://{'x' * 64}.example", "does not resolve"),
        ("http://127.0.0.1:{port}", None),
        ("https://127.0.0.1:{port}", "TLS"),
    ],
)
def test_steps_to_an_endpoint(url: str, step: str | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            with suppress(OSError):
                server.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        found = unreachable_at(url.format(port=server.getsockname()[1]), 5.0)
        if "example" in url:
            socket.create_connection(server.getsockname()).close()
        thread.join(10)
    assert found is None if step is None else step in str(found)


def test_sns_alone_that_cannot_be_reached_is_found(
    app: Celery, fake: FakeClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A VPC with an endpoint for SQS, and none for SNS."""
    fake.fail("get_topic_attributes", BrokerUnavailable("no answer"))
    with closed_port() as port, socket.create_server(("127.0.0.1", 0)) as server:
        endpoints = {"sqs": f"http://127.0.0.1:{server.getsockname()[1]}", "sns": f"http://127.0.0.1:{port}"}
        monkeypatch.setattr(fake, "endpoints", lambda: endpoints)
        [finding] = report(app).findings
    assert (finding.code, finding.where) == ("endpoint-unreachable", endpoints["sns"])


@pytest.fixture
def reachable(fake: FakeClients, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Endpoints that take connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(fake, "endpoints", lambda: {"sqs": url, "sns": url})
        yield


@pytest.mark.usefixtures("reachable")
def test_aws_that_stops_answering_is_an_error(app: Celery, fake: FakeClients) -> None:
    fake.fail("get_topic_attributes", BrokerUnavailable("gone"))
    with pytest.raises(BrokerUnavailable, match="gone"):
        report(app)


# --- the command


def run(app: Celery, *arguments: str) -> Result:
    return CliRunner().invoke(hake, ["check", *arguments], obj=CLIContext(app, no_color=True, workdir=None))


def test_the_command_exits_with_0_where_all_is_well(app: Celery, fake: FakeClients) -> None:
    result = run(app)
    assert result.exit_code == 0, result.output
    assert result.output.endswith("topics, 7 subscriptions: no findings.\n")
    assert "As consumer: not denied: sqs:ReceiveMessage" in result.output


def test_the_command_exits_with_2_for_a_finding_and_tells_what_mends_it(app: Celery, fake: FakeClients) -> None:
    aws = Aws(fake)
    aws.set("email", RawMessageDelivery="false")
    result = run(app)
    assert result.exit_code == 2
    assert "ERROR raw-delivery-off: The subscription of queue 'email'" in result.output
    fix = f"aws sns set-subscription-attributes --subscription-arn {aws.subscription('email').arn}"
    assert f"  fix  {fix}" in result.output
    found = json.loads(run(app, "--json").stdout)
    assert found["clean"] is False
    assert [finding["code"] for finding in found["findings"]] == ["raw-delivery-off"]
    assert set(found["findings"][0]) == {"code", "severity", "what", "where", "why", "remedy"}


def test_suggested_commands_name_the_app_as_the_command_did(
    fake: FakeClients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd shop.py").write_text(
        "from celery import Celery\n"
        f"app = Celery('main_name', broker='hake://localhost:1/ns?region={REGION}', set_as_current=False)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with connected(fake):
        result = CliRunner().invoke(celery, ["-A", "odd shop:app", "hake", "check"])
        named = "main_name" if hasattr(celery_command, "App") else "'odd shop:app'"  # Celery before 5.7 keeps the app
        assert f"  fix  celery -A {named} hake apply\n" in result.output
        app = find_app("odd shop:app")
        assert report(app).findings[0].remedy == "celery -A main_name hake apply"
        assert report(app, app_name="x.y").findings[0].remedy == "celery -A x.y hake apply"


def test_a_remark_does_not_change_the_exit_code(app: Celery, fake: FakeClients) -> None:
    subscribe(Aws(fake), f"arn:aws:sqs:{REGION}:999999999999:audit")
    result = run(app)
    assert result.exit_code == 0
    assert "INFO foreign-subscription" in result.output


@pytest.mark.usefixtures("reachable")
def test_the_command_exits_with_1_if_it_cannot_check(app: Celery, fake: FakeClients) -> None:
    fake.fail("get_topic_attributes", BrokerUnavailable("gone"))
    result = run(app)
    assert result.exit_code == 1
    assert "gone" in result.output


def test_the_command_knows_the_roles() -> None:
    assert set(_ROLES) == set(ROLES)


NONSENSE = [
    "", "x", "7", "[]", "null", '{"Statement": 7}', '{"Statement": [7]}', '{"Statement": [{"Condition": 7}]}',
    '{"Statement": {"Effect": ["Deny"], "Principal": "*", "Action": "*", "Resource": "*"}}',
    '{"deadLetterTargetArn": 7}', '{"deadLetterTargetArn": "arn:aws:sqs:eu-west-1:111122223333:no/name x"}',
    '{"deadLetterTargetArn": "arn:aws:lambda:eu-west-1:111122223333:function"}', '{"maxReceiveCount": {}}',
    '{"redrivePermission": "byQueue", "sourceQueueArns": 7}', '{"redrivePermission": []}', '{"rk": 7}',
    '{"$or": [{"rk": 7}, 8]}', "[" * 5_000, '{"a":' * 5_000, "1" * 300_000, "-1", "1e9", "\x1b[2J",
]  # fmt: skip
DOCUMENTS = [
    ("queue", "Policy"), ("queue", "RedrivePolicy"), ("dead", "RedriveAllowPolicy"), ("queue", "KmsMasterKeyId"),
    ("queue", "MessageRetentionPeriod"), ("queue", "VisibilityTimeout"), ("queue", "DelaySeconds"),
    ("subscription", "FilterPolicy"), ("subscription", "RedrivePolicy"), ("subscription", "FilterPolicyScope"),
    ("subscription", "RawMessageDelivery"), ("topic", "MaximumMessageSize"), ("tag", "hake:b:0123456789abcdef"),
    ("tag", "hake:max-priority"),
]  # fmt: skip


def test_nonsense_in_aws_is_judged_and_never_a_crash(app: Celery, fake: FakeClients) -> None:
    """Each document gets each text once, all of them at the same time."""
    aws = Aws(fake)
    places = {
        "queue": aws.attributes("email"), "dead": aws.attributes("email-dead"),
        "subscription": aws.subscription("email").attributes,
        "topic": fake.topics.topic(aws.topic("orders")).attributes, "tag": fake.queues.queue("ns__email").tags,
    }  # fmt: skip
    for start in range(len(NONSENSE)):
        for number, (where, name) in enumerate(DOCUMENTS, start):
            places[where][name] = NONSENSE[number % len(NONSENSE)]
        found = report(app, roles=["producer"])
        assert check_sheet(found)
        assert json.dumps(found.as_dict())


def test_hostile_texts_in_aws_stay_on_their_line(app: Celery, fake: FakeClients) -> None:
    aws = Aws(fake)
    aws.policy("email", aws.allow("email"), {**DENY, "Sid": "x\n\x1b[2JERROR", "Resource": "*"})
    aws.subscription("stock").attributes["FilterPolicy"] = json.dumps({"rk": ["$(reboot)'; reboot"]})
    result = run(app)
    assert "\x1b" not in result.output
    assert [line for line in result.output.splitlines() if line.startswith("[2J")] == []


if __name__ == "__main__":
    for each in FAULTS:
        aws, its_app = FakeClients(), shop()
        with connected(aws):
            declare_own(its_app)
            each.plant(Aws(aws))
            for line in report(its_app).findings:
                print(f"{each.code:26}{each.case:24}{line.severity:8} {line.what}")
