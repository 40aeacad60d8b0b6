"""The policies in docs/iam.md let each role do its work, and nothing else. ministack enforces them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection, Exchange, Producer, Queue
from support.emulators import Emulator

import kombu_hake
from kombu_hake.amqp.naming import IF_MADE
from kombu_hake.exceptions import AccessDenied

PAGE = Path(__file__).parents[2] / "docs" / "iam.md"
POLICIES = dict(re.findall(r"<!-- role: ([\w-]+) -->\n```json\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))
#: ministack wants the batch forms allowed by name; on AWS the single ones cover them.
BATCHED = {"sns:Publish", "sqs:SendMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"}

ORDERS = Exchange("orders", type="topic")
EMAIL = Queue("email", ORDERS, routing_key="order.*")
PLAIN = Queue("plain", Exchange("plain"), routing_key="plain")
CONNECTION_OPTIONS = "region=us-east-1&wait_time_seconds=1"

AsRole = Callable[..., Connection]


def policy(role: str, account: str) -> dict[str, Any]:
    text = POLICIES[role].replace("123456789012", account).replace("eu-west-1", "us-east-1")
    document: dict[str, Any] = json.loads(text)
    for statement in document["Statement"]:
        actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        statement["Action"] = [*actions, *(f"{action}Batch" for action in actions if action in BATCHED)]
    return document


@pytest.fixture
def as_role(ministack: Emulator, request: pytest.FixtureRequest) -> AsRole:
    """A connection with the rights of some roles and no others, in the namespace that the policies name."""
    iam, account = ministack.client("iam"), ministack.client("sts").get_caller_identity()["Account"]

    def connect(*roles: str, **options: str) -> Connection:
        user = f"docs-{uuid4().hex[:8]}"
        iam.create_user(UserName=user)
        for role in roles:
            iam.put_user_policy(UserName=user, PolicyName=role, PolicyDocument=json.dumps(policy(role, account)))
        key = iam.create_access_key(UserName=user)["AccessKey"]
        credentials = f"{key['AccessKeyId']}:{key['SecretAccessKey']}"
        url = f"hake://{credentials}@127.0.0.1:{ministack.port}/shop?{CONNECTION_OPTIONS}"
        connection = Connection(url, transport_options=options)
        request.addfinalizer(connection.release)
        return connection

    return connect


@pytest.fixture
def declared(as_role: AsRole) -> None:
    channel = as_role("declarer").default_channel
    for queue in (EMAIL, PLAIN):
        queue(channel).declare()


@pytest.mark.usefixtures("declared")
def test_each_role_does_its_work(as_role: AsRole) -> None:
    producer = Producer(as_role("producer"))
    producer.publish("to all", exchange="orders", routing_key="order.placed")
    producer.publish("to one", routing_key="plain")
    with kombu_hake.batch():
        producer.publish("in a batch", exchange="orders", routing_key="order.placed")

    channel = as_role("consumer").default_channel
    EMAIL(channel).declare()
    PLAIN(channel).declare()
    received = [EMAIL(channel).get(), EMAIL(channel).get(), PLAIN(channel).get()]
    assert sorted(message.payload for message in received) == ["in a batch", "to all", "to one"]
    received[0].requeue()
    received[1].reject()
    received[2].ack()

    operator = as_role("declarer", "operator").default_channel
    PLAIN(operator).purge()
    EMAIL(operator).declare()
    EMAIL(operator).unbind_from(ORDERS, routing_key="order.*")
    for queue in (EMAIL, PLAIN):
        queue(operator).delete()
    ORDERS(operator).delete()


@pytest.mark.usefixtures("declared")
def test_what_a_role_lacks_is_named(as_role: AsRole) -> None:
    with pytest.raises(AccessDenied) as denied:
        EMAIL(as_role("producer").default_channel).get()
    assert denied.value.action == "sqs:ReceiveMessage"
    with pytest.raises(AccessDenied) as denied:
        Producer(as_role("consumer")).publish("x", exchange="orders", routing_key="order.placed")
    assert denied.value.action == "sns:Publish"
    with pytest.raises(AccessDenied) as denied:
        Queue("new")(as_role("consumer").default_channel).declare()
    assert denied.value.action == "sqs:CreateQueue"


@pytest.mark.usefixtures("declared")
def test_large_messages_need_their_role(as_role: AsRole, ministack: Emulator) -> None:
    ministack.client("s3").create_bucket(Bucket="shop-payloads")
    large = {"data": "x" * 1_500_000}
    store = {"large_messages": "s3://shop-payloads/prod"}
    with pytest.raises(AccessDenied) as denied:
        Producer(as_role("producer", **store)).publish(large, routing_key="plain")
    assert denied.value.action == "s3:PutObject"
    other = {"large_messages": "s3://shop-payloads/other"}
    with pytest.raises(AccessDenied):
        Producer(as_role("producer", "large-messages", **other)).publish(large, routing_key="plain")
    Producer(as_role("producer", "large-messages", **store)).publish(large, routing_key="plain")
    consumer = as_role("consumer", "large-messages", **store)
    channel = consumer.default_channel
    PLAIN(channel).declare()
    message = PLAIN(channel).get()
    assert message.payload == large
    message.ack()
    consumer.transport.leases.flush(10.0)
    assert not consumer.transport.payloads._deletes.wait(10.0)
    assert ministack.client("s3").list_objects_v2(Bucket="shop-payloads")["KeyCount"] == 0


def make_dead_queue(connection: Connection) -> str | None:
    """What a worker of the group ``email`` does at its start; the redrive policy that its queue has then."""
    transport = connection.default_channel.connection.client.transport
    queue = Queue("email", ORDERS, routing_key="order.*", queue_arguments={"x-dead-letter-queue": IF_MADE})
    queue(connection.default_channel).declare()
    url = transport.topology.queues.url("email")
    answer = transport.clients.sqs("get_queue_attributes", QueueUrl=url, AttributeNames=["RedrivePolicy"])
    policy: str | None = answer.get("Attributes", {}).get("RedrivePolicy")
    return policy


@pytest.mark.usefixtures("declared")
def test_a_worker_of_a_group_may_make_its_dead_letter_queue_as_a_declarer(
    as_role: AsRole, caplog: pytest.LogCaptureFixture
) -> None:
    assert make_dead_queue(as_role("consumer")) is None
    assert "gets no dead-letter queue" in caplog.text
    policy = make_dead_queue(as_role("consumer", "declarer"))
    assert policy is not None
    assert json.loads(policy)["deadLetterTargetArn"].endswith("shop__email-dead")
    as_role("consumer").Producer().publish("dead", routing_key="email-dead")
