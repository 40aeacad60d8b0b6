"""Least rights: each role does its job with no right too many, and what is denied is named in one clear error."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from uuid import uuid4

import pytest
from kombu import Connection, Consumer, Exchange, Message, Producer, Queue
from support.emulators import Emulator
from support.rights import CONSUMER, DECLARER, PRODUCER, as_user

import kombu_hake
from kombu_hake.exceptions import AccessDenied, PublishFailed

ORDERS = Exchange("orders", "fanout")
EMAIL = Queue("email", ORDERS)
SQS_ONLY = ("sqs:*",)
#: How long a control call is tried again where AWS throttles; see kombu_hake/aws/clients.py.
CONTROL_PATIENCE_S = 90.0

pytestmark = pytest.mark.ministack
Connect = Callable[..., Connection]


@pytest.fixture
def root(ministack: Emulator) -> Emulator:
    return ministack.in_namespace(f"r{uuid4().hex[:8]}")


@pytest.fixture
def connect(root: Emulator) -> Iterator[Connect]:
    """Opens connections with the rights to some actions; with all rights when none is named."""
    opened: list[Connection] = []

    def connect(*allow: str, deny: dict[str, list[str]] | None = None, **options: object) -> Connection:
        user = as_user(root, allow, deny=deny) if allow else root
        opened.append(Connection(user.url(wait_time_seconds=1, **options)))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.release()


@pytest.fixture
def declared(connect: Connect) -> Connection:
    """With all rights, and ``email`` bound to ``orders``."""
    connection = connect()
    EMAIL(connection.default_channel).declare()
    return connection


def consume(connection: Connection, queue: Queue = EMAIL, count: int = 1, *, declare: bool = True) -> list[object]:
    found: list[Message] = []
    with Consumer(connection.channel(), [queue], on_message=found.append, auto_declare=declare):
        deadline = time.monotonic() + 20
        while len(found) < count and time.monotonic() < deadline:
            connection.drain_events(timeout=20)
        for message in found:
            message.ack()
    return sorted(message.payload for message in found)


class TestProducer:
    def test_publishes_and_nothing_else_is_asked_for(
        self, declared: Connection, connect: Connect, caplog: pytest.LogCaptureFixture
    ) -> None:
        producer = Producer(connect(*PRODUCER))
        with caplog.at_level(logging.WARNING):
            producer.publish("order", exchange="orders", routing_key="any")
            producer.publish("straight", routing_key="email")
        assert caplog.records == []
        assert consume(declared, count=2) == ["order", "straight"]

    def test_declares_what_exists(self, declared: Connection, connect: Connect) -> None:
        """As Celery producers do with each queue they send to."""
        producer = Producer(connect(*PRODUCER))
        producer.publish("order", exchange="orders", declare=[EMAIL])
        producer.publish("straight", routing_key="email", declare=[Queue("email", Exchange("email"), "email")])
        assert consume(declared, count=2) == ["order", "straight"]

    def test_publish_alone_is_enough_for_exchanges(self, declared: Connection, connect: Connect) -> None:
        Producer(connect("sns:Publish")).publish("order", exchange="orders")
        assert consume(declared) == ["order"]

    def test_batch(self, declared: Connection, connect: Connect) -> None:
        producer = Producer(connect(*PRODUCER))
        with kombu_hake.batch():
            for i in range(12):
                producer.publish(i, exchange="orders")
        assert consume(declared, count=12) == list(range(12))

    def test_batch_names_each_message_that_is_denied(self, declared: Connection, connect: Connect) -> None:
        Queue("closed")(declared.default_channel).declare()
        producer = Producer(connect(*PRODUCER, deny={"sqs:SendMessage": ["arn:aws:sqs:*:*__closed"]}))

        def publish() -> None:
            with kombu_hake.batch():
                for i in range(3):
                    producer.publish(i, exchange="orders")
                    producer.publish(10 + i, routing_key="closed")

        with pytest.raises(PublishFailed) as caught:
            publish()
        assert sorted(json.loads(published.message["body"]) for published, _ in caught.value.failed) == [10, 11, 12]
        assert {type(error) for _, error in caught.value.failed} == {AccessDenied}
        assert str(caught.value).count("sqs:SendMessage") >= 3
        assert consume(declared, count=3) == [0, 1, 2]

    def test_is_denied_what_consumers_do(self, declared: Connection, connect: Connect) -> None:
        connection = connect(*PRODUCER)
        error = denied(lambda: consume(connection, declare=False))
        assert (error.action, "email" in error.resource) == ("sqs:ReceiveMessage", True)

    def test_is_denied_a_new_queue(self, connect: Connect) -> None:
        connection = connect(*PRODUCER)
        error = denied(lambda: EMAIL(connection.default_channel).declare())
        assert (error.action, "email" in error.resource) == ("sqs:CreateQueue", True)


class TestConsumer:
    def test_consumes_what_others_declared(self, declared: Connection, connect: Connect) -> None:
        for i in range(3):
            Producer(declared).publish(i, exchange="orders")
        assert consume(connect(*CONSUMER), count=3) == [0, 1, 2]

    def test_requeues_and_rejects(self, declared: Connection, connect: Connect) -> None:
        Producer(declared).publish("again", exchange="orders")
        connection = connect(*CONSUMER)
        with closing(connection.SimpleQueue(EMAIL)) as queue:
            queue.get(timeout=20).requeue()
            again = queue.get(timeout=20)
            assert again.payload == "again"
            again.reject()
        connection.release()
        assert declared.default_channel.queue_declare("email", passive=True).message_count == 0

    @pytest.mark.parametrize(
        ("action", "resource", "what"),
        [
            ("sns:Publish", "orders", lambda channel: Producer(channel).publish(1, exchange="orders")),
            ("sqs:PurgeQueue", "email", lambda channel: channel.queue_purge("email")),
            ("sqs:CreateQueue", "new", lambda channel: Queue("new")(channel).declare()),
        ],
        ids=["publish", "purge", "create"],
    )  # fmt: skip
    def test_is_denied_the_rest(
        self, declared: Connection, connect: Connect, action: str, resource: str, what: Callable[..., object]
    ) -> None:
        connection = connect(*CONSUMER)
        error = denied(lambda: what(connection.default_channel))
        assert (error.action, resource in error.resource) == (action, True)

    def test_is_denied_a_binding_that_is_not_there(self, declared: Connection, connect: Connect) -> None:
        connection = connect(*CONSUMER)
        denied(lambda: Queue("email", Exchange("logins", "fanout"))(connection.default_channel).declare())

    def test_is_denied_to_delete_and_leaves_everything_as_it_was(self, declared: Connection, connect: Connect) -> None:
        connection = connect(*CONSUMER)
        denied(lambda: connection.default_channel.queue_delete("email"))
        Producer(declared).publish("still", exchange="orders")
        assert consume(declared) == ["still"]


class TestDeclarer:
    def test_declares_every_type(self, declared: Connection, connect: Connect) -> None:
        channel = connect(*DECLARER).default_channel
        Queue("eu", Exchange("sales", "direct"), "eu")(channel).declare()
        Queue("created", Exchange("events", "topic"), "*.created")(channel).declare()
        Queue("bills", Exchange("papers", "headers"), binding_arguments={"kind": "bill"})(channel).declare()
        EMAIL(channel).declare()
        producer = Producer(declared)
        for key in ("eu", "us"):
            producer.publish(key, exchange="sales", routing_key=key)
        for key in ("order.created", "order.gone"):
            producer.publish(key, exchange="events", routing_key=key)
        producer.publish("bill", exchange="papers", headers={"kind": "bill"})
        producer.publish("order", exchange="orders")
        assert consume(declared, Queue("eu")) == ["eu"]
        assert consume(declared, Queue("created")) == ["order.created"]
        assert consume(declared, Queue("bills")) == ["bill"]
        assert consume(declared) == ["order"]

    def test_without_the_right_to_tag_topics(self, declared: Connection, connect: Connect) -> None:
        EMAIL(connect(*(set(DECLARER) - {"sns:TagResource"})).default_channel).declare()
        Producer(declared).publish("order", exchange="orders")
        assert consume(declared) == ["order"]

    @pytest.mark.parametrize(
        "action", ["sqs:CreateQueue", "sqs:TagQueue", "sqs:SetQueueAttributes", "sns:Subscribe", "sns:CreateTopic"]
    )
    def test_each_missing_right_is_named(self, connect: Connect, action: str) -> None:
        connection = connect(*(set(DECLARER) - {action}))
        error = denied(lambda: EMAIL(connection.default_channel).declare())
        assert error.action == action

    @pytest.mark.parametrize(
        ("action", "exchange", "key"), [("sqs:SendMessage", "", "email"), ("sns:Publish", "orders", "")]
    )
    def test_is_denied_to_publish(
        self, declared: Connection, connect: Connect, action: str, exchange: str, key: str
    ) -> None:
        connection = connect(*DECLARER)
        error = denied(lambda: Producer(connection).publish(1, exchange=exchange, routing_key=key))
        assert error.action == action


class TestWithoutSns:
    def test_plain_queue_works_in_silence(self, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
        connection = connect(*SQS_ONLY)
        celery = Queue("celery", Exchange("celery", "direct"), "celery")
        with caplog.at_level(logging.WARNING):
            celery(connection.default_channel).declare()
            producer = Producer(connection)
            producer.publish(1, exchange="celery", routing_key="celery")
            producer.publish(2, exchange="", routing_key="celery")
            assert consume(connection, celery, 2) == [1, 2]
        assert caplog.records == []

    def test_producer_that_declared_nothing_reaches_a_plain_queue(self, connect: Connect) -> None:
        celery = Queue("celery", Exchange("celery", "direct"), "celery")
        celery(connect(*SQS_ONLY).default_channel).declare()
        connection = connect(*SQS_ONLY)
        Producer(connection).publish(1, exchange="celery", routing_key="celery")
        assert consume(connection, celery) == [1]

    def test_direct_exchange_is_given_up_with_one_warning(
        self, connect: Connect, caplog: pytest.LogCaptureFixture
    ) -> None:
        connection = connect(*SQS_ONLY)
        jobs = Queue("work", Exchange("jobs", "direct"), "key")
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                jobs(connection.channel()).declare()
            Producer(connection).publish(1, routing_key="work")
            assert consume(connection, jobs) == [1]
        (record,) = caplog.records
        assert "jobs" in record.getMessage()
        assert "sns:" in record.getMessage()
        error = denied(lambda: Producer(connection).publish(1, exchange="jobs", routing_key="key"))
        assert error.action.startswith("sns:")

    def test_fanout_of_the_user_raises(self, connect: Connect) -> None:
        connection = connect(*SQS_ONLY)
        error = denied(lambda: EMAIL(connection.default_channel).declare())
        assert error.action.startswith("sns:")

    def test_exchange_of_events_is_done_without(self, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
        connection = connect(*SQS_ONLY)
        events = Exchange("celeryev", "topic")
        with caplog.at_level(logging.WARNING):
            Queue("watcher", events, "#", auto_delete=True)(connection.default_channel).declare()
            for _ in range(5):
                Producer(connection).publish({"type": "x"}, exchange="celeryev", routing_key="worker.heartbeat")
        (record,) = caplog.records
        assert "celeryev" in record.getMessage()


def denied(action: Callable[[], object]) -> AccessDenied:
    """The error that an action raises: without waiting for better times, and saying what to do."""
    started = time.monotonic()
    with pytest.raises(AccessDenied) as caught:
        action()
    assert time.monotonic() - started < CONTROL_PATIENCE_S / 2, "what is denied is not to be tried again"
    error = caught.value
    assert error.action in str(error)
    assert error.resource in str(error)
    assert "Allow it in the IAM policy" in str(error)
    return error
