"""One publish from start to end, whatever is gone or denied on the way."""

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from fakes import ACCOUNT, REGION, FakeClients
from publishing import Process
from test_forksafe import in_child

from kombu_hake.amqp.bindings import Binding
from kombu_hake.amqp.routing import message_attributes
from kombu_hake.aws import forksafe
from kombu_hake.exceptions import (
    AccessDenied,
    BrokerUnavailable,
    MessageTooLarge,
    PublishFailed,
    ReplyQueueNotFound,
    Unroutable,
)
from kombu_hake.publish import dispatch as dispatch_module
from kombu_hake.publish.batching import batch

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
KEYED = message_attributes("order.created.eu")


def bodies(fake: FakeClients, queue: str) -> list[str]:
    return [json.loads(text)["body"] for text in fake.queues.queue(queue).bodies()]


def test_a_task_to_a_queue_is_one_request(fake: FakeClients, here: Process) -> None:
    here.declare("q", Binding("q", "direct", "q"))
    for exchange in ("", "q"):
        here.publish(exchange, "q")
        fake.calls.clear()
        here.publish(exchange, "q")
        assert fake.counts() == {"send_message": 1}
    assert bodies(fake, "q") == ["hello"] * 4


def test_an_event_to_three_groups_is_one_request(fake: FakeClients, here: Process, elsewhere: Process) -> None:
    for queue in ("email", "inventory", "analytics"):
        elsewhere.declare(queue, Binding("orders", "fanout"))
    here.publish("orders", "order.created")
    fake.calls.clear()
    here.publish("orders", "order.created")
    assert fake.counts() == {"publish": 1}
    assert [len(bodies(fake, queue)) for queue in ("email", "inventory", "analytics")] == [2, 2, 2]


def test_the_routing_key_decides_though_the_producer_knows_no_type(
    fake: FakeClients, here: Process, elsewhere: Process
) -> None:
    elsewhere.declare("all", Binding("orders", "topic", "order.#"))
    elsewhere.declare("eu", Binding("orders", "topic", "order.*.eu"))
    elsewhere.declare("none", Binding("orders", "topic", "invoice.#"))
    here.publish("orders", "order.created.eu")
    assert [len(bodies(fake, queue)) for queue in ("all", "eu", "none")] == [1, 1, 0]


def test_header_values_decide_where_the_exchange_is_declared(fake: FakeClients, here: Process) -> None:
    arguments = (("region", "eu"), ("x-match", "all"))
    here.declare("eu", Binding("h", "headers", "", arguments))
    here.publish("h", "", headers={"region": "eu"})
    here.publish("h", "", headers={"region": "us"})
    assert len(bodies(fake, "eu")) == 1


def test_a_message_never_has_more_attributes_than_a_raw_delivery_takes(fake: FakeClients, here: Process) -> None:
    here.declare("q", Binding("h", "headers", "", (("x-match", "any"), ("a0", 1))))
    here.publish("h", "k", headers={f"a{number}": number for number in range(30)})
    assert fake.topics.lost == []
    assert len(bodies(fake, "q")) == 1
    publishes = [params for name, params in fake.calls if name == "publish"]
    assert all(1 <= len(params["MessageAttributes"]) <= 9 for params in publishes)


def test_messages_with_one_routing_key_have_the_attributes_of_their_own_priorities(
    fake: FakeClients, here: Process
) -> None:
    here.declare("q", Binding("orders", "topic", "#"))
    fake.calls.clear()
    for priority in (None, 5, None, 7, 5):
        here.publish("orders", "order.created.eu", priority=priority)
    found = [params["MessageAttributes"] for name, params in fake.calls if name == "publish"]
    plain = {name: {"DataType": "String", "StringValue": value} for name, value in KEYED.items()}
    of_priority = {
        priority: {**plain, "hake-priority": {"DataType": "Number", "StringValue": priority}} for priority in "57"
    }
    assert found == [plain, of_priority["5"], plain, of_priority["7"], of_priority["5"]]


def test_a_fifo_exchange_gives_each_message_its_group_and_the_attributes_of_its_key(
    fake: FakeClients, here: Process
) -> None:
    here.declare("q.fifo", Binding("orders.fifo", "topic", "#"))
    fake.calls.clear()
    for group in ("a", None, "b"):
        here.publish("orders.fifo", "order.created.eu", MessageGroupId=group)
    found = [params for name, params in fake.calls if name == "publish"]
    assert [params["MessageGroupId"] for params in found] == ["a", "default", "b"]
    assert {tuple(params["MessageAttributes"]) for params in found} == {tuple(KEYED)}
    assert len({params["MessageDeduplicationId"] for params in found}) == 3


def test_a_fifo_queue_with_priorities_keeps_the_order_and_says_so_once(
    fake: FakeClients, here: Process, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        here.declare("q.fifo", **{"x-max-priority": 9, "x-dead-letter-queue": True})
    for body, priority in ((b"1", 0), (b"2", 9), (b"3", 5)):
        here.publish("", "q.fifo", body, priority=priority)
    assert bodies(fake, "q.fifo") == ["1", "2", "3"]
    assert sorted(fake.queues.by_name) == ["q-dead.fifo", "q.fifo"]
    [record] = caplog.records
    assert "HAKE324 Ignoring the priorities of queue q.fifo" in record.getMessage()


def test_a_fifo_queue_with_priorities_gets_every_message_of_its_exchange(fake: FakeClients, here: Process) -> None:
    here.declare("q.fifo", Binding("orders.fifo", "topic", "#"), **{"x-max-priority": 9})
    for priority in (None, 0, 5, 9):
        here.publish("orders.fifo", "k", priority=priority, message_attributes={"team": "shop"})
    assert len(fake.queues.queue("q.fifo").messages) == 4


def test_what_is_kept_of_routing_keys_is_bounded(fake: FakeClients, here: Process) -> None:
    here.declare("q", Binding("orders", "topic", "#"))
    before = dispatch_module._cached_rest.cache_info().currsize
    here.publish("orders", "k" * 10_000)
    assert dispatch_module._cached_rest.cache_info().currsize == before
    assert dispatch_module._cached_rest.cache_info().maxsize


def test_each_publish_has_a_delivery_tag_of_its_own_in_a_forked_child_too(fake: FakeClients, here: Process) -> None:
    here.declare("q")
    here.publish("", "q")
    here.publish("", "q")
    tags = [json.loads(text)["properties"]["delivery_tag"] for text in fake.queues.queue("q").bodies()]
    assert len(set(tags)) == 2
    state = forksafe.rng.getstate()

    def differ() -> None:
        assert forksafe.rng.getstate() != state

    in_child(differ)


def test_an_exchange_that_nobody_declared_is_created_on_first_publish(
    fake: FakeClients, here: Process, caplog: pytest.LogCaptureFixture
) -> None:
    here.publish("orders", "k")
    assert "orders" in fake.topics.by_name
    assert "HAKE201 Unroutable message" in caplog.text
    here.declare("q", Binding("orders", "fanout"))
    here.publish("orders", "k")
    assert bodies(fake, "q") == ["hello"]


@pytest.mark.parametrize("exchange", ["", "orders"])
def test_a_mandatory_message_that_reaches_nobody_raises(fake: FakeClients, here: Process, exchange: str) -> None:
    with pytest.raises(Unroutable):
        here.publish(exchange, "k", mandatory=True)


def test_a_mandatory_message_to_a_queue_that_was_deleted_raises(
    fake: FakeClients, here: Process, elsewhere: Process
) -> None:
    elsewhere.declare("q")
    here.publish("", "q")
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue("q").url)
    with pytest.raises(Unroutable):
        here.publish("", "q", mandatory=True)


def test_a_mandatory_message_of_a_batch_to_a_queue_that_was_deleted_is_named(
    fake: FakeClients, here: Process, elsewhere: Process
) -> None:
    elsewhere.declare("q")
    here.publish("", "q")
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue("q").url)
    fake.clock.advance(61)

    def publish_four() -> None:
        with batch():
            for number in range(4):
                here.publish("", "q", b"%d" % number, mandatory=number > 1)

    with pytest.raises(PublishFailed) as caught:
        publish_four()
    assert [(published.message["body"], type(error)) for published, error in caught.value.failed] == [
        (b"2", Unroutable),
        (b"3", Unroutable),
    ]


def test_a_mandatory_message_of_a_batch_to_a_topic_that_was_deleted_is_named(
    fake: FakeClients, here: Process, elsewhere: Process
) -> None:
    elsewhere.declare("q", Binding("orders", "fanout"))
    here.publish("orders", "k")
    fake.sns("delete_topic", TopicArn=f"arn:aws:sns:{REGION}:{ACCOUNT}:orders")

    def publish_two() -> None:
        with batch():
            for number in range(2):
                here.publish("orders", "k", b"%d" % number, mandatory=True)

    with pytest.raises(PublishFailed) as caught:
        publish_two()
    assert [type(error) for _, error in caught.value.failed] == [Unroutable] * 2


@pytest.mark.parametrize("exchange", ["", "orders"])
def test_a_mandatory_message_of_a_batch_that_is_known_to_reach_nobody_raises_at_once(
    here: Process, exchange: str
) -> None:
    with batch(), pytest.raises(Unroutable):
        here.publish(exchange, "k", mandatory=True)


def test_a_queue_deleted_by_somebody_is_made_again_and_gets_the_message(fake: FakeClients, here: Process) -> None:
    here.declare("q", Binding("q", "direct", "q"))
    here.publish("", "q")
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue("q").url)
    fake.clock.advance(61)
    here.publish("q", "q", b"again")
    assert bodies(fake, "q") == ["again"]


def test_a_reply_to_a_queue_that_is_gone_is_told_apart(fake: FakeClients, here: Process, elsewhere: Process) -> None:
    queue = "5bd2.reply.celery.pidbox"
    elsewhere.declare(queue)
    here.publish("reply.celery.pidbox", "5bd2")
    elsewhere.topology.delete_queue(queue)
    for _ in range(2):
        with pytest.raises(ReplyQueueNotFound):
            here.publish("reply.celery.pidbox", "5bd2")


def test_events_that_may_not_be_published_are_given_up(fake: FakeClients, here: Process, elsewhere: Process) -> None:
    elsewhere.declare("monitor", Binding("celeryev", "topic", "#"))
    fake.deny("sns:Publish")
    for _ in range(3):
        here.publish("celeryev", "worker.heartbeat")
    assert fake.count("publish") == 1


@pytest.mark.parametrize("exchange", ["orders", "celery.pidbox"])
def test_what_somebody_asked_for_and_may_not_be_published_raises(
    fake: FakeClients, here: Process, elsewhere: Process, exchange: str
) -> None:
    elsewhere.declare("q", Binding(exchange, "fanout"))
    fake.deny("sns:Publish")
    with pytest.raises(AccessDenied):
        here.publish(exchange, "")


def test_a_message_that_is_too_large_is_not_sent(fake: FakeClients, here: Process, elsewhere: Process) -> None:
    elsewhere.declare("q", Binding("orders", "fanout"))
    with pytest.raises(MessageTooLarge, match="exchange 'orders'"):
        here.publish("orders", "k", b"x" * 262_144)
    assert fake.count("publish") == 0
    here.publish("", "q", b"x" * 262_144)
    assert len(bodies(fake, "q")) == 1


def test_nothing_is_uploaded_of_a_message_without_its_text(fake: FakeClients, here: Process) -> None:
    """Another thread declares the first place of large messages after this one found that there is none."""
    here.declare("q")
    send = here.publisher.send

    def declared_meanwhile(*args: Any) -> None:
        here.topology.stores.declare("", "s3://payloads/p")
        send(*args)

    here.publisher.send = declared_meanwhile  # type: ignore[method-assign]
    with pytest.raises(MessageTooLarge):
        here.publish("", "q", "x" * 2_000_000)
    assert fake.objects.written == []
    assert bodies(fake, "q") == []


def test_network_trouble_is_the_callers_to_retry(fake: FakeClients, here: Process) -> None:
    here.declare("q")
    fake.fail("send_message", BrokerUnavailable("x"))
    with pytest.raises(BrokerUnavailable):
        here.publish("", "q")
    here.publish("", "q")
    assert bodies(fake, "q") == ["hello"]


def test_a_priority_goes_to_its_level(fake: FakeClients, here: Process) -> None:
    here.declare("q", **{"x-max-priority": 10})
    here.publish("", "q", b"low")
    here.publish("", "q", b"urgent", priority=10)
    assert bodies(fake, "q") == ["low"]
    assert sorted(len(queue.messages) for queue in fake.queues.by_name.values()) == [0, 0, 1, 1]


def test_a_fifo_queue_bound_to_a_fifo_exchange(fake: FakeClients, here: Process) -> None:
    here.declare("q.fifo", Binding("orders.fifo", "fanout"))
    here.publish("orders.fifo", "k", MessageGroupId="customer-1", MessageDeduplicationId="order-1")
    here.publish("orders.fifo", "k", MessageGroupId="customer-1", MessageDeduplicationId="order-1")
    [stored] = fake.queues.queue("q.fifo").messages
    assert stored.group == "customer-1"


def test_exchange_and_key_arrive_as_published(fake: FakeClients, here: Process) -> None:
    here.declare("q", Binding("orders", "fanout"))
    here.publish("orders", "order.créé")
    envelope = json.loads(fake.queues.queue("q").bodies()[0])
    info = envelope["properties"]["delivery_info"]
    assert (info["exchange"], info["routing_key"]) == ("orders", "order.créé")


def test_the_region_and_account_of_a_topic_are_those_of_the_credentials(fake: FakeClients, here: Process) -> None:
    here.declare("q", Binding("orders", "fanout"))
    here.publish("orders", "k")
    [params] = [params for name, params in fake.calls if name == "publish"]
    assert params["TopicArn"] == f"arn:aws:sns:{REGION}:{ACCOUNT}:orders"


# --- events


@pytest.fixture
def _soon_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kombu_hake.publish.events._IDLE_S", 0.05)


@pytest.mark.usefixtures("_soon_idle")
def test_a_worker_sends_events_aside_and_together(fake: FakeClients, here: Process, elsewhere: Process) -> None:
    elsewhere.declare("monitor", Binding("celeryev", "topic", "#"))
    here.dispatcher.send_events_aside()
    for number in range(5):
        here.publish("celeryev", "task.sent", str(number).encode(), delivery_mode=1)
    here.dispatcher.flush_events(10)
    assert sorted(bodies(fake, "monitor")) == ["0", "1", "2", "3", "4"]


@pytest.mark.usefixtures("_soon_idle")
def test_an_event_that_cannot_be_sent_is_dropped_and_a_message_raises(
    fake: FakeClients, here: Process, elsewhere: Process, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere.declare("monitor", Binding("celeryev", "topic", "#"))
    here.dispatcher.send_events_aside()
    fake.fail("publish", BrokerUnavailable("no SNS"))
    here.publish("celeryev", "task.sent", delivery_mode=1)
    here.dispatcher.flush_events(10)
    assert bodies(fake, "monitor") == []
    assert "tasks are not affected: no SNS" in caplog.text
    fake.fail("publish", BrokerUnavailable("no SNS"))
    with pytest.raises(BrokerUnavailable):
        here.publish("celeryev", "task.sent", delivery_mode=2)


def test_a_command_makes_an_idle_worker_look_for_listeners(
    fake: FakeClients, here: Process, elsewhere: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.publish("celeryev", "worker.heartbeat", delivery_mode=1)
    elsewhere.declare("monitor", Binding("celeryev", "topic", "#"))
    here.publish("celeryev", "worker.heartbeat", delivery_mode=1)
    assert bodies(fake, "monitor") == []
    monkeypatch.setattr("kombu_hake.publish.listeners._AFTER_COMMAND_S", 0.0)
    here.dispatcher.command_came()
    here.publish("celeryev", "worker.heartbeat", delivery_mode=1)
    assert bodies(fake, "monitor") == ["hello"]


# --- delays above the retention of a queue


def publish_delayed(producer: Process, *, due_in_s: float | None = None, **properties: Any) -> None:
    """A message that asks for a delay, or a task that is due later."""
    headers = {}
    if due_in_s is not None:
        eta = datetime.now(timezone.utc) + timedelta(seconds=due_in_s)
        headers = {"task": "t", "id": "1", "eta": eta.isoformat()}
    producer.publish("", "q", headers=headers, **properties)


def kept_for(fake: FakeClients, seconds: int) -> Process:
    """A producer that neither declared the queue nor owns it; its owner has it keep messages for so long."""
    Process(fake).declare("q")
    fake.queues.queue("q").attributes["MessageRetentionPeriod"] = str(seconds)
    fake.calls.clear()
    return Process(fake)


def delays(fake: FakeClients) -> list[float]:
    return [stored.visible_at - stored.sent_at for stored in fake.queues.queue("q").messages]


@pytest.mark.parametrize(
    "how", [{"DelaySeconds": 600}, {"delay_seconds": 600}, {"due_in_s": 700}, {"due_in_s": 86_400}]
)
def test_no_message_is_delayed_for_longer_than_a_queue_of_others_keeps_it(
    fake: FakeClients, caplog: pytest.LogCaptureFixture, how: dict[str, Any]
) -> None:
    producer = kept_for(fake, 300)
    for _ in range(2):
        publish_delayed(producer, **how)
    with batch():
        publish_delayed(producer, **how)
    assert delays(fake) == [150] * 3
    assert caplog.text.count("Queue q keeps messages for 300 s") == 1
    assert fake.count("get_queue_attributes") == 1


@pytest.mark.parametrize(
    ("retention_s", "how", "expected"),
    [
        (1_200, {"DelaySeconds": 900}, 900),
        (3_600, {"due_in_s": 86_400}, 900),
        (1_200, {"due_in_s": 86_400}, 600),  # the worker defers it again, with time to spare
        (60, {"DelaySeconds": 60}, 30),
        (60, {"DelaySeconds": 59}, 59),
    ],
)
def test_a_delay_that_a_queue_has_time_for_is_kept(
    fake: FakeClients, retention_s: int, how: dict[str, Any], expected: int
) -> None:
    producer = kept_for(fake, retention_s)
    publish_delayed(producer, **how)
    assert delays(fake) == [expected]


def test_a_short_delay_asks_nothing(fake: FakeClients) -> None:
    producer = kept_for(fake, 60)
    publish_delayed(producer, DelaySeconds=30)
    publish_delayed(producer, due_in_s=20)
    assert fake.count("get_queue_attributes") == 0


def test_a_producer_that_may_not_read_the_retention_delays_as_it_is_asked_to(fake: FakeClients) -> None:
    producer = kept_for(fake, 1_209_600)
    fake.deny("sqs:GetQueueAttributes")
    publish_delayed(producer, DelaySeconds=600)
    publish_delayed(producer, due_in_s=86_400)
    assert delays(fake) == [600, 900]
    assert fake.count("get_queue_attributes") == 1


def test_while_the_retention_cannot_be_read_a_task_is_delayed_for_no_longer_than_any_queue_keeps_it(
    fake: FakeClients,
) -> None:
    producer = kept_for(fake, 1_209_600)
    fake.fail("get_queue_attributes", BrokerUnavailable("away"))
    publish_delayed(producer, due_in_s=86_400)
    publish_delayed(producer, due_in_s=86_400)
    assert delays(fake) == [30, 900]
