"""Messages of others: kombu's own sqs:// transport both ways, and bodies that no kombu ever made."""

import base64
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Message, Producer, Queue
from support.emulators import HOST, Emulator

S3_EVENT = json.dumps(
    {"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": {"object": {"key": "a b.csv"}}}]}
)
#: What it is, body as sent, content type, payload as handed over.
BODIES: dict[str, tuple[str, str, Any]] = {
    "S3 event": (S3_EVENT, "application/json", json.loads(S3_EVENT)),
    "JSON object": ('{"order": 7, "body": "mine"}', "application/json", {"order": 7, "body": "mine"}),
    "JSON list": ("[1, 2]", "application/json", [1, 2]),
    "JSON string": ('"text"', "application/json", "text"),
    "JSON null": ("null", "application/json", None),
    "text": ("hello, wörld", "text/plain", "hello, wörld"),
    "text that is nearly base64": ("deadbeef", "text/plain", "deadbeef"),
    "broken JSON": ('{"order": ', "text/plain", '{"order": '),
    "XML": ("<order id='7'/>", "text/plain", "<order id='7'/>"),
    "JSON with strange properties": (
        '{"properties": [], "body": 1}', "application/json", {"properties": [], "body": 1},
    ),
    "deep JSON": ("[" * 60_000 + "]" * 60_000, "text/plain", "[" * 60_000 + "]" * 60_000),
}  # fmt: skip


@pytest.fixture
def connection(aws: Emulator) -> Iterator[Connection]:
    with Connection(aws.url(wait_time_seconds=1)) as connection:
        yield connection


@pytest.fixture
def inbox(connection: Connection, aws: Emulator) -> str:
    """The URL of the queue ``inbox``, bound to the exchange ``orders``."""
    Queue("inbox", Exchange("orders", "fanout"))(connection.default_channel).declare()
    return str(aws.client("sqs").get_queue_url(QueueName=f"{aws.namespace}__inbox")["QueueUrl"])


def receive(connection: Connection, count: int = 1, queue: str = "inbox") -> list[Message]:
    found: list[Message] = []
    with Consumer(connection.channel(), [Queue(queue)], on_message=found.append, auto_declare=False):
        while len(found) < count:
            connection.drain_events(timeout=20)
        for message in found:
            message.ack()
    return found


class TestBodiesOfOthers:
    @pytest.mark.parametrize("what", BODIES)
    def test_reaches_a_plain_consumer_as_its_text(
        self, aws: Emulator, connection: Connection, inbox: str, what: str
    ) -> None:
        body, content_type, payload = BODIES[what]
        aws.client("sqs").send_message(QueueUrl=inbox, MessageBody=body)
        (message,) = receive(connection)
        assert (message.content_type, message.content_encoding) == (content_type, "utf-8")
        assert message.payload == payload
        assert message.headers == {}
        info = message.delivery_info
        assert (info["exchange"], info["routing_key"]) == ("", "inbox")
        assert message.properties["message_id"]

    def test_sns_notification_is_handed_over_as_its_text(
        self, aws: Emulator, connection: Connection, inbox: str
    ) -> None:
        """From a subscription without raw delivery that somebody else made."""
        notification = notification_of("plain text")
        aws.client("sqs").send_message(QueueUrl=inbox, MessageBody=notification)
        (message,) = receive(connection)
        assert message.content_type == "application/json"
        assert message.payload["Message"] == "plain text"

    def test_kombu_message_inside_an_sns_notification_is_unwrapped(
        self, aws: Emulator, connection: Connection, inbox: str
    ) -> None:
        sqs = aws.client("sqs")
        Producer(connection).publish({"order": 7}, exchange="orders", headers={"h": 1})
        raw = sqs.receive_message(QueueUrl=inbox, WaitTimeSeconds=2)["Messages"][0]
        sqs.delete_message(QueueUrl=inbox, ReceiptHandle=raw["ReceiptHandle"])
        sqs.send_message(QueueUrl=inbox, MessageBody=notification_of(raw["Body"]))
        (message,) = receive(connection)
        assert message.payload == {"order": 7}
        assert message.headers["h"] == 1

    def test_topic_that_is_published_to_by_others(self, aws: Emulator, connection: Connection, inbox: str) -> None:
        """By ``aws sns publish``: no envelope, no attribute."""
        sns = aws.client("sns")
        topics = [topic["TopicArn"] for page in sns.get_paginator("list_topics").paginate() for topic in page["Topics"]]
        (topic,) = [arn for arn in topics if arn.endswith(f":{aws.namespace}__orders")]
        sns.publish(TopicArn=topic, Message="by hand")
        (message,) = receive(connection)
        assert message.payload == "by hand"

    def test_does_not_hold_up_what_comes_after(
        self, aws: Emulator, connection: Connection, inbox: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        sqs = aws.client("sqs")
        with caplog.at_level(logging.ERROR):
            for body, _, _ in BODIES.values():
                sqs.send_message(QueueUrl=inbox, MessageBody=body)
            Producer(connection).publish("ours", exchange="orders")
            found = receive(connection, len(BODIES) + 1)
        assert "ours" in [message.payload for message in found]
        assert caplog.records == []

    def test_message_attributes_of_others_do_no_harm(self, aws: Emulator, connection: Connection, inbox: str) -> None:
        attributes = {f"a{i}": {"DataType": "String", "StringValue": "x"} for i in range(9)}
        attributes["binary"] = {"DataType": "Binary", "BinaryValue": b"\xff"}  # type: ignore[dict-item]
        aws.client("sqs").send_message(QueueUrl=inbox, MessageBody="text", MessageAttributes=attributes)
        (message,) = receive(connection)
        assert message.payload == "text"


@pytest.mark.parametrize("exchange", ["", "orders"])
def test_attributes_of_a_message_are_seen_by_others_and_by_its_consumer(
    aws: Emulator, connection: Connection, inbox: str, exchange: str
) -> None:
    given = {"team": "shop", "weight": {"DataType": "Number", "StringValue": "12"}}
    expected = {**given, "team": {"DataType": "String", "StringValue": "shop"}}
    if not exchange:  # moto answers 500 where a raw delivery has one
        given["data"] = expected["data"] = {"DataType": "Binary", "BinaryValue": b"\x00\xff"}
    Producer(connection).publish("x", exchange=exchange, routing_key="inbox", message_attributes=given)
    answer = aws.client("sqs").receive_message(
        QueueUrl=inbox, MessageAttributeNames=["All"], VisibilityTimeout=0, WaitTimeSeconds=5
    )
    assert answer["Messages"][0]["MessageAttributes"].items() >= expected.items()
    (message,) = receive(connection)
    assert message.properties["message_attributes"] == expected


def notification_of(message: str) -> str:
    return json.dumps(
        {
            "Type": "Notification",
            "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
            "TopicArn": "arn:aws:sns:us-east-1:123456789012:orders",
            "Message": message,
            "Timestamp": "2026-01-02T00:54:06.655Z",
            "SignatureVersion": "1",
            "Signature": "x",
            "SigningCertURL": "https://sns.us-east-1.amazonaws.com/x.pem",
            "UnsubscribeURL": "https://sns.us-east-1.amazonaws.com/?Action=Unsubscribe",
        }
    )


# --- kombu's own transport ---------------------------------------------------------------------------------------

PAYLOADS: tuple[object, ...] = ({"a": [1, "ü", None]}, "text", [], 7)


@pytest.fixture(params=[True, False], ids=["base64", "plain"])
def kombu_sqs(request: pytest.FixtureRequest, moto: Emulator) -> Iterator[Connection]:
    """kombu's sqs:// transport on the same emulator, as it writes by default and without base64."""
    options = {
        "region": moto.region,
        "is_secure": False,
        "wait_time_seconds": 1,
        "sqs_base64_encoding": request.param,
        "predefined_queues": {},
    }
    connection = Connection(f"sqs://{moto.key}:{moto.secret}@{HOST}:{moto.port}//", transport_options=options)
    yield connection
    connection.release()


@pytest.fixture
def hake(moto: Emulator) -> Iterator[Connection]:
    with Connection(moto.url(namespace="", name_style="kombu", wait_time_seconds=1)) as connection:
        yield connection


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A queue name with a dot, which both transports must map alike."""
    return f"old.orders_{base64.b32encode(request.node.name.encode()).decode().rstrip('=').lower()[-40:]}"


class TestKombuSqsTransport:
    def test_its_messages_are_understood(self, kombu_sqs: Connection, hake: Connection, name: str) -> None:
        with kombu_sqs.SimpleQueue(name) as theirs:
            for payload in PAYLOADS:
                theirs.put(payload, headers={"h": "ü"})
        with hake.SimpleQueue(name) as ours:
            messages = [ours.get(timeout=20) for _ in PAYLOADS]
            for message in messages:
                message.ack()
        assert sorted((message.payload for message in messages), key=repr) == sorted(PAYLOADS, key=repr)
        assert {message.headers["h"] for message in messages} == {"ü"}
        assert {message.delivery_info["routing_key"] for message in messages} == {name}

    def test_ours_are_understood_by_it(self, kombu_sqs: Connection, hake: Connection, name: str) -> None:
        with hake.SimpleQueue(name) as ours:
            for payload in PAYLOADS:
                ours.put(payload, headers={"h": "ü"})
        with kombu_sqs.SimpleQueue(name) as theirs:
            messages = [theirs.get(timeout=20) for _ in PAYLOADS]
            for message in messages:
                message.ack()
        assert sorted((message.payload for message in messages), key=repr) == sorted(PAYLOADS, key=repr)
        assert {message.headers["h"] for message in messages} == {"ü"}

    def test_bytes_survive_both_ways(self, kombu_sqs: Connection, hake: Connection, name: str) -> None:
        body = bytes(range(256))
        how = {"content_type": "application/data", "content_encoding": "binary"}
        for sender, receiver in ((kombu_sqs, hake), (hake, kombu_sqs)):
            with sender.SimpleQueue(name) as queue:
                queue.put(body, **how)
            with receiver.SimpleQueue(name) as queue:
                message = queue.get(timeout=20)
                assert message.payload == body
                message.ack()

    def test_what_it_rejected_comes_to_us(self, kombu_sqs: Connection, hake: Connection, name: str) -> None:
        with kombu_sqs.SimpleQueue(name) as theirs:
            theirs.put("again")
            theirs.get(timeout=20).requeue()
        with hake.SimpleQueue(name) as ours:
            message = ours.get(timeout=20)
            assert message.payload == "again"
            message.ack()

    def test_both_find_the_same_queue(self, kombu_sqs: Connection, hake: Connection, moto: Emulator, name: str) -> None:
        with kombu_sqs.SimpleQueue(name), hake.SimpleQueue(name) as ours:
            ours.put(1)
            assert ours.qsize() == 1
        urls = moto.client("sqs").list_queues(QueueNamePrefix=name.replace(".", "-"))["QueueUrls"]
        assert len(urls) == 1
