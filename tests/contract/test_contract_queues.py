"""Queues and exchanges as things: declare, count, purge, delete, names, owners. And remote control on top of them."""

import json
import threading
from contextlib import suppress
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from contract.broker import Broker, consuming, declare, get, publish, wait_until
from contract.features import Can, needs
from kombu import Connection, Consumer, Exchange, Message, Producer, Queue, binding
from kombu.exceptions import ChannelError, InconsistencyError
from kombu.pidbox import Mailbox

ODD_NAMES = (
    "a.b", "a-b", "a_b", "A.B", "a b", "a/b", "a:b", "celery@host.celery.pidbox", "celery@host-celery-pidbox",
    "été", "ete", "n" * 300, "n" * 301, "n" * 80, "日本語", "queue.fifo.not", "#", "*",
)  # fmt: skip


@pytest.fixture
def connection(broker: Broker) -> Connection:
    return broker.connect()


def size(connection: Connection, queue: str) -> int:
    return int(connection.default_channel.queue_declare(queue, passive=True).message_count)


def exists(connection: Connection, queue: str) -> bool:
    with connection.channel() as channel:
        try:
            channel.queue_declare(queue, passive=True)
        except ChannelError:
            return False
        return True


class TestDeclare:
    def test_repeating_keeps_the_messages(self, broker: Broker, connection: Connection) -> None:
        for i in range(3):
            declare(connection, Queue("work"))
            publish(connection, i, routing_key="work")
        assert broker.bodies("work") == {"work": [0, 1, 2]}

    @needs(Can.EXACT_COUNTS)
    def test_passive_counts_ready_messages(self, connection: Connection) -> None:
        declare(connection, Queue("work"))
        assert size(connection, "work") == 0
        for i in range(3):
            publish(connection, i, routing_key="work")
        assert size(connection, "work") == 3

    def test_passive_on_a_missing_queue_is_404(self, connection: Connection) -> None:
        with pytest.raises(ChannelError) as caught:
            Queue("missing", channel=connection.default_channel).queue_declare(passive=True)
        assert int(caught.value.reply_code) == 404
        assert "missing" in str(caught.value)

    def test_passive_on_a_missing_exchange_is_404(self, connection: Connection) -> None:
        with pytest.raises(ChannelError, match="missing") as caught:
            Exchange("missing", "fanout", channel=connection.default_channel).declare(passive=True)
        assert int(caught.value.reply_code) == 404

    def test_passive_on_a_declared_exchange_is_fine(self, connection: Connection) -> None:
        exchange = Exchange("orders", "fanout", channel=connection.default_channel)
        exchange.declare()
        exchange.declare(passive=True)

    def test_exchange_does_not_change_its_type(self, connection: Connection) -> None:
        Exchange("orders", "fanout", channel=connection.default_channel).declare()
        with pytest.raises((ChannelError, ValueError, Exception), match="orders"):  # kombu's own is a bare Exception
            Exchange("orders", "direct", channel=connection.default_channel).declare()

    @needs(Can.KNOWS_MISSING)
    def test_consuming_from_a_missing_queue_is_404(self, connection: Connection) -> None:
        with pytest.raises(ChannelError, match="missing"):
            Consumer(connection, [Queue("missing")], auto_declare=False).consume()

    def test_server_names_a_queue_that_has_no_name(self, broker: Broker, connection: Connection) -> None:
        exchange = Exchange("orders", "fanout")
        queues = [Queue("", exchange, exclusive=True)(connection.default_channel) for _ in range(2)]
        for queue in queues:
            queue.declare()
        names = [queue.name for queue in queues]
        assert all(names)
        assert len(set(names)) == 2
        publish(broker.connect(), 1, "orders")
        assert broker.bodies(*names, connection=connection) == {name: [1] for name in names}


class TestNames:
    def test_names_do_not_mix(self, broker: Broker, connection: Connection) -> None:
        declare(connection, *[Queue(name) for name in ODD_NAMES])
        for name in ODD_NAMES:
            publish(connection, name, routing_key=name)
        assert broker.bodies(*ODD_NAMES) == {name: [name] for name in ODD_NAMES}

    def test_exchange_names_do_not_mix(self, broker: Broker, connection: Connection) -> None:
        for i, name in enumerate(ODD_NAMES):
            declare(connection, Queue(f"q{i}", Exchange(name, "fanout")))
        for name in ODD_NAMES:
            publish(connection, name, name)
        queues = [f"q{i}" for i in range(len(ODD_NAMES))]
        assert broker.bodies(*queues) == {queue: [name] for queue, name in zip(queues, ODD_NAMES, strict=True)}

    @needs(Can.EXACT_TOPICS)
    def test_odd_routing_keys_do_not_mix(self, broker: Broker, connection: Connection) -> None:
        keys = ("été.créé", "a" * 255, "with space", 'quo"te', "back\\slash", "😀.b", "tab\tin", "a", "A", "a.", ".a")
        direct, topic = Exchange("direct-ex", "direct"), Exchange("topic-ex", "topic")
        expected = {}
        for i, key in enumerate(keys):
            declare(connection, Queue(f"d{i}", direct, key), Queue(f"t{i}", topic, key))
            expected |= {f"d{i}": [f"direct {key}"], f"t{i}": [f"topic {key}"]}
        for key in keys:
            publish(connection, f"direct {key}", "direct-ex", key)
            publish(connection, f"topic {key}", "topic-ex", key)
        assert broker.bodies(*expected) == expected


class TestPurge:
    @needs(Can.EXACT_COUNTS)
    def test_removes_what_is_ready(self, broker: Broker, connection: Connection) -> None:
        declare(connection, Queue("work"))
        for i in range(3):
            publish(connection, i, routing_key="work")
        assert connection.default_channel.queue_purge("work") == 3
        assert size(connection, "work") == 0
        assert broker.bodies("work") == {"work": []}

    @needs(Can.EXACT_COUNTS)
    def test_again_within_a_minute(self, broker: Broker, connection: Connection) -> None:
        declare(connection, Queue("work"))
        for count in (2, 15, 0):
            for i in range(count):
                publish(connection, i, routing_key="work")
            assert connection.default_channel.queue_purge("work") == count
        publish(connection, "after", routing_key="work")
        assert broker.bodies("work") == {"work": ["after"]}

    @needs(Can.KNOWS_MISSING)
    def test_missing_queue_is_404(self, connection: Connection) -> None:
        with pytest.raises(ChannelError, match="missing"):
            connection.default_channel.queue_purge("missing")


class TestDelete:
    def test_deleted_queue_is_gone(self, connection: Connection) -> None:
        declare(connection, Queue("work", Exchange("orders", "fanout")))
        Queue("work", channel=connection.default_channel).delete()
        assert not exists(connection, "work")

    @needs(Can.DELETE_UNBINDS)
    def test_declared_again_it_is_empty_and_bound_anew(self, broker: Broker, connection: Connection) -> None:
        queue = Queue("work", Exchange("orders", "direct"), "old")
        declare(connection, queue)
        publish(connection, "lost", "orders", "old")
        Queue("work", channel=connection.default_channel).delete()
        broker.pass_a_minute()
        declare(connection, Queue("work", Exchange("orders", "direct"), "new"))
        publish(connection, "old", "orders", "old")
        publish(connection, "new", "orders", "new")
        assert broker.bodies("work") == {"work": ["new"]}

    def test_missing_queue_is_fine(self, connection: Connection) -> None:
        Queue("missing", channel=connection.default_channel).delete()

    @needs(Can.REFUSES_DELETE, Can.EXACT_COUNTS)
    def test_if_empty_keeps_a_queue_with_messages(self, broker: Broker, connection: Connection) -> None:
        declare(connection, Queue("work"))
        publish(connection, 1, routing_key="work")
        with pytest.raises(ChannelError, match="not empty") as caught:
            Queue("work", channel=connection.default_channel).delete(if_empty=True)
        assert caught.value.reply_code == 406
        assert broker.bodies("work") == {"work": [1]}

    def test_if_empty_deletes_an_empty_queue(self, connection: Connection) -> None:
        declare(connection, Queue("work", Exchange("orders", "fanout")))
        Queue("work", channel=connection.default_channel).delete(if_empty=True)
        assert not exists(connection, "work")

    @needs(Can.REFUSES_DELETE)
    def test_if_unused_keeps_a_queue_that_is_consumed(self, connection: Connection) -> None:
        declare(connection, Queue("work"))
        with (
            consuming(connection.default_channel, {"work": lambda _: None}),
            pytest.raises(ChannelError, match="in use"),
        ):
            Queue("work", channel=connection.default_channel).delete(if_unused=True)
        assert exists(connection, "work")

    @needs(Can.REFUSES_DELETE)
    def test_exchange_if_unused(self, broker: Broker, connection: Connection) -> None:
        exchange = Exchange("orders", "fanout")
        declare(connection, Queue("work", exchange))
        with pytest.raises(ChannelError, match="in use"):
            exchange(connection.default_channel).delete(if_unused=True)
        publish(connection, 1, "orders")
        assert broker.bodies("work") == {"work": [1]}
        Queue("work", channel=connection.default_channel).delete()
        exchange(connection.default_channel).delete(if_unused=True)

    @needs(Can.REFUSES_DELETE)
    def test_exchange_deleted_leaves_its_queues_unbound(self, broker: Broker, connection: Connection) -> None:
        orders, logins = Exchange("orders", "fanout"), Exchange("logins", "fanout")
        declare(connection, Queue("audit", [binding(orders), binding(logins)]))
        orders(connection.default_channel).delete()
        publish(broker.stranger(unroutable="ignore"), "order", "orders")
        publish(connection, "login", "logins")
        publish(connection, "direct", routing_key="audit")
        assert broker.bodies("audit") == {"audit": ["direct", "login"]}

    @needs(Can.REFUSES_DELETE)
    def test_exchange_takes_another_type_after_its_delete(self, broker: Broker, connection: Connection) -> None:
        Exchange("orders", "fanout")(connection.default_channel).declare()
        Exchange("orders", "fanout")(connection.default_channel).delete()
        declare(connection, Queue("work", Exchange("orders", "direct"), "eu"))
        publish(connection, "eu", "orders", "eu")
        publish(connection, "us", "orders", "us")
        assert broker.bodies("work") == {"work": ["eu"]}


@needs(Can.OWNED_QUEUES)
class TestOwners:
    @pytest.mark.parametrize("exchange", [None, Exchange("orders", "fanout")], ids=["named", "subscribed"])
    def test_exclusive_queue_goes_with_its_connection(self, broker: Broker, exchange: Exchange | None) -> None:
        owner = broker.connect()
        queue = Queue("mine", exchange or "", exclusive=True, durable=False)
        declare(owner, queue)
        # A temporary queue is created by what its connection does next: here a bind, there the owner's publish.
        sender = broker.connect() if exchange else owner
        publish(sender, 1, "orders" if exchange else "", "" if exchange else "mine")
        assert broker.bodies("mine", connection=owner) == {"mine": [1]}
        owner.release()
        broker.wait_for_lists()
        assert not exists(broker.stranger(), "mine")
        assert broker.aws.client("sqs").list_queues(QueueNamePrefix=broker.aws.namespace).get("QueueUrls", []) == []

    def test_exclusive_queue_is_declared_again_by_the_next_connection(self, broker: Broker) -> None:
        for i in range(3):
            owner = broker.connect()
            declare(owner, Queue("mine", Exchange("orders", "fanout"), exclusive=True))
            publish(broker.connect(), i, "orders")
            assert broker.bodies("mine", connection=owner) == {"mine": [i]}
            owner.release()

    def test_auto_delete_queue_goes_after_its_consumer(self, broker: Broker) -> None:
        owner, name = broker.connect(), f"passing-{uuid4()}"
        declare(owner, Queue(name, Exchange("orders", "fanout"), auto_delete=True))
        with consuming(owner.default_channel, {name: lambda _: None}):
            publish(broker.connect(), 1, "orders")
        owner.release()
        assert not exists(broker.stranger(), name)

    def test_auto_delete_queue_is_shared_by_its_consumers_and_found_by_the_next(self, broker: Broker) -> None:
        one, other = broker.stranger(), broker.stranger()
        queue = Queue("shared", Exchange("orders", "fanout"), auto_delete=True)
        for owner in (one, other):
            declare(owner, queue)
        with consuming(one.default_channel, {"shared": lambda _: None}):
            pass
        one.release()
        publish(other, 1, "orders")
        assert broker.bodies("shared", connection=other) == {"shared": [1]}

    def test_auto_delete_queue_outlives_who_only_declared_it(self, broker: Broker) -> None:
        declarer, consumer = broker.stranger(), broker.stranger()
        queue = Queue("results", auto_delete=True, durable=False)
        declare(declarer, queue)
        publish(declarer, 1, routing_key="results")
        declare(consumer, queue)
        declarer.release()
        message = get(consumer, "results")
        assert message is not None
        message.ack()

    def test_durable_queue_stays(self, broker: Broker) -> None:
        owner = broker.connect()
        declare(owner, Queue("work", Exchange("orders", "fanout")))
        with consuming(owner.default_channel, {"work": lambda _: None}):
            pass
        owner.release()
        publish(broker.stranger(), 1, "orders")
        assert broker.bodies("work") == {"work": [1]}


@needs(Can.AWS)
class TestNothingIsLeftBehind:
    """And nothing of others is touched."""

    FOREIGN_STATEMENT: ClassVar[dict[str, Any]] = {
        "Sid": "Audit",
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
    }

    @pytest.fixture
    def sqs(self, broker: Broker) -> Any:
        return broker.aws.client("sqs")

    @pytest.fixture
    def sns(self, broker: Broker) -> Any:
        return broker.aws.client("sns")

    def queue_url(self, broker: Broker, sqs: Any, name: str) -> str:
        return str(sqs.get_queue_url(QueueName=f"{broker.aws.namespace}__{name}")["QueueUrl"])

    def attribute(self, sqs: Any, url: str, name: str) -> str | None:
        found: dict[str, str] = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name]).get("Attributes", {})
        return found.get(name)

    def topics(self, broker: Broker, sns: Any) -> list[str]:
        broker.wait_for_lists()
        pages = sns.get_paginator("list_topics").paginate()
        arns = [topic["TopicArn"] for page in pages for topic in page["Topics"]]
        return [arn for arn in arns if f":{broker.aws.namespace}__" in arn]

    def subscribed(self, sns: Any, topic: str) -> list[str]:
        pages = sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic)
        return [item["Endpoint"] for page in pages for item in page["Subscriptions"]]

    def test_unbind_removes_subscription_statement_and_tag(
        self, broker: Broker, connection: Connection, sqs: Any, sns: Any
    ) -> None:
        exchange = Exchange("orders", "direct")
        declare(connection, Queue("work", [binding(exchange, "eu"), binding(exchange, "us")]))
        url = self.queue_url(broker, sqs, "work")
        sqs.tag_queue(QueueUrl=url, Tags={"team": "shop"})
        (topic,) = self.topics(broker, sns)
        broker.settle()
        queue = Queue("work", channel=connection.default_channel)
        queue.unbind_from(exchange, "eu")
        assert len(self.subscribed(sns, topic)) == 1
        queue.unbind_from(exchange, "us")
        assert self.subscribed(sns, topic) == []
        broker.settle()
        assert not self.attribute(sqs, url, "Policy")
        tags = sqs.list_queue_tags(QueueUrl=url)["Tags"]
        assert tags["team"] == "shop"
        assert [key for key in tags if key.startswith("hake:b:")] == []

    def test_unbind_keeps_statements_of_others(self, broker: Broker, connection: Connection, sqs: Any) -> None:
        exchange = Exchange("orders", "fanout")
        declare(connection, Queue("work"))
        url = self.queue_url(broker, sqs, "work")
        foreign = {**self.FOREIGN_STATEMENT, "Resource": self.attribute(sqs, url, "QueueArn")}
        policy = {"Version": "2012-10-17", "Statement": [foreign]}
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy)})
        broker.settle()
        queue = Queue("work", channel=connection.default_channel)
        exchange(connection.default_channel).declare()
        queue.bind_to(exchange)
        broker.settle()
        statements = json.loads(self.attribute(sqs, url, "Policy") or "{}")["Statement"]
        assert foreign in statements
        assert len(statements) == 2
        queue.unbind_from(exchange)
        broker.settle()
        assert json.loads(self.attribute(sqs, url, "Policy") or "{}")["Statement"] == [foreign]

    def test_queue_delete_removes_its_subscriptions_and_no_other(
        self, broker: Broker, connection: Connection, sqs: Any, sns: Any
    ) -> None:
        orders, logins = Exchange("orders", "fanout"), Exchange("logins", "fanout")
        declare(connection, Queue("gone", [binding(orders), binding(logins)]), Queue("stays", orders))
        foreign = self.foreign_queue(broker, sqs, sns, "orders")
        broker.settle()
        # By a process that has declared nothing: it finds the bindings with the queue.
        Queue("gone", channel=broker.stranger().default_channel).delete()
        stays = self.attribute(sqs, self.queue_url(broker, sqs, "stays"), "QueueArn")
        found = {topic.rpartition("__")[2]: set(self.subscribed(sns, topic)) for topic in self.topics(broker, sns)}
        assert found == {"orders": {stays, foreign}, "logins": set()}

    def test_exchange_delete_removes_the_topic(
        self, broker: Broker, connection: Connection, sqs: Any, sns: Any
    ) -> None:
        orders = Exchange("orders", "fanout")
        declare(connection, Queue("email", orders), Queue("stock", orders))
        broker.settle()
        orders(broker.stranger().default_channel).delete()
        assert self.topics(broker, sns) == []
        broker.settle()
        for name in ("email", "stock"):
            url = self.queue_url(broker, sqs, name)
            assert not self.attribute(sqs, url, "Policy")
            tags = sqs.list_queue_tags(QueueUrl=url).get("Tags", {})
            assert [key for key in tags if key.startswith("hake:b:")] == []

    def test_exchange_delete_keeps_a_topic_that_others_use(
        self, broker: Broker, connection: Connection, sqs: Any, sns: Any
    ) -> None:
        orders = Exchange("orders", "fanout")
        declare(connection, Queue("email", orders))
        foreign = self.foreign_queue(broker, sqs, sns, "orders")
        orders(connection.default_channel).delete()
        (topic,) = self.topics(broker, sns)
        assert self.subscribed(sns, topic) == [foreign]

    @needs(Can.OTHER_ACCOUNTS)
    def test_subscription_of_another_account_is_not_touched(
        self, broker: Broker, connection: Connection, sqs: Any, sns: Any
    ) -> None:
        """Though its queue has the name of one of ours."""
        orders = Exchange("orders", "fanout")
        declare(connection, Queue("email", orders))
        (topic,) = self.topics(broker, sns)
        mine = str(self.attribute(sqs, self.queue_url(broker, sqs, "email"), "QueueArn"))
        parts = mine.split(":")
        theirs = {":".join([*parts[:4], "999999999999", parts[5]]), ":".join([*parts[:3], "eu-west-1", *parts[4:]])}
        for endpoint in theirs:
            sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=endpoint)
        Queue("email", channel=connection.default_channel).delete()
        assert set(self.subscribed(sns, topic)) == theirs
        orders(connection.default_channel).delete()
        assert set(self.subscribed(sns, topic)) == theirs

    def foreign_queue(self, broker: Broker, sqs: Any, sns: Any, exchange: str) -> str:
        """A queue made and subscribed by other hands; its ARN."""
        url = sqs.create_queue(QueueName=f"{broker.aws.namespace}-foreign")["QueueUrl"]
        arn = self.attribute(sqs, url, "QueueArn")
        (topic,) = [arn for arn in self.topics(broker, sns) if arn.endswith(f"__{exchange}")]
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
        return str(arn)


class TestRemoteControl:
    def test_call_is_answered_by_every_node(self, broker: Broker) -> None:
        """kombu's mailbox: a fanout there, and replies straight to the caller's queue."""
        mailbox = Mailbox("tests", type="fanout", accept=["json"])
        stop = threading.Event()
        ready = [threading.Event() for _ in range(2)]

        def serve(number: int) -> None:
            with broker.connect() as connection, connection.channel() as channel:
                handlers = {"add": lambda state, x, y: x + y + number}
                node = mailbox.Node(f"host{number}", channel=channel, handlers=handlers)
                consumer = node.listen()
                ready[number].set()
                while not stop.is_set():
                    with suppress(TimeoutError):
                        connection.drain_events(timeout=0.1)
                consumer.cancel()

        threads = [threading.Thread(target=serve, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        try:
            assert all(event.wait(20) for event in ready)
            replies = mailbox(broker.connect()).multi_call("add", {"x": 1, "y": 2}, timeout=10, limit=2)
        finally:
            stop.set()
            for thread in threads:
                thread.join(20)
        assert sorted(replies, key=str) == [{"host0": 3}, {"host1": 4}]

    @needs(Can.AWS)
    def test_reply_goes_straight_to_its_queue(self, broker: Broker, connection: Connection) -> None:
        exchange = Exchange("reply.tests.pidbox", "direct", durable=False)
        declare(connection, Queue("oid.reply.tests.pidbox", exchange, "oid", durable=False, auto_delete=True))
        Producer(broker.stranger()).publish({"host": 1}, exchange="reply.tests.pidbox", routing_key="oid")
        message = get(connection, "oid.reply.tests.pidbox")
        assert message is not None
        assert message.payload == {"host": 1}
        message.ack()
        broker.wait_for_lists()
        pages = broker.aws.client("sns").get_paginator("list_topics").paginate()
        topics = [topic for page in pages for topic in page["Topics"]]
        assert [topic for topic in topics if broker.aws.namespace in topic["TopicArn"]] == []

    @needs(Can.AWS)
    def test_reply_to_nobody_is_an_inconsistency(self, connection: Connection) -> None:
        """What kombu's mailbox expects there; anything else it would retry for ever."""
        with pytest.raises(InconsistencyError):
            publish(connection, 1, "reply.tests.pidbox", "gone")


def test_messages_wait_for_a_consumer_that_comes_later(broker: Broker) -> None:
    declarer = broker.connect()
    declare(declarer, Queue("email", Exchange("orders", "fanout")))
    publish(declarer, 1, "orders")
    later = broker.connect()
    found: list[Message] = []
    with consuming(later.default_channel, {"email": found.append}, no_ack=True):
        wait_until(lambda: found, later, "the message")
    assert found[0].payload == 1
