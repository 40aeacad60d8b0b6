"""Topics of more than 256 KiB: whom they are raised by, how large a message may be, and what an error says."""

import json
import logging
import pickle
import random
from typing import Any
from unittest import mock

import publishing
import pytest
from fakes import ACCOUNT, REGION, FakeClients
from hypothesis import given
from hypothesis import strategies as st

from kombu_hake.amqp.bindings import Binding
from kombu_hake.amqp.limits import SNS_MAX_MESSAGE_BYTES
from kombu_hake.amqp.naming import QueueArn, TopicArn
from kombu_hake.exceptions import (
    BrokerUnavailable,
    DeclarationMismatch,
    MessageTooLarge,
    PublishFailed,
    TopologyError,
)
from kombu_hake.publish.batching import batch
from kombu_hake.topology.sizes import checked_size, raised
from kombu_hake.topology.spec import QueueSpec

MIB = 1_048_576
LARGE = b"x" * 300_000
ARN = TopicArn(f"arn:aws:sns:{REGION}:{ACCOUNT}:orders")
FANOUT = Binding("orders", "fanout")


class Process(publishing.Process):
    """A process whose messages go to the exchange ``orders``."""

    def __init__(self, fake: FakeClients, **options: Any) -> None:
        super().__init__(fake, unroutable="ignore", **options)

    def declare(self, size: int | None = None, queue: str = "q", exchange: str = "orders", **arguments: Any) -> None:
        self.topology.declare_queue(QueueSpec(queue, arguments=arguments))
        self.topology.declare_exchange(exchange, "fanout", size)
        self.topology.bind(queue, Binding(exchange, "fanout"))

    def publish(self, body: bytes | str = LARGE, exchange: str = "orders", routing_key: str = "k") -> None:
        super().publish(exchange, routing_key, body)


@pytest.fixture
def here(fake: FakeClients) -> Process:
    return Process(fake)


@pytest.fixture
def elsewhere(fake: FakeClients) -> Process:
    return Process(fake)


def size(fake: FakeClients, topic: str = "orders") -> str | None:
    return fake.topics.by_name[topic].attributes.get("MaximumMessageSize")


def set_size(fake: FakeClients, size: int) -> None:
    """As an operator does."""
    fake.topics.set_topic_attributes(ARN, "MaximumMessageSize", str(size))


def lengths(fake: FakeClients, queue: str = "q") -> list[int]:
    return [len(json.loads(text)["body"]) for text in fake.queues.queue(queue).bodies()]


def subscribe(fake: FakeClients, count: int) -> None:
    for number in range(count):
        fake.topics.subscribe(ARN, "sqs", f"arn:aws:sqs:{REGION}:{ACCOUNT}:other{number}")


# --- pure


@given(declared=st.none() | st.integers(262_144, MIB), shown=st.integers(1_024, MIB))
def test_a_topic_is_only_ever_raised_to_what_was_declared(declared: int | None, shown: int) -> None:
    wanted = raised(declared, shown)
    assert wanted is None or shown < wanted == declared
    assert declared is None or max(shown, wanted or 0) >= declared


@pytest.mark.parametrize("value", [0, -1, 262_143, MIB + 1, True, 300_000.0, "300000", "x" * 1_000, [], float("nan")])
def test_a_size_that_no_topic_can_have_is_refused(value: object) -> None:
    with pytest.raises(DeclarationMismatch, match=r"x-max-message-size of exchange 'orders' .* from 262144 to 1048576"):
        checked_size("orders", value)


# --- raising


def test_a_binding_raises_the_topic_to_the_declared_size(fake: FakeClients, here: Process) -> None:
    here.declare(500_000)
    assert size(fake) == "500000"


def test_without_a_size_the_topic_is_not_asked_about(fake: FakeClients, here: Process) -> None:
    here.declare()
    here.publish(b"small")
    assert fake.count("get_topic_attributes", "set_topic_attributes") == 0


def test_the_default_size_changes_nothing(fake: FakeClients, here: Process) -> None:
    here.declare(SNS_MAX_MESSAGE_BYTES)
    assert fake.count("set_topic_attributes") == 0


def test_of_two_processes_the_larger_size_holds(fake: FakeClients, here: Process, elsewhere: Process) -> None:
    for process, declared in ((here, 400_000), (elsewhere, 800_000), (Process(fake), 400_000), (Process(fake), MIB)):
        process.declare(declared)
    fake.clock.advance(60)
    here.publish(b"x" * 900_000)
    assert size(fake) == str(MIB)
    assert fake.count("set_topic_attributes") == 3  # the third process left it alone


def test_what_an_operator_has_raised_stays(fake: FakeClients, here: Process, elsewhere: Process) -> None:
    elsewhere.declare()
    set_size(fake, MIB)
    here.declare(400_000)
    assert size(fake) == str(MIB)


def test_topics_of_remote_control_and_events_are_never_raised(fake: FakeClients, here: Process) -> None:
    here.declare(MIB, "q1", "celery.pidbox")
    here.declare(MIB, "q2", "celeryev")
    assert fake.count("set_topic_attributes") == 0


def test_a_predefined_topic_is_never_raised(fake: FakeClients, elsewhere: Process) -> None:
    elsewhere.declare()
    here = Process(fake, predefined_exchanges={"orders": ARN})
    here.declare(MIB)
    with pytest.raises(MessageTooLarge, match=f"aws sns set-topic-attributes --topic-arn {ARN} "):
        here.publish()
    assert fake.count("set_topic_attributes") == 0


@pytest.mark.parametrize("topology", ["verify", "assume"])
def test_a_topic_that_infrastructure_code_made_is_never_raised(
    fake: FakeClients, elsewhere: Process, topology: str
) -> None:
    elsewhere.declare()
    here = Process(fake, topology=topology, account_id=ACCOUNT)
    here.declare(MIB)
    with pytest.raises(MessageTooLarge, match="set-topic-attributes"):
        here.publish()
    assert fake.count("set_topic_attributes") == 0
    set_size(fake, MIB)
    fake.clock.advance(60)
    here.publish()
    assert lengths(fake) == [300_000]


def test_with_assume_a_declared_size_is_taken_as_made(fake: FakeClients, elsewhere: Process) -> None:
    elsewhere.declare()
    set_size(fake, MIB)
    here = Process(fake, topology="assume", account_id=ACCOUNT)
    here.declare(MIB)
    here.publish()
    assert lengths(fake) == [300_000]
    assert fake.count("get_topic_attributes") == 0


def test_a_publisher_creates_the_topic_with_its_size(fake: FakeClients, here: Process) -> None:
    here.topology.declare_exchange("orders", "fanout", MIB)
    here.publish()
    assert size(fake) == str(MIB)


def test_a_topic_that_is_created_again_is_raised_again(fake: FakeClients, here: Process) -> None:
    here.declare(MIB)
    here.publish()
    fake.topics.delete_topic(ARN)
    here.publish()
    assert size(fake) == str(MIB)


def test_a_publisher_raises_what_another_process_created_again(
    fake: FakeClients, here: Process, elsewhere: Process
) -> None:
    here.declare(MIB)
    here.publish()
    fake.topics.delete_topic(ARN)
    elsewhere.declare()  # without a size
    fake.clock.advance(60)
    with pytest.raises(BrokerUnavailable, match="yet"):  # kombu publishes again
        here.publish()
    here.publish()
    assert lengths(fake) == [300_000] * 2


def test_one_that_may_not_raise_it_says_so_and_goes_on(
    fake: FakeClients, here: Process, caplog: pytest.LogCaptureFixture
) -> None:
    fake.deny("sns:SetTopicAttributes")
    here.declare(MIB)
    here.publish(b"small")
    with pytest.raises(MessageTooLarge, match=r"cannot be raised: AWS denies sns:SetTopicAttributes"):
        here.publish()
    assert [record.getMessage()[:7] for record in caplog.records if record.levelno >= logging.WARNING] == ["HAKE321"]


def test_a_topic_with_more_than_100_subscriptions_is_not_raised(
    fake: FakeClients, here: Process, elsewhere: Process, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere.declare()
    subscribe(fake, 100)
    here.declare(MIB)
    assert "HAKE321" in caplog.text
    with pytest.raises(MessageTooLarge, match="it has 101 subscriptions, and AWS allows a raised topic 100"):
        here.publish()


def test_a_raised_topic_with_more_than_100_subscriptions_is_warned_of(
    fake: FakeClients, here: Process, caplog: pytest.LogCaptureFixture
) -> None:
    """AWS documents that it refuses the 101st, and has been seen to accept it."""
    here.declare(MIB)
    subscribe(fake, 99)
    caplog.clear()
    with mock.patch("fake_sns.MOST_OF_LARGE", 1_000):
        subscribe(fake, 101)
    Process(fake).declare(MIB)
    assert "HAKE323" in caplog.text


def test_the_101st_subscription_is_refused_with_the_reason(fake: FakeClients, here: Process) -> None:
    here.declare(MIB)
    subscribe(fake, 99)
    with pytest.raises(TopologyError) as caught:
        Process(fake).declare(None, "one-more")
    text = str(caught.value)
    assert "Queue 'one-more' cannot be subscribed to the topic of exchange 'orders'" in text
    assert "100 subscriptions, and this one, with 1048576 bytes, has 100" in text
    assert all(remedy in text for remedy in ("Unsubscribe", "second exchange", "compress_above", "large_messages"))


def test_another_refusal_of_a_subscription_is_told_as_it_is(fake: FakeClients, here: Process) -> None:
    fake.fail("subscribe", TopologyError("no such protocol"))
    with pytest.raises(TopologyError, match=r"\Ano such protocol"):
        here.declare()


# --- limits


def test_the_limit_is_read_once(fake: FakeClients, here: Process, elsewhere: Process) -> None:
    elsewhere.declare(MIB)
    before = fake.count("get_topic_attributes")
    for _ in range(3):
        here.publish()
    assert fake.count("get_topic_attributes") - before == 1
    assert lengths(fake) == [300_000] * 3


def test_a_limit_that_is_too_low_is_read_again_after_a_minute(fake: FakeClients, here: Process) -> None:
    here.declare()
    for _ in range(3):
        with pytest.raises(MessageTooLarge):
            here.publish()
    assert fake.count("get_topic_attributes") == 1
    set_size(fake, MIB)
    fake.clock.advance(60)
    here.publish()
    assert fake.count("get_topic_attributes") == 2


def test_a_topic_that_was_lowered_is_noticed_when_aws_refuses(fake: FakeClients, here: Process) -> None:
    here.declare()
    set_size(fake, MIB)
    here.publish()
    set_size(fake, 262_144)
    with pytest.raises(MessageTooLarge, match="over the 262,144 bytes that its topic takes"):
        here.publish()
    assert lengths(fake) == [300_000]


def test_a_topic_below_the_default_limit_is_noticed_too(fake: FakeClients, here: Process) -> None:
    here.declare()
    set_size(fake, 10_000)
    with pytest.raises(MessageTooLarge, match="over the 10,000 bytes that its topic takes") as caught:
        here.publish(b"x" * 20_000)
    assert caught.value.limit_bytes == 10_000


def test_a_size_that_does_not_act_yet_is_a_passing_fault(fake: FakeClients, here: Process) -> None:
    """kombu publishes again."""
    here.declare(MIB)
    fake.fail("publish", MessageTooLarge("AWS refused it"))
    with pytest.raises(BrokerUnavailable, match="yet"):
        here.publish()
    here.publish()
    fake.clock.advance(60)
    fake.fail("publish", MessageTooLarge("AWS refused it"))
    with pytest.raises(MessageTooLarge, match="AWS refused it"):
        here.publish()


def test_where_the_limit_may_not_be_read_the_error_says_so(fake: FakeClients, here: Process) -> None:
    here.declare()
    fake.deny("sns:GetTopicAttributes")
    with pytest.raises(MessageTooLarge, match=r"bytes that its topic takes \(sns:GetTopicAttributes is denied\)"):
        here.publish()


def test_one_that_may_only_publish_relies_on_the_declared_size(
    fake: FakeClients, here: Process, elsewhere: Process
) -> None:
    elsewhere.declare(MIB)
    fake.deny("sns:GetTopicAttributes", "sns:SetTopicAttributes")
    here.topology.declare_exchange("orders", "fanout", MIB)
    here.publish()
    assert lengths(fake) == [300_000]
    with pytest.raises(MessageTooLarge, match="over the 1,048,576"):
        here.publish(b"x" * MIB)


def test_while_aws_does_not_answer_nothing_is_said_about_sizes(fake: FakeClients, here: Process) -> None:
    here.declare()
    fake.fail("get_topic_attributes", BrokerUnavailable("no route"))
    with pytest.raises(BrokerUnavailable):
        here.publish()


def test_a_topic_that_nobody_needs_does_not_stop_a_large_task(fake: FakeClients, here: Process) -> None:
    """A direct exchange with the name of its queue may have a topic or not."""
    here.topology.declare_queue(QueueSpec("q"))
    here.topology.declare_exchange("q", "direct")
    here.publish(exchange="q", routing_key="q")
    assert lengths(fake) == [300_000]
    assert "q" not in fake.topics.by_name


# --- batches


def batches(fake: FakeClients) -> list[int]:
    """Messages in each request."""
    return [
        len(params["PublishBatchRequestEntries"]) if operation == "publish_batch" else 1
        for operation, params in fake.calls
        if operation in ("publish", "publish_batch")
    ]


def test_a_batch_request_is_as_large_as_the_topic_allows(fake: FakeClients, here: Process) -> None:
    here.declare(MIB)
    with batch(in_flight=1):
        for _ in range(20):
            here.publish(b"x" * 100_000)
    assert batches(fake) == [10, 10]
    assert lengths(fake) == [100_000] * 20


def test_a_batch_of_large_messages_fits(fake: FakeClients, here: Process) -> None:
    here.declare(MIB)
    with batch(in_flight=1):
        for _ in range(5):
            here.publish()
    assert batches(fake) == [3, 2]


def test_a_batch_to_a_topic_that_was_lowered_is_sent_one_by_one(fake: FakeClients, here: Process) -> None:
    here.declare()
    set_size(fake, MIB)
    here.publish()
    set_size(fake, 262_144)

    def publish() -> None:
        with batch(in_flight=1):
            here.publish()
            for _ in range(5):
                here.publish(b"x" * 100_000)

    with pytest.raises(PublishFailed) as caught:
        publish()
    [(_, error)] = caught.value.failed
    assert "over the 262,144 bytes" in str(error)
    assert lengths(fake) == [300_000] + [100_000] * 5
    before = len(batches(fake))
    with batch(in_flight=1):
        for _ in range(5):
            here.publish(b"x" * 100_000)
    assert batches(fake)[before:] == [2, 2, 1]


def test_batches_of_small_messages_notice_a_lowered_topic(fake: FakeClients, here: Process) -> None:
    here.declare()
    set_size(fake, MIB)
    here.publish()
    set_size(fake, 262_144)
    for _ in range(2):
        with batch(in_flight=1):
            for _ in range(5):
                here.publish(b"x" * 100_000)
    assert batches(fake) == [1, 5, 1, 1, 1, 1, 1, 2, 2, 1]
    assert lengths(fake) == [300_000] + [100_000] * 10


# --- queues


def make_old(fake: FakeClients, name: str = "q", limit: int = 262_144) -> None:
    fake.queues.create_queue(name, {"MaximumMessageSize": str(limit)})


def queue_size(fake: FakeClients, name: str = "q") -> str:
    return fake.queues.queue(name).attributes["MaximumMessageSize"]


def test_a_queue_with_the_old_default_is_raised_with_its_topic(fake: FakeClients, here: Process) -> None:
    make_old(fake)
    here.declare(MIB)
    assert queue_size(fake) == str(MIB)
    here.publish(exchange="", routing_key="q")
    assert lengths(fake) == [300_000]


def test_a_queue_is_left_alone_without_a_declared_size(fake: FakeClients, here: Process) -> None:
    make_old(fake)
    here.declare()
    assert queue_size(fake) == "262144"


@pytest.mark.parametrize(
    ("limit", "options", "denied"),
    [
        (100_000, {}, False),
        (262_144, {"queue_attributes": {"MaximumMessageSize": 262_144}}, False),
        (262_144, {}, True),
    ],
    ids=["of an operator", "of the options", "denied"],
)
def test_any_other_limit_of_a_queue_is_warned_of(
    fake: FakeClients, caplog: pytest.LogCaptureFixture, limit: int, options: dict[str, Any], denied: bool
) -> None:
    make_old(fake, limit=limit)
    Process(fake).declare()
    if denied:
        fake.deny("sqs:SetQueueAttributes")
    here = Process(fake, **options)
    here.declare(MIB)
    here.declare(MIB)
    assert queue_size(fake) == str(limit)
    assert caplog.text.count("HAKE322") == 1


@pytest.mark.parametrize("in_batch", [False, True])
def test_a_queue_with_a_lower_limit_is_named_in_the_error(fake: FakeClients, here: Process, in_batch: bool) -> None:
    make_old(fake)
    here.topology.declare_queue(QueueSpec("q"))

    def publish() -> None:
        if not in_batch:
            here.publish(exchange="", routing_key="q")
        else:
            with batch():
                here.publish(exchange="", routing_key="q")
                here.publish(b"small", exchange="", routing_key="q")

    with pytest.raises((MessageTooLarge, PublishFailed)) as caught:
        publish()
    error = caught.value.failed[0][1] if isinstance(caught.value, PublishFailed) else caught.value
    assert isinstance(error, MessageTooLarge)
    assert error.limit_bytes == 262_144
    assert error.size_bytes > 300_000
    assert "queue 'q' is over the 262,144 bytes that the queue takes. Raise the queue" in str(error)
    assert lengths(fake) == ([5] if in_batch else [])


# --- the error


def test_the_error_names_three_remedies_and_the_first_two_work(fake: FakeClients, here: Process) -> None:
    here.declare()
    with pytest.raises(MessageTooLarge) as caught:
        here.publish()
    text = str(caught.value)
    assert "Topic('orders', max_size=1048576)" in text
    assert "Exchange('orders', arguments={'x-max-message-size': 1048576})" in text
    assert "broker_transport_options = {'compress_above': 65536}" in text
    assert "broker_transport_options = {'large_messages': 's3://bucket/prefix'}" in text
    assert pickle.loads(pickle.dumps(caught.value)).limit_bytes == 262_144
    Process(fake, compress_above=65_536).publish()
    assert lengths(fake) == [pytest.approx(500, abs=300)]
    Process(fake).declare(MIB)
    Process(fake).publish()
    assert lengths(fake)[1:] == [300_000]


def test_what_was_tried_is_no_remedy(fake: FakeClients) -> None:
    here = Process(fake, compress_above=65_536)
    here.declare(MIB)
    with pytest.raises(MessageTooLarge) as caught:
        here.publish(random.Random(1).randbytes(MIB))
    text = str(caught.value)
    assert "AWS takes no message of more than 1 MiB" in text
    assert "large_messages" in text
    assert "compress_above" not in text
    assert "max_size" not in text


def test_a_subscription_arn_is_needed_by_no_limit(fake: FakeClients, here: Process) -> None:
    """Deliveries of SNS ignore the limit of a queue."""
    make_old(fake, limit=1_024)
    here.declare(MIB)
    here.publish()
    assert lengths(fake) == [300_000]
    assert here.topology.queues.arn(here.topology.queues.url("q")) == QueueArn(f"arn:aws:sqs:{REGION}:{ACCOUNT}:q")
