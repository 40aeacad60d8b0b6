"""Where a publish goes, and what is said when it goes nowhere."""

import logging
from typing import Any

import pytest
from fakes import ACCOUNT, REGION, AdviceAtOnce, FakeClients
from kombu.exceptions import InconsistencyError
from publishing import Process

from kombu_hake.amqp.bindings import Binding
from kombu_hake.amqp.tasks import PRIVATE_EXCHANGE
from kombu_hake.exceptions import (
    AccessDenied,
    BrokerUnavailable,
    ConfigurationError,
    TopologyError,
    Unroutable,
)
from kombu_hake.publish.listeners import Listeners
from kombu_hake.publish.routes import QueueTarget, TopicTarget


def arn(name: str) -> str:
    return f"arn:aws:sns:{REGION}:{ACCOUNT}:{name}"


# --- straight to a queue


@pytest.mark.parametrize("exchange", ["", PRIVATE_EXCHANGE])
def test_the_default_exchange_leads_to_the_queue_of_that_name(
    fake: FakeClients, here: Process, elsewhere: Process, exchange: str
) -> None:
    elsewhere.declare("q")
    assert here.routes.resolve(exchange, "q") == [QueueTarget("q", fake.queues.queue("q").url)]
    fake.calls.clear()
    here.targets(exchange, "q")
    assert not fake.calls


def test_a_reply_goes_straight_to_the_queue_that_waits_for_it(here: Process, elsewhere: Process) -> None:
    elsewhere.declare("5bd2.reply.celery.pidbox")
    assert here.targets("reply.celery.pidbox", "5bd2") == ["queue 5bd2.reply.celery.pidbox"]


def test_a_reply_that_nobody_waits_for_is_what_kombus_mailbox_expects(here: Process) -> None:
    with pytest.raises(InconsistencyError):
        here.routes.resolve("reply.celery.pidbox", "gone")


# --- the exchange of a queue's own name


def test_publishing_to_a_queues_own_exchange_needs_no_topic(fake: FakeClients, here: Process) -> None:
    here.declare("q", Binding("q", "direct", "q"))
    assert here.targets("q", "q") == ["queue q"]
    assert fake.topics.by_name == {}


def test_a_producer_that_knows_only_the_name_finds_the_queue(here: Process, elsewhere: Process) -> None:
    elsewhere.declare("q", Binding("q", "direct", "q"))
    assert here.targets("q", "q") == ["queue q"]


def test_a_queue_bound_by_others_to_that_exchange_gets_it_too(here: Process, elsewhere: Process) -> None:
    here.declare("q", Binding("q", "direct", "q"))
    elsewhere.declare("audit", Binding("q", "direct", "q"))
    assert here.targets("q", "q") == ["queue q", "topic q"]


def test_another_key_of_that_exchange_goes_to_its_topic(here: Process) -> None:
    here.declare("q", Binding("q", "direct", "q"), Binding("q", "direct", "other"))
    assert here.targets("q", "other") == ["topic q"]


@pytest.mark.parametrize("exchange_type", ["fanout", "topic"])
def test_an_exchange_of_another_type_is_no_short_cut(here: Process, elsewhere: Process, exchange_type: Any) -> None:
    elsewhere.declare("q", Binding("q", exchange_type, "q"))
    assert here.targets("q", "q") == ["topic q"]
    assert elsewhere.targets("q", "q") == ["topic q"]


def test_without_the_short_cut_everything_goes_through_the_topic(fake: FakeClients) -> None:
    process = Process(fake, direct_exchanges="topic")
    process.declare("q", Binding("q", "direct", "q"))
    assert process.targets("q", "q") == ["topic q"]


def test_a_queue_declared_here_is_found_though_it_was_missing_a_moment_ago(here: Process) -> None:
    assert here.targets("q", "q") == ["topic q"]
    here.declare("q", Binding("q", "direct", "q"))
    assert here.targets("q", "q") == ["queue q"]


# --- topics


def test_a_producer_needs_only_the_exchanges_name(fake: FakeClients, here: Process, elsewhere: Process) -> None:
    elsewhere.declare("q", Binding("orders", "fanout"))
    assert here.routes.resolve("orders", "k") == [TopicTarget("orders", arn("orders"))]
    fake.calls.clear()
    for _ in range(100):
        here.routes.resolve("orders", "k")
    assert not fake.calls


# --- nowhere


@pytest.mark.parametrize(("exchange", "part"), [("", "there is no such queue"), ("orders", "no queue is bound")])
def test_a_message_that_reaches_nobody_is_warned_of_once(
    here: Process, caplog: pytest.LogCaptureFixture, exchange: str, part: str
) -> None:
    for _ in range(5):
        here.routes.resolve(exchange, "k")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert part in caplog.text


def test_a_predefined_queue_that_is_missing_is_not_to_be_declared(
    fake: FakeClients, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(fake, predefined_queues={"k": "https://sqs.eu-west-1.amazonaws.com/111122223333/no-such"})
    assert process.routes.queue_is_gone("k") == []
    assert "AWS has no queue at its address in predefined_queues. Correct the address" in caplog.text


@pytest.mark.parametrize("exchange", ["", "orders"])
@pytest.mark.parametrize(
    ("unroutable", "mandatory"), [("raise", False), ("raise", True), ("warn", True), ("ignore", True)]
)
def test_it_raises_where_that_is_asked_for(fake: FakeClients, exchange: str, unroutable: str, mandatory: bool) -> None:
    process = Process(fake, unroutable=unroutable)
    with pytest.raises(Unroutable, match="Unroutable message"):
        process.routes.resolve(exchange, "k", mandatory=mandatory)


@pytest.mark.parametrize("exchange", ["", "orders"])
def test_it_may_be_ignored(fake: FakeClients, caplog: pytest.LogCaptureFixture, exchange: str) -> None:
    Process(fake, unroutable="ignore").routes.resolve(exchange, "k")
    assert not caplog.records
    assert fake.count("get_topic_attributes") == 0


def test_a_topic_that_may_not_be_read_is_believed_to_have_queues(fake: FakeClients) -> None:
    fake.deny("sns:GetTopicAttributes")
    assert Process(fake, unroutable="raise").targets("orders", "k", mandatory=True) == ["topic orders"]


def test_a_queue_that_is_bound_after_a_warning_is_found(here: Process) -> None:
    here.routes.resolve("orders", "k")
    here.declare("q", Binding("orders", "fanout"))
    assert here.targets("orders", "k", mandatory=True) == ["topic orders"]


# --- events and remote control


def test_events_are_not_published_while_nobody_listens(
    fake: FakeClients, here: Process, elsewhere: Process, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(50):
        assert here.targets("celeryev", "worker.heartbeat") == []
    assert fake.count("get_topic_attributes") == 1
    assert not caplog.records
    elsewhere.declare("monitor", Binding("celeryev", "topic", "#"))
    here.routes.listeners = Listeners(here.routes._count_listeners, AdviceAtOnce.ask)  # some minutes later
    assert here.targets("celeryev", "worker.heartbeat") == ["topic celeryev"]


def test_remote_control_is_always_sent(here: Process, caplog: pytest.LogCaptureFixture) -> None:
    assert here.targets("celery.pidbox", "") == ["topic celery.pidbox"]
    assert not caplog.records


# --- denied


def test_a_denied_exchange_raises_and_its_own_queue_still_gets_its_messages(here: Process) -> None:
    here.declare("q", Binding("q", "direct", "q"))
    denied = AccessDenied("no", action="sns:Publish")
    for exchange in ("q", "orders", "celery.pidbox", "celeryev"):
        here.topology.give_up(exchange, denied)
    assert here.targets("q", "q") == ["queue q"]
    assert here.targets("celeryev", "worker.heartbeat") == []
    for exchange, key in (("q", "other"), ("orders", "k"), ("celery.pidbox", "")):
        with pytest.raises(AccessDenied):
            here.routes.resolve(exchange, key)


# --- gone


def test_a_topic_that_is_gone_is_made_again_on_publish(
    fake: FakeClients, here: Process, elsewhere: Process, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere.declare("q", Binding("orders", "fanout"))
    here.routes.resolve("orders", "k")
    fake.sns("delete_topic", TopicArn=arn("orders"))
    assert here.routes.topic_is_gone("orders", "k") == [TopicTarget("orders", arn("orders"))]
    assert "HAKE201 Unroutable message" in caplog.text
    assert "orders" in fake.topics.by_name


def test_a_topic_of_events_that_is_gone_is_not_made(fake: FakeClients, here: Process) -> None:
    assert here.routes.topic_is_gone("celeryev", "k") == []
    assert here.routes.topic_is_gone("celery.pidbox", "") == []
    assert fake.topics.by_name == {}


def test_a_queue_that_is_gone_is_made_again_where_it_was_declared(
    fake: FakeClients, here: Process, elsewhere: Process, caplog: pytest.LogCaptureFixture
) -> None:
    here.declare("q")
    elsewhere.routes.resolve("", "q")
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue("q").url)
    fake.clock.advance(61)
    with caplog.at_level(logging.WARNING):
        assert elsewhere.routes.queue_is_gone("q") == []
    assert "there is no such queue" in caplog.text
    assert here.routes.queue_is_gone("q") == [QueueTarget("q", fake.queues.queue("q").url)]


def test_trouble_on_the_way_is_no_verdict(fake: FakeClients, here: Process) -> None:
    fake.fail("get_queue_url", BrokerUnavailable("x"))
    with pytest.raises(BrokerUnavailable):
        here.routes.resolve("", "q")


# --- a look that fails is no verdict


@pytest.mark.parametrize("error", [BrokerUnavailable("x"), TopologyError("x"), ConfigurationError("x")])
def test_a_failed_look_for_a_queue_is_not_taken_for_no_queue(
    fake: FakeClients, here: Process, elsewhere: Process, error: Exception
) -> None:
    elsewhere.declare("q", Binding("q", "direct", "q"))
    fake.fail("get_queue_url", error)
    with pytest.raises(type(error)):
        here.routes.resolve("q", "q")
    assert [here.targets("q", "q") for _ in range(4)] == [["queue q"]] * 4
    assert "q" not in fake.topics.by_name


def test_a_producer_that_may_not_look_for_a_queue_is_told_what_it_needs(
    fake: FakeClients, here: Process, elsewhere: Process
) -> None:
    elsewhere.declare("q", Binding("q", "direct", "q"))
    fake.deny("sqs:GetQueueUrl")
    for _ in range(2):
        with pytest.raises(AccessDenied, match="direct_exchanges=topic") as caught:
            here.routes.resolve("q", "q")
        assert caught.value.action == "sqs:GetQueueUrl"
    assert "q" not in fake.topics.by_name
    fake.allow("sqs:GetQueueUrl")
    assert here.targets("q", "q") == ["queue q"]


@pytest.mark.parametrize("exchange_type", ["fanout", "topic"])
def test_an_exchange_declared_with_its_type_needs_no_look_for_a_queue(
    fake: FakeClients, here: Process, exchange_type: Any
) -> None:
    here.topology.declare_exchange("orders", exchange_type)
    fake.deny("sqs:GetQueueUrl")
    assert here.targets("orders", "orders") == ["topic orders"]


@pytest.mark.parametrize(
    "options",
    [
        {"predefined_exchanges": {"q": arn("q")}},
        {"predefined_queues": {"q": f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/q"}},
        {"direct_exchanges": "topic"},
        {"topology": "assume"},
    ],
)
def test_other_ways_need_no_look_for_a_queue(fake: FakeClients, options: dict[str, Any]) -> None:
    fake.deny("sqs:GetQueueUrl")
    assert Process(fake, **options).targets("q", "q") == ["queue q" if "predefined_queues" in options else "topic q"]


def test_a_failed_look_at_a_topic_is_not_taken_for_no_topic(
    fake: FakeClients, here: Process, elsewhere: Process
) -> None:
    elsewhere.declare("q")
    elsewhere.declare("audit", Binding("q", "fanout"))
    fake.fail("get_topic_attributes", BrokerUnavailable("x"))
    with pytest.raises(BrokerUnavailable):
        here.routes.resolve("q", "q")
    assert here.targets("q", "q") == ["topic q"]


def test_a_failed_look_for_other_queues_of_a_direct_exchange_is_no_verdict(
    fake: FakeClients, here: Process, elsewhere: Process
) -> None:
    here.declare("q", Binding("q", "direct", "q"))
    elsewhere.declare("audit", Binding("q", "direct", "q"))
    fake.fail("get_topic_attributes", BrokerUnavailable("x"))
    assert here.routes.resolve("q", "q")[1] == TopicTarget("q", arn("q"), is_needed=False)
    assert here.routes.resolve("q", "q")[1] == TopicTarget("q", arn("q"))


@pytest.mark.parametrize(("unroutable", "mandatory"), [("raise", False), ("warn", True), ("ignore", True)])
def test_a_mandatory_publish_is_not_sent_unchecked(
    fake: FakeClients, elsewhere: Process, unroutable: str, mandatory: bool
) -> None:
    elsewhere.declare("q", Binding("orders", "fanout"))
    process = Process(fake, unroutable=unroutable)
    fake.fail("get_topic_attributes", BrokerUnavailable("x"))
    with pytest.raises(BrokerUnavailable):
        process.routes.resolve("orders", "k", mandatory=mandatory)
    assert process.targets("orders", "k", mandatory=mandatory) == ["topic orders"]


def test_where_only_a_warning_is_at_stake_a_failed_look_stops_no_publish(
    fake: FakeClients, here: Process, elsewhere: Process, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere.declare("q", Binding("orders", "fanout"))
    fake.fail("get_topic_attributes", BrokerUnavailable("x"))
    assert [here.targets("orders", "k") for _ in range(3)] == [["topic orders"]] * 3
    assert not caplog.records
    assert fake.count("get_topic_attributes") == 1
    with pytest.raises(Unroutable):
        here.routes.resolve("nobody", "k", mandatory=True)


def test_events_are_published_where_listeners_cannot_be_counted(fake: FakeClients, here: Process) -> None:
    fake.fail("get_topic_attributes", BrokerUnavailable("x"))
    assert here.targets("celeryev", "worker.heartbeat") == ["topic celeryev"]
