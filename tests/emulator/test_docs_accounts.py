"""What docs/iam.md says of two accounts: its policies and options, where policies are enforced."""

import json
from typing import Any
from uuid import uuid4

import boto3
import pytest
from kombu import Connection, Exchange, Queue
from support.emulators import Emulator
from support.pages import DOCS, blocks

from kombu_hake.exceptions import AccessDenied, HakeError

PAGE = DOCS / "iam.md"
OTHER = "210987654321"
ORDERS = Exchange("orders", type="topic")
EMAIL = Queue("email", ORDERS, routing_key="order.#")

pytestmark = pytest.mark.ministack


class Two:
    """The owner's account, and the other one, in one namespace of the emulator."""

    def __init__(self, aws: Emulator) -> None:
        self.namespace = f"x{uuid4().hex[:8]}"
        self.aws = aws
        self.account = aws.client("sts").get_caller_identity()["Account"]

    def here(self, text: str) -> str:
        """A text of the page, as it is with this owner, region and namespace."""
        for old, new in (("123456789012", self.account), ("eu-west-1", "us-east-1"), ("live__", f"{self.namespace}__")):
            text = text.replace(old, new)
        return text.replace("https://sqs.us-east-1.amazonaws.com", self.aws.endpoint_url)

    def policy(self, name: str) -> str:
        [block] = [block for block in blocks(PAGE, "json") if block.mark == f"policy: {name}"]
        return self.here(block.code)

    def options(self, name: str) -> dict[str, Any]:
        [block] = [block for block in blocks(PAGE, "python") if block.mark == f"options: {name}"]
        space: dict[str, Any] = {}
        exec(self.here(block.code), space)
        return dict(space["app"].conf.broker_transport_options)

    def owner(self) -> Connection:
        return Connection(self.aws.url(self.namespace, wait_time_seconds=1))

    def other(self, **options: Any) -> Connection:
        """The emulator takes an access key of twelve digits for the root of that account."""
        url = f"hake://{OTHER}:test@127.0.0.1:{self.aws.port}/{self.namespace}?region=us-east-1&wait_time_seconds=1"
        return Connection(url, transport_options=options)


@pytest.fixture
def two(ministack: Emulator) -> Two:
    return Two(ministack)


def test_a_group_in_another_account_gets_what_it_is_bound_to(two: Two) -> None:
    sns = two.aws.client("sns")
    topic = sns.create_topic(Name=f"{two.namespace}__orders")["TopicArn"]
    with two.other(**two.options("subscriber")) as other, pytest.raises(AccessDenied, match="sns:Subscribe"):
        EMAIL(other.default_channel).declare()
    sns.set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=two.policy("topic"))
    with two.other(**two.options("subscriber")) as other, two.owner() as owner:
        group = EMAIL(other.default_channel)
        group.declare()
        owner.Producer().publish("owner's", exchange="orders", routing_key="order.placed")
        owner.Producer().publish("not bound to", exchange="orders", routing_key="refund")
        other.Producer().publish("other's", exchange="orders", routing_key="order.paid")
        received = [group.get(), group.get()]
        assert sorted(message.payload for message in received) == ["other's", "owner's"]
        for message in received:
            message.ack()
        assert group.get() is None


def test_workers_of_another_account_take_from_the_owners_queue(two: Two) -> None:
    with two.owner() as owner:
        queue = EMAIL(owner.default_channel)
        queue.declare()
        url = owner.default_channel.connection.client.transport.topology.queues.url("email")
        sqs = two.aws.client("sqs")
        known = json.loads(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])["Attributes"]["Policy"])
        known["Statement"] += json.loads(two.policy("queue"))["Statement"]
        options = two.options("worker")
        owner.Producer().publish("work", exchange="orders", routing_key="order.placed")
        with two.other(**options) as other, pytest.raises(HakeError):
            Queue("email")(other.default_channel).get()
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(known)})
        with two.other(**options) as other:
            theirs = Queue("email")(other.default_channel)
            message = theirs.get()
            assert message.payload == "work"
            message.requeue()
            again = theirs.get()
            again.ack()
            other.Producer().publish("retry", routing_key="email")
        message = queue.get()
        assert message.payload == "retry"
        message.ack()


def test_the_emulator_tells_the_accounts_apart(two: Two) -> None:
    other = boto3.client(
        "sts", endpoint_url=two.aws.endpoint_url, region_name="us-east-1", aws_access_key_id=OTHER,
        aws_secret_access_key="test",
    )  # fmt: skip
    assert other.get_caller_identity()["Account"] == OTHER != two.account
