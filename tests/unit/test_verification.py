"""``topology=verify`` and ``assume``, and entities that infrastructure code made, on a strict AWS in memory."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import ACCOUNT, REGION, FakeClients, connected, make_settings
from kombu import Connection, Exchange, Producer, Queue

from kombu_hake.amqp.bindings import Binding
from kombu_hake.amqp.policy import queue_policy
from kombu_hake.amqp.routing import compile_filter, filter_json
from kombu_hake.exceptions import (
    ConfigurationError,
    DeclarationMismatch,
    QueueNotFound,
    TopicNotFound,
    TopologyError,
    TopologyIncomplete,
)
from kombu_hake.topology.topology import Topology

OTHER = "444455556666"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:orders"
EMAIL = Queue("email", Exchange("orders", "topic"), "order.*")
READS = {"get_queue_url", "get_queue_attributes", "list_subscriptions_by_topic", "get_subscription_attributes"}


@pytest.fixture
def made(fake: FakeClients) -> FakeClients:
    """What EMAIL declares, as infrastructure code would make it; no call is counted yet."""
    make(fake)
    fake.calls.clear()
    return fake


def make(fake: FakeClients, filter_policy: str | None = None, raw: str = "true") -> None:
    fake.sns("create_topic", Name="orders")
    url = fake.sqs("create_queue", QueueName="email")["QueueUrl"]
    arn = fake.queues.queue("email").arn
    fake.sqs("set_queue_attributes", QueueUrl=url, Attributes={"Policy": queue_policy(None, arn, [TOPIC])})
    text = filter_json(compile_filter([binding("order.*")])) if filter_policy is None else filter_policy
    attributes = {"RawMessageDelivery": raw, "FilterPolicy": text}
    fake.sns("subscribe", TopicArn=TOPIC, Protocol="sqs", Endpoint=arn, Attributes=attributes)


def binding(key: str, exchange_type: Any = "topic") -> Binding:
    return Binding("orders", exchange_type, key)


def verify(connection: Connection, *queues: Queue) -> None:
    for queue in queues:
        queue(connection.default_channel).declare()
    connection.default_channel.topology.verify()


def faults_of(fake: FakeClients, *queues: Queue, **options: Any) -> tuple[str, ...]:
    with connected(fake, topology="verify", **options) as connection, pytest.raises(TopologyIncomplete) as caught:
        verify(connection, *queues)
    return caught.value.faults


# --- verify


def test_what_is_there_and_right_is_looked_at_once(made: FakeClients) -> None:
    with connected(made, topology="verify") as connection:
        verify(connection, EMAIL)
        verify(connection, EMAIL)
    assert {operation for operation, _ in made.calls} == READS
    assert max(made.counts().values()) == 1


def test_verify_works_on_as_usual_when_all_is_there(made: FakeClients) -> None:
    with connected(made, topology="verify") as connection:
        channel = connection.default_channel
        EMAIL(channel).declare()
        Producer(channel).publish("hello", exchange="orders", routing_key="order.created")
        message = channel.basic_get("email")
        assert message is not None
        assert message.payload == "hello"


def test_verify_lists_everything_in_one_error(fake: FakeClients) -> None:
    make(fake, raw="false")
    fake.queues.queue("email").attributes |= {
        "KmsMasterKeyId": "alias/aws/sqs",
        "RedrivePolicy": json.dumps({"deadLetterTargetArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:dead"}),
        "Policy": "",
    }
    fake.sqs("create_queue", QueueName="sms")
    fake.calls.clear()
    faults = faults_of(
        fake,
        EMAIL,
        Queue("sms", Exchange("orders", "topic"), "order.*"),
        Queue("audit", Exchange("orders", "topic"), "#"),
        Queue("sms", Exchange("invoices", "fanout")),
    )
    expected = (
        "'dead'|:dead, which does not exist",
        "alias/aws/sqs",
        "policy of queue 'email' does not allow",
        "no raw message delivery",
        "Exchange 'invoices' has no topic",
        "'sms' is not subscribed to exchange 'orders'",
        "no queue 'audit'",
    )
    for text in expected:
        assert any(part in fault for fault in faults for part in text.split("|")), (text, faults)
    assert len(faults) == len(expected) + 2, faults  # and the policy of sms, for each of its exchanges
    assert {operation for operation, _ in fake.calls} <= READS


def test_what_was_missing_may_be_made_meanwhile(fake: FakeClients) -> None:
    with connected(fake, topology="verify") as connection:
        with pytest.raises(TopologyIncomplete, match="no queue 'email'"):
            verify(connection, EMAIL)
        make(fake)
        verify(connection)


def test_a_fifo_queue_on_a_standard_topic_is_a_fault(fake: FakeClients) -> None:
    fake.sns("create_topic", Name="orders")
    fake.sqs("create_queue", QueueName="email.fifo", Attributes={"FifoQueue": "true"})
    faults = faults_of(fake, Queue("email.fifo", Exchange("orders", "fanout")))
    assert any("is FIFO" in fault for fault in faults)


def test_what_may_not_be_read_is_no_fault(made: FakeClients, caplog: pytest.LogCaptureFixture) -> None:
    made.deny("sns:*")
    with connected(made, topology="verify") as connection:
        verify(connection, EMAIL)
    assert "cannot check the subscriptions of exchange 'orders'" in caplog.text


def test_verify_makes_no_topic_on_publish(fake: FakeClients) -> None:
    with (
        connected(fake, topology="verify", unroutable="ignore") as connection,
        pytest.raises(TopicNotFound, match="topology=verify creates none"),
    ):
        Producer(connection).publish("hello", exchange="orders", routing_key="x")
    assert not fake.count("create_topic")


def test_nothing_is_deleted(made: FakeClients) -> None:
    for mode in ("verify", "assume"):
        with connected(made, topology=mode) as connection:
            channel = connection.default_channel
            EMAIL(channel).declare()
            channel.queue_unbind("email", "orders", "order.*")
            channel.queue_delete("email")
            channel.exchange_delete("orders")
    assert not {operation for operation, _ in made.calls} - READS


# --- filters


def test_an_unequal_filter_is_shown_beside_ours_once(fake: FakeClients, caplog: pytest.LogCaptureFixture) -> None:
    make(fake, json.dumps({"rk": ["something-else"]}))
    with connected(fake, topology="verify") as connection:
        verify(connection, EMAIL)
        verify(connection, EMAIL)
    [warning] = [record.getMessage() for record in caplog.records if "has the filter policy" in record.getMessage()]
    assert '{"rk":["something-else"]}' in warning
    assert filter_json(compile_filter([binding("order.*")])) in warning


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        json.dumps(compile_filter([binding("order.*")], wildcards=False).policy, indent=2),
        json.dumps({"hake-priority": [{"exists": False}], **(compile_filter([binding("order.*")]).policy or {})}),
    ],
)
def test_no_filter_and_an_equal_one_are_right(text: str, fake: FakeClients, caplog: pytest.LogCaptureFixture) -> None:
    make(fake, text)
    with connected(fake, topology="verify") as connection:
        verify(connection, EMAIL)
    assert "filter policy" not in caplog.text


# --- assume


def test_assume_makes_no_call_to_the_control_plane(made: FakeClients) -> None:
    with connected(made, topology="assume", account_id=ACCOUNT) as connection:
        channel = connection.default_channel
        EMAIL(channel).declare()
        Queue("tasks", Exchange("tasks"), "tasks")(channel).declare()
        made.sqs("create_queue", QueueName="tasks")
        made.calls.clear()
        producer = Producer(channel)
        producer.publish("one", exchange="orders", routing_key="order.created")
        producer.publish("two", exchange="tasks", routing_key="tasks")
        first, second = channel.basic_get("email"), channel.basic_get("tasks")
        assert first is not None
        assert second is not None
        assert (first.payload, second.payload) == ("one", "two")
        first.ack()
        assert channel.queue_purge("tasks") == 0
    allowed = {"publish", "send_message", "receive_message", "delete_message_batch", "change_message_visibility_batch"}
    assert {operation for operation, _ in made.calls} <= allowed


def test_assume_asks_sts_for_the_account_only_if_it_is_not_told(made: FakeClients) -> None:
    with connected(made, topology="assume") as connection:
        topology = connection.default_channel.topology
        assert topology.queues.url("email") == made.queues.queue("email").url
        assert topology.topics.arn("orders") == TOPIC
    assert made.count("get_caller_identity") == 1


def test_a_message_that_the_infrastructure_let_in_is_delivered(made: FakeClients) -> None:
    made.topics.topic(TOPIC).subscriptions[made.queues.queue("email").arn].attributes["FilterPolicy"] = "{}"
    with connected(made, topology="assume") as connection:
        channel = connection.default_channel
        EMAIL(channel).declare()
        assert channel.topology.known_bindings("email").exchanges() == {"orders"}
        Producer(channel).publish("other", exchange="orders", routing_key="invoice.sent")
        assert channel.basic_get("email") is not None


@pytest.mark.parametrize("mode", ["verify", "assume"])
def test_remote_control_is_given_up_with_one_warning(
    mode: str, fake: FakeClients, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(fake, topology=mode) as connection:
        channel = connection.default_channel
        for name, exchange in (("w@h.celery.pidbox", "celery.pidbox"), ("celeryev.1", "celeryev")):
            Queue(name, Exchange(exchange, "fanout"), auto_delete=True)(channel).declare()
            assert channel.temporaries.is_given_up(name)
        channel.topology.verify()
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "worker_enable_remote_control=False" in warnings[0]
    assert "topology=auto" in warnings[0]


@pytest.mark.parametrize("mode", ["verify", "assume"])
def test_any_other_temporary_queue_is_refused(mode: str, fake: FakeClients) -> None:
    with connected(fake, topology=mode) as connection:
        channel = connection.default_channel
        Queue("results", Exchange(""), exclusive=True)(channel).declare()
        with pytest.raises(TopologyError, match="that needs topology=auto"):
            channel.temporaries.create()
        channel.temporaries.create()  # said once


def test_a_temporary_queue_that_infrastructure_made_is_used(fake: FakeClients) -> None:
    fake.sqs("create_queue", QueueName="results")
    with connected(fake, topology="verify") as connection:
        Queue("results", Exchange(""), auto_delete=True)(connection.default_channel).declare()
        connection.default_channel.temporaries.create()
    assert "results" in fake.queues.by_name


# --- what infrastructure code made


@pytest.fixture
def topology(fake: FakeClients) -> Iterator[Any]:
    def build(**options: Any) -> Topology:
        return Topology(fake, make_settings(**options))  # type: ignore[arg-type]

    return build


def test_a_predefined_queue_is_found_by_its_arn(fake: FakeClients, topology: Any) -> None:
    fake.sqs("create_queue", QueueName="q7")
    arn = fake.queues.queue("q7").arn
    for given in (arn, {"arn": arn}):
        assert topology(predefined_queues={"mail": given}).queues.url("mail") == fake.queues.queue("q7").url


def test_a_queue_of_another_account_is_asked_for_with_its_owner(fake: FakeClients, topology: Any) -> None:
    theirs = f"arn:aws:sqs:{REGION}:{OTHER}:q7"
    with pytest.raises(QueueNotFound, match="its owner has not let this account see it"):
        topology(predefined_queues={"mail": theirs}).queues.url("mail")
    assert fake.calls[-1][1] == {"QueueName": "q7", "QueueOwnerAWSAccountId": OTHER}


@pytest.mark.parametrize(
    "options",
    [
        {"predefined_queues": {"q": "arn:aws:sqs:us-east-2:111122223333:q"}},
        {"predefined_exchanges": {"x": "arn:aws:sns:us-east-2:111122223333:x"}},
    ],
)
def test_another_region_is_refused(topology: Any, options: dict[str, Any]) -> None:
    built = topology(**options)
    with pytest.raises(ConfigurationError, match=r"us-east-2.*one region"):
        built.queues.url("q") if "predefined_queues" in options else built.topics.arn("x")


def test_a_queue_url_of_another_region_is_refused(fake: FakeClients) -> None:
    url = "https://sqs.us-east-2.amazonaws.com/111122223333/q"
    settings = make_settings("hake://", predefined_queues={"q": url})
    with pytest.raises(ConfigurationError, match="us-east-2"):
        Topology(fake, settings).queues.url("q")  # type: ignore[arg-type]


def test_predefined_queue_on_predefined_exchange_is_taken_as_bound(fake: FakeClients, topology: Any) -> None:
    built = topology(
        predefined_queues={"q": f"arn:aws:sqs:{REGION}:{ACCOUNT}:q"}, predefined_exchanges={"orders": TOPIC}
    )
    built.bind("q", binding("order.*"))
    assert built.known_bindings("q").bindings == {binding("order.*")}
    assert built.read_bindings("q")[0] is None  # others may have more, so nothing is dropped
    assert not fake.calls


def test_own_queue_on_a_topic_of_another_account(fake: FakeClients, topology: Any) -> None:
    theirs = f"arn:aws:sns:{REGION}:{OTHER}:orders"
    fake.fail("subscribe", DeclarationMismatch("there already"))
    fake.sqs("create_queue", QueueName="q")
    built = topology(predefined_exchanges={"orders": theirs}, queue_policy="namespace")
    with pytest.raises(TopicNotFound):  # AWS in memory has one account; what was asked for is what counts
        built.bind("q", binding("order.*"))
    subscribed = [params for operation, params in fake.calls if operation == "subscribe"]
    assert subscribed[0]["TopicArn"] == theirs
    assert theirs in fake.queues.queue("q").attributes["Policy"]
    assert not fake.count("create_topic")


def test_a_queue_of_another_account_is_bound_by_its_owner(fake: FakeClients, topology: Any) -> None:
    fake.sqs("create_queue", QueueName="q")
    queue = fake.queues.queue("q")
    url = queue.url.replace(ACCOUNT, OTHER)
    built = topology(predefined_queues={"q": url}, account_id=ACCOUNT)
    with pytest.raises(TopologyError, match="only its owner can subscribe it"):
        built.bind("q", binding("order.*"))
    queue.attributes["Policy"] = queue_policy(None, queue.arn, [TOPIC])
    built.bind("q", binding("order.*"))
    assert built.known_bindings("q").bindings == {binding("order.*")}
    assert not fake.count("subscribe", "set_queue_attributes", "tag_queue", "list_queue_tags")


def test_predefined_entities_are_never_deleted(fake: FakeClients, topology: Any) -> None:
    make(fake)
    queue = fake.queues.queue("email")
    built = topology(predefined_queues={"email": queue.url}, predefined_exchanges={"orders": TOPIC})
    built.bind("email", binding("order.*"))
    built.delete_queue("email")
    built.delete_exchange("orders")
    assert queue.arn in fake.topics.topic(TOPIC).subscriptions
    assert "email" in fake.queues.by_name


# --- the type of an exchange


def test_the_type_of_an_exchange_is_known_to_a_process_that_was_told_its_name(fake: FakeClients, topology: Any) -> None:
    fake.sqs("create_queue", QueueName="a")
    fake.sqs("create_queue", QueueName="b")
    first = topology()
    first.declare_exchange("orders", "topic")
    first.bind("a", binding("order.*"))
    second = topology()
    assert second.bound_type("orders") == "topic"
    assert second.bound_type("orders") == "topic"
    assert fake.count("list_tags_for_resource") == 1
    with pytest.raises(DeclarationMismatch, match="declared as topic"):
        second.declare_exchange("orders", "fanout")


def test_an_exchange_of_unknown_type_counts_as_direct(fake: FakeClients, topology: Any) -> None:
    assert topology().bound_type("nowhere") == "direct"
    fake.deny("sns:ListTagsForResource")
    assert topology().bound_type("orders") == "direct"


def test_passive_declare_finds_an_exchange_that_nothing_is_bound_to(fake: FakeClients) -> None:
    fake.sns("create_topic", Name="orders")
    with connected(fake) as connection:
        channel = connection.default_channel
        channel.exchange_declare("orders", passive=True)
        with pytest.raises(TopicNotFound):
            channel.exchange_declare("other", passive=True)
        fake.deny("sns:GetTopicAttributes")
        channel.exchange_declare("other", passive=True)  # it may be there


# --- what a declare costs


def test_binding_again_what_is_bound_reads_each_thing_once(fake: FakeClients, topology: Any) -> None:
    fake.sqs("create_queue", QueueName="a")
    topology().bind("a", binding("order.*"))
    fake.calls.clear()
    topology().bind("a", binding("order.*"))
    assert set(fake.counts()) <= {
        "get_queue_url",
        "list_queue_tags",
        "get_queue_attributes",
        "subscribe",
        "get_subscription_attributes",
    }
    assert max(fake.counts().values()) == 1


class TestSizes:
    LARGE = Queue("email", Exchange("orders", "topic", arguments={"x-max-message-size": 1_048_576}), "order.*")

    def test_a_topic_that_takes_less_than_was_declared_is_a_fault(self, made: FakeClients) -> None:
        with connected(made, topology="verify") as connection:
            with pytest.raises(TopologyIncomplete, match=r"takes messages of 262144 bytes.* with 1048576: set"):
                verify(connection, self.LARGE)
            made.topics.set_topic_attributes(TOPIC, "MaximumMessageSize", "1048576")
            verify(connection, self.LARGE)
        assert made.count("set_topic_attributes") == 0

    def test_one_that_may_not_be_read_is_taken_as_right(
        self, made: FakeClients, caplog: pytest.LogCaptureFixture
    ) -> None:
        made.deny("sns:GetTopicAttributes")
        with connected(made, topology="verify") as connection:
            verify(connection, self.LARGE)
        assert "HAKE318 topology=verify cannot check the size of messages to exchange 'orders'" in caplog.text

    def test_without_a_size_nothing_is_asked(self, made: FakeClients) -> None:
        with connected(made, topology="verify") as connection:
            verify(connection, EMAIL)
        assert made.count("get_topic_attributes") == 0
