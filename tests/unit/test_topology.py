"""Bindings in AWS: every one effective whoever declares at once, nobody else's work undone, and few calls."""

import json
import logging
import threading
from collections import Counter
from typing import Any

import pytest
from fakes import ACCOUNT, REGION, FakeClients, make_settings

from kombu_hake.amqp.bindings import Binding
from kombu_hake.amqp.routing import message_attributes
from kombu_hake.amqp.tasks import PRIVATE_EXCHANGE
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable, DeclarationMismatch, QueueNotFound
from kombu_hake.topology.spec import QueueSpec
from kombu_hake.topology.topology import Topology

OWN_SID = "HakeTopics"


def arn(name: str) -> str:
    return f"arn:aws:sns:{REGION}:{ACCOUNT}:{name}"


@pytest.fixture
def topology(fake: FakeClients) -> Topology:
    return Topology(fake, make_settings(), clock=fake.clock)


def declare(topology: Topology, queue: str, *bindings: Binding) -> None:
    topology.declare_queue(QueueSpec(queue))
    for binding in bindings:
        topology.bind(queue, binding)


def fanout(exchange: str) -> Binding:
    return Binding(exchange, "fanout")


def publish(fake: FakeClients, exchange: str, routing_key: str = "k", text: str = "") -> None:
    attributes = message_attributes(routing_key)
    fake.sns(
        "publish",
        TopicArn=arn(exchange),
        Message=text or f"{exchange}:{routing_key}",
        MessageAttributes={name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()},
    )


def statements(fake: FakeClients, queue: str) -> list[dict[str, Any]]:
    policy = fake.queues.queue(queue).attributes.get("Policy")
    found: list[dict[str, Any]] = json.loads(policy)["Statement"] if policy else []
    return found


def let_in(fake: FakeClients, queue: str) -> set[str]:
    [own] = [statement for statement in statements(fake, queue) if statement["Sid"] == OWN_SID]
    return {topic.rsplit(":", 1)[1] for topic in own["Condition"]["ArnEquals"]["aws:SourceArn"]}


# --- one declarer


def test_what_is_published_to_an_exchange_reaches_its_queues(fake: FakeClients, topology: Topology) -> None:
    for queue in ("email", "inventory"):
        declare(topology, queue, fanout("orders"))
    publish(fake, "orders")
    assert [fake.queues.queue(queue).bodies() for queue in ("email", "inventory")] == [["orders:k"]] * 2
    assert fake.topics.lost == []


def test_a_queue_may_be_bound_to_several_exchanges(fake: FakeClients, topology: Topology) -> None:
    declare(topology, "q", fanout("a"), fanout("b"), Binding("c", "direct", "k"))
    for exchange in "abc":
        publish(fake, exchange)
    assert fake.queues.queue("q").bodies() == ["a:k", "b:k", "c:k"]
    assert let_in(fake, "q") == {"a", "b", "c"}
    assert len(statements(fake, "q")) == 1


def test_a_queue_may_be_bound_with_several_keys(fake: FakeClients, topology: Topology) -> None:
    declare(topology, "q", Binding("x", "direct", "a"), Binding("x", "direct", "b"))
    for key in "abc":
        publish(fake, "x", key)
    assert fake.queues.queue("q").bodies() == ["x:a", "x:b"]
    assert topology.list_bindings() == [("q", "x", "a"), ("q", "x", "b")]


def test_a_message_is_never_accepted_before_the_queue_lets_it_in(fake: FakeClients, topology: Topology) -> None:
    declare(topology, "q", fanout("x"))
    operations = [operation for operation, _ in fake.calls]
    assert operations.index("tag_queue") < operations.index("set_queue_attributes") < operations.index("subscribe")


def test_statements_of_others_are_kept(fake: FakeClients, topology: Topology) -> None:
    topology.declare_queue(QueueSpec("q"))
    theirs = {
        "Sid": "theirs",
        "Effect": "Allow",
        "Principal": {"Service": "s3.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": fake.queues.queue("q").arn,
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [theirs]})
    fake.sqs("set_queue_attributes", QueueUrl=fake.queues.queue("q").url, Attributes={"Policy": policy})
    for exchange in "ab":
        topology.bind("q", fanout(exchange))
    assert theirs in statements(fake, "q")
    assert let_in(fake, "q") == {"a", "b"}
    for exchange in "ab":
        topology.unbind("q", fanout(exchange))
    assert statements(fake, "q") == [theirs]


def test_a_policy_that_cannot_be_read_is_never_overwritten(fake: FakeClients, topology: Topology) -> None:
    topology.declare_queue(QueueSpec("q"))
    fake.queues.queue("q").attributes["Policy"] = "no JSON"
    with pytest.raises(Exception, match="policy"):
        topology.bind("q", fanout("x"))
    assert fake.queues.queue("q").attributes["Policy"] == "no JSON"


def test_other_attributes_are_never_written(fake: FakeClients, topology: Topology) -> None:
    topology.declare_queue(QueueSpec("q"))
    tuned = {"VisibilityTimeout": "999", "DelaySeconds": "3", "RedrivePolicy": "{}"}
    fake.queues.queue("q").attributes.update(tuned)
    declare(topology, "q", fanout("x"))
    assert tuned.items() <= fake.queues.queue("q").attributes.items()


# --- cost


def test_binding_again_costs_nothing(fake: FakeClients, topology: Topology) -> None:
    declare(topology, "q", fanout("x"))
    fake.calls.clear()
    for _ in range(10):
        topology.bind("q", fanout("x"))
    assert not fake.calls


def test_a_queue_that_is_all_there_costs_a_process_a_handful_of_reads(fake: FakeClients, topology: Topology) -> None:
    declare(topology, "q", fanout("x"))
    fake.calls.clear()
    declare(Topology(fake, make_settings()), "q", fanout("x"))
    counts = fake.counts()
    assert counts == Counter(get_queue_url=1, get_queue_attributes=1, subscribe=1, get_subscription_attributes=1)


def test_nothing_lists_queues_topics_or_subscriptions_to_declare(fake: FakeClients, topology: Topology) -> None:
    declare(topology, "q", fanout("x"), Binding("y", "topic", "a.#"))
    assert not [operation for operation in fake.counts() if operation.startswith("list_") and "tags" not in operation]


# --- several declarers


def race(fake: FakeClients, operation: str, bindings: dict[str, Binding]) -> None:
    """Processes that bind one queue at once; all stop before their first *operation*, then go on together."""
    together = threading.Barrier(len(bindings), timeout=10.0)
    fake.before(operation, *[together.wait] * len(bindings))
    threads = [
        threading.Thread(target=Topology(fake, make_settings()).bind, args=("q", binding))
        for binding in bindings.values()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "operation", ["list_queue_tags", "tag_queue", "get_queue_attributes", "set_queue_attributes", "subscribe"]
)
def test_concurrent_binds_to_several_exchanges_are_all_effective(fake: FakeClients, operation: str) -> None:
    Topology(fake, make_settings()).declare_queue(QueueSpec("q"))
    race(fake, operation, {name: fanout(name) for name in ("a", "b", "c")})
    for exchange in "abc":
        publish(fake, exchange)
    assert sorted(fake.queues.queue("q").bodies()) == ["a:k", "b:k", "c:k"]


@pytest.mark.parametrize("operation", ["list_queue_tags", "tag_queue", "subscribe", "get_subscription_attributes"])
def test_concurrent_binds_with_several_keys_are_all_effective(fake: FakeClients, operation: str) -> None:
    Topology(fake, make_settings()).declare_queue(QueueSpec("q"))
    race(fake, operation, {key: Binding("x", "direct", key) for key in ("a", "b", "c")})
    for key in "abcd":
        publish(fake, "x", key)
    assert sorted(fake.queues.queue("q").bodies()) == ["x:a", "x:b", "x:c"]


def test_a_writer_that_was_slow_does_not_undo_another_ones_binding(fake: FakeClients) -> None:
    slow, fast = (Topology(fake, make_settings()) for _ in range(2))
    declare(fast, "q")
    overtaken: list[str] = []

    def overtake() -> None:
        if not overtaken:
            overtaken.append("once")
            fast.bind("q", fanout("b"))

    fake.before("set_queue_attributes", overtake)  # the slow one has computed its policy without "b"
    slow.bind("q", fanout("a"))
    assert overtaken
    assert let_in(fake, "q") == {"a", "b"}


def test_a_process_adds_to_what_others_bound_before(fake: FakeClients) -> None:
    declare(Topology(fake, make_settings()), "q", fanout("a"), Binding("x", "direct", "k1"))
    declare(Topology(fake, make_settings()), "q", fanout("b"), Binding("x", "direct", "k2"))
    for exchange in "ab":
        publish(fake, exchange)
    publish(fake, "x", "k1")
    publish(fake, "x", "k2")
    assert len(fake.queues.queue("q").messages) == 4


def test_what_another_process_unbound_can_be_bound_again(fake: FakeClients, topology: Topology) -> None:
    declare(topology, "q", fanout("x"))
    fake.clock.advance(61)
    Topology(fake, make_settings()).unbind("q", fanout("x"))
    topology.bind("q", fanout("x"))
    publish(fake, "x")
    assert fake.queues.queue("q").bodies() == ["x:k"]


def test_a_subscription_that_somebody_removed_is_made_again_by_the_next_declare(
    fake: FakeClients, topology: Topology
) -> None:
    declare(topology, "q", fanout("x"))
    fake.clock.advance(61)
    fake.sns("delete_topic", TopicArn=arn("x"))
    declare(topology, "q", fanout("x"))
    publish(fake, "x")
    assert fake.queues.queue("q").bodies() == ["x:k"]


# --- unbinding and deleting


def test_unbinding_the_last_key_leaves_nothing_behind(fake: FakeClients, topology: Topology) -> None:
    declare(topology, "q", Binding("x", "direct", "a"), Binding("x", "direct", "b"))
    before = {key for key in fake.queues.queue("q").tags if not key.startswith("hake:b:")}
    topology.unbind("q", Binding("x", "direct", "a"))
    for key in "ab":
        publish(fake, "x", key)
    assert fake.queues.queue("q").bodies() == ["x:b"]
    topology.unbind("q", Binding("x", "direct", "b"))
    assert fake.topics.by_name["x"].subscriptions == {}
    assert statements(fake, "q") == []
    assert set(fake.queues.queue("q").tags) == before
    assert topology.list_bindings() == []


def test_unbinding_what_is_not_bound_is_fine(fake: FakeClients, topology: Topology) -> None:
    declare(topology, "q", fanout("a"))
    topology.unbind("q", fanout("b"))
    publish(fake, "a")
    assert fake.queues.queue("q").bodies() == ["a:k"]


def test_deleting_a_queue_removes_its_subscriptions_first(fake: FakeClients, topology: Topology) -> None:
    declare(topology, "q", fanout("a"), fanout("b"))
    declare(topology, "other", fanout("a"))
    Topology(fake, make_settings()).delete_queue("q")
    assert "q" not in fake.queues.by_name
    assert [len(fake.topics.by_name[name].subscriptions) for name in "ab"] == [1, 0]
    operations = [operation for operation, _ in fake.calls]
    last_unsubscribe = len(operations) - operations[::-1].index("unsubscribe")
    assert last_unsubscribe <= operations.index("delete_queue") + 1


def test_a_queue_that_is_deleted_and_declared_again_is_bound_again(fake: FakeClients, topology: Topology) -> None:
    declare(topology, "q", fanout("x"))
    topology.delete_queue("q")
    fake.clock.advance(61)
    declare(topology, "q", fanout("x"))
    publish(fake, "x")
    assert fake.queues.queue("q").bodies() == ["x:k"]


def test_a_queue_that_somebody_deleted_is_declared_and_bound_anew(fake: FakeClients, topology: Topology) -> None:
    declare(topology, "q", fanout("x"))
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue("q").url)
    fake.clock.advance(61)
    declare(topology, "q", fanout("x"))
    publish(fake, "x")
    assert fake.queues.queue("q").bodies() == ["x:k"]


def test_a_deleted_queue_is_made_again_with_its_bindings(
    fake: FakeClients, topology: Topology, caplog: pytest.LogCaptureFixture
) -> None:
    declare(topology, "q", fanout("a"), Binding("b", "direct", "k"))
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue("q").url)
    fake.clock.advance(61)
    assert topology.make_again("q") == fake.queues.queue("q").url
    for exchange in "ab":
        publish(fake, exchange)
    assert len(fake.queues.queue("q").messages) == 2
    assert "had been deleted" in caplog.text


@pytest.mark.parametrize("operation", ["create_queue", "list_queue_tags", "subscribe"])
def test_bindings_of_a_deleted_queue_survive_an_outage_while_it_is_made_again(
    fake: FakeClients, topology: Topology, operation: str
) -> None:
    declare(topology, "q", fanout("events"), Binding("orders", "topic", "order.*"))
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue("q").url)
    fake.clock.advance(61)
    fake.fail(operation, BrokerUnavailable("the network is down"))
    with pytest.raises(BrokerUnavailable):
        topology.make_again("q")
    # The consumer asks again for a queue that is missing, and looks after one that is there.
    if operation == "create_queue":
        topology.make_again("q")
    else:
        topology.check_bindings("q")
    publish(fake, "events")
    publish(fake, "orders", "order.paid")
    assert fake.queues.queue("q").bodies() == ["events:k", "orders:order.paid"]


# --- what somebody removed under a running consumer


@pytest.mark.parametrize("removed", ["subscription", "topic", "topic, and made again by a publisher"])
def test_subscriptions_that_somebody_removed_are_made_again_and_that_is_said(
    fake: FakeClients, topology: Topology, caplog: pytest.LogCaptureFixture, removed: str
) -> None:
    declare(topology, "q", fanout("events"), fanout("others"))
    topology.check_bindings("q")
    assert not caplog.records
    if removed == "subscription":
        [found] = fake.sns("list_subscriptions_by_topic", TopicArn=arn("events"))["Subscriptions"]
        fake.sns("unsubscribe", SubscriptionArn=found["SubscriptionArn"])
    else:
        fake.sns("delete_topic", TopicArn=arn("events"))
    if "publisher" in removed:
        fake.sns("create_topic", Name="events")
    topology.check_bindings("q")
    topology.check_bindings("q")
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "queue q to events had been deleted" in record.getMessage()
    publish(fake, "events")
    publish(fake, "others")
    assert fake.queues.queue("q").bodies() == ["events:k", "others:k"]


def test_a_subscription_that_is_being_removed_here_is_not_made_again(fake: FakeClients, topology: Topology) -> None:
    declare(topology, "q", fanout("events"))
    fake.before("get_subscription_attributes", lambda: topology.unbind("q", fanout("events")))
    topology.check_bindings("q")
    assert fake.sns("list_subscriptions_by_topic", TopicArn=arn("events"))["Subscriptions"] == []


def test_looking_after_bindings_costs_a_request_for_the_policy_and_one_for_each_exchange(
    fake: FakeClients, topology: Topology
) -> None:
    declare(topology, "q", fanout("events"), Binding("orders", "topic", "a"), Binding("orders", "topic", "b"))
    fake.calls.clear()
    topology.check_bindings("q")
    topology.check_bindings("unknown")
    assert [name for name, _ in fake.calls] == ["get_queue_attributes", *["get_subscription_attributes"] * 2]


def test_subscriptions_that_may_not_be_looked_at_are_not_asked_for_again(fake: FakeClients, topology: Topology) -> None:
    declare(topology, "q", fanout("events"))
    fake.deny("sns:GetSubscriptionAttributes")
    fake.calls.clear()
    for _ in range(3):
        topology.check_bindings("q")
    assert fake.count("get_subscription_attributes") <= 1


def test_an_outage_while_subscriptions_are_made_again_is_not_the_end_of_it(
    fake: FakeClients, topology: Topology
) -> None:
    declare(topology, "q", fanout("events"))
    fake.sns("delete_topic", TopicArn=arn("events"))
    fake.fail("subscribe", BrokerUnavailable("the network is down"))
    with pytest.raises(BrokerUnavailable):
        topology.check_bindings("q")
    topology.check_bindings("q")
    publish(fake, "events")
    assert fake.queues.queue("q").bodies() == ["events:k"]


def test_a_queue_that_was_not_declared_here_is_not_made_again(fake: FakeClients, topology: Topology) -> None:
    assert topology.make_again("q") is None
    assert "q" not in fake.queues.by_name


def test_deleting_an_exchange_removes_our_bindings_to_it(fake: FakeClients, topology: Topology) -> None:
    for queue in ("q", "r"):
        declare(topology, queue, fanout("x"), fanout("y"))
    topology.delete_exchange("x")
    assert "x" not in fake.topics.by_name
    assert let_in(fake, "q") == let_in(fake, "r") == {"y"}
    assert len([key for key in fake.queues.queue("q").tags if key.startswith("hake:b:")]) == 1
    topology.delete_exchange("x")


def test_an_exchange_that_others_subscribe_to_is_kept(
    fake: FakeClients, topology: Topology, caplog: pytest.LogCaptureFixture
) -> None:
    declare(topology, "q", fanout("x"))
    fake.sns("subscribe", TopicArn=arn("x"), Protocol="https", Endpoint="https:hook:of:others:a:b")
    fake.sqs("create_queue", QueueName="theirs")
    fake.sns("subscribe", TopicArn=arn("x"), Protocol="sqs", Endpoint=fake.queues.queue("theirs").arn)
    topology.delete_exchange("x")
    assert len(fake.topics.by_name["x"].subscriptions) == 2
    assert "2 external subscriptions" in caplog.text


# --- limits


def test_more_bindings_than_a_queue_has_tags_get_everything(
    fake: FakeClients, topology: Topology, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [f"key.{number}" for number in range(60)]
    declare(topology, "q", *(Binding("x", "direct", key) for key in keys))
    assert len(fake.queues.queue("q").tags) <= 50
    for key in [*keys, "another"]:
        publish(fake, "x", key)
    assert len(fake.queues.queue("q").messages) == 61  # the consumer's check drops the last one
    assert "everything" in caplog.text


def test_a_filter_that_aws_refuses_is_made_wider(fake: FakeClients, topology: Topology) -> None:
    topology.declare_queue(QueueSpec("q"))
    fake.sns("create_topic", Name="x")
    refused = DeclarationMismatch("x")
    refused.args = ("Invalid parameter: FilterPolicy: Filter policy is too complex",)
    topology.topics.arn("x")
    from kombu_hake.exceptions import TopologyError

    fake.fail("subscribe", TopologyError("Invalid parameter: FilterPolicy: too complex"))
    topology.bind("q", Binding("x", "topic", "a.*.c"))
    publish(fake, "x", "a.b.c")
    assert fake.queues.queue("q").bodies() == ["x:a.b.c"]


# --- exchanges and bindings that need no topic


@pytest.mark.parametrize(
    ("queue", "binding", "needs"),
    [
        ("q", Binding("", "direct", "q"), False),
        ("q", Binding(PRIVATE_EXCHANGE, "direct", "q"), False),
        ("x.reply.celery.pidbox", Binding("reply.celery.pidbox", "direct", "x"), False),
        ("q", Binding("q", "direct", "q"), False),
        ("q", Binding("q", "direct", "other"), True),
        ("q", Binding("other", "direct", "q"), True),
        ("q", Binding("q", "topic", "q"), True),
        ("q", Binding("q", "fanout", "q"), True),
        ("h.celery.pidbox", Binding("celery.pidbox", "fanout"), True),
    ],
)
def test_which_bindings_are_anything_in_sns(
    fake: FakeClients, topology: Topology, queue: str, binding: Binding, needs: bool
) -> None:
    assert topology.needs_topic(queue, binding) == needs
    topology.declare_queue(QueueSpec(queue))
    fake.calls.clear()
    topology.bind(queue, binding)
    assert bool(fake.topics.by_name) == needs
    if not needs:
        topology.unbind(queue, binding)
        assert not fake.calls


def test_with_direct_exchanges_as_topics_the_own_exchange_is_one(fake: FakeClients) -> None:
    topology = Topology(fake, make_settings(direct_exchanges="topic"))
    declare(topology, "q", Binding("q", "direct", "q"))
    publish(fake, "q", "q")
    assert fake.queues.queue("q").bodies() == ["q:q"]


def test_an_exchange_has_one_type(topology: Topology) -> None:
    topology.declare_exchange("x", "fanout")
    topology.declare_exchange("x", "fanout")
    with pytest.raises(DeclarationMismatch, match="declared as fanout and cannot become topic"):
        topology.declare_exchange("x", "topic")
    topology.delete_exchange("x")
    topology.declare_exchange("x", "topic")
    assert topology.exchange_type("x") == "topic"
    assert topology.exchange_type("y") is None


def test_a_binding_takes_the_type_that_another_process_declared(fake: FakeClients, topology: Topology) -> None:
    topology.declare_exchange("x", "fanout")
    declare(topology, "q", fanout("x"))
    assert Topology(fake, make_settings()).bound_type("x") == "fanout"
    assert Topology(fake, make_settings()).bound_type("unknown") == "direct"


# --- rights


def test_a_denied_exchange_of_the_users_own_raises(fake: FakeClients, topology: Topology) -> None:
    fake.deny("sns:*")
    topology.declare_queue(QueueSpec("q"))
    with pytest.raises(AccessDenied) as caught:
        topology.bind("q", fanout("orders"))
    assert caught.value.action.startswith("sns:")
    assert topology.denied("orders") is None


@pytest.mark.parametrize(
    "binding", [Binding("celeryev", "topic", "worker.#"), fanout("celery.pidbox"), Binding("x", "direct", "k")]
)
def test_an_exchange_one_can_do_without_is_given_up_with_one_warning(
    fake: FakeClients, topology: Topology, caplog: pytest.LogCaptureFixture, binding: Binding
) -> None:
    fake.deny("sns:*")
    topology.declare_queue(QueueSpec("q"))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            topology.bind("q", binding)
    assert isinstance(topology.denied(binding.exchange), AccessDenied)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    assert "sns:" in caplog.text


def test_denied_but_it_exists_is_fine(fake: FakeClients, topology: Topology) -> None:
    declare(topology, "q", fanout("x"))
    producer = Topology(fake, make_settings())
    fake.deny("sqs:ListQueueTags", "sqs:TagQueue", "sqs:SetQueueAttributes", "sqs:CreateQueue", "sns:*")
    declare(producer, "q", fanout("x"))


def test_a_mere_producer_may_not_even_see_the_queue(fake: FakeClients, topology: Topology) -> None:
    declare(topology, "q", fanout("x"))
    producer = Topology(fake, make_settings())
    fake.deny("sqs:ListQueueTags", "sqs:GetQueueAttributes")
    declare(producer, "q", fanout("x"))


def test_denied_and_not_there_is_an_error(fake: FakeClients, topology: Topology) -> None:
    topology.declare_queue(QueueSpec("q"))
    fake.deny("sqs:TagQueue")
    with pytest.raises(AccessDenied):
        topology.bind("q", fanout("x"))


def test_binding_a_queue_that_is_not_there_is_an_error(topology: Topology) -> None:
    with pytest.raises(QueueNotFound):
        topology.bind("nothing", fanout("x"))


def test_a_bind_that_failed_half_way_is_finished_by_the_next(fake: FakeClients, topology: Topology) -> None:
    topology.declare_queue(QueueSpec("q"))
    for operation in ("tag_queue", "set_queue_attributes", "subscribe"):
        fake.fail(operation, BrokerUnavailable("x"))
        with pytest.raises(BrokerUnavailable):
            topology.bind("q", fanout("x"))
    topology.bind("q", fanout("x"))
    publish(fake, "x")
    assert fake.queues.queue("q").bodies() == ["x:k"]


def test_one_statement_for_the_namespace_needs_no_rewriting(fake: FakeClients) -> None:
    topology = Topology(fake, make_settings("hake://localhost:1/prod", queue_policy="namespace"))
    declare(topology, "q", fanout("a"))
    writes = fake.count("set_queue_attributes")
    declare(topology, "q", fanout("b"))
    assert fake.count("set_queue_attributes") == writes == 1
    [statement] = statements(fake, "prod__q")
    assert statement["Condition"] == {"ArnLike": {"aws:SourceArn": [arn("prod__*")]}}
    for exchange in ("prod__a", "prod__b"):
        publish(fake, exchange)
    assert len(fake.queues.queue("prod__q").messages) == 2
