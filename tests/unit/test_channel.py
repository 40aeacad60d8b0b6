"""A channel, through kombu's own classes: publish, consume, settle, declare."""

import json
import logging
import threading
from typing import Any

import pytest
from fakes import FakeClients, connected, eventually
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.exceptions import ChannelError, MessageStateError
from kombu.message import Message
from kombu.pidbox import Mailbox

import kombu_hake
from kombu_hake import channel as channel_module
from kombu_hake.channel import Channel
from kombu_hake.exceptions import (
    AccessDenied,
    BrokerUnavailable,
    DeclarationMismatch,
    InvalidName,
    MessageTooLarge,
    PublishFailed,
    QueueNotFound,
    TopicNotFound,
    TopologyError,
    Unroutable,
)


class Received(list[Message]):
    """What a consumer was given."""

    def take(self, connection: Connection, count: int = 1) -> list[Message]:
        start = len(self)
        while len(self) < start + count:
            connection.drain_events(timeout=10)
        return self[start:]

    def bodies(self) -> list[Any]:
        return [message.payload for message in self]


def consume(channel: Channel, queue: str = "q", **options: Any) -> Received:
    received = Received()
    channel.basic_consume(queue, callback=received.append, **options)
    return received


def publish(channel: Channel, *bodies: Any, routing_key: str = "q", **options: Any) -> None:
    for body in bodies:
        Producer(channel).publish(body, routing_key=routing_key, **options)


def in_flight(fake: FakeClients, queue: str = "q") -> list[str]:
    now = fake.clock()
    return [body_of(m.body) for m in fake.queues.queue(queue).messages if m.is_in_flight(now)]


def ready(fake: FakeClients, queue: str = "q") -> list[str]:
    return [body_of(m.body) for m in fake.queues.queue(queue).messages if m.visible_at <= fake.clock()]


def body_of(text: str) -> Any:
    envelope = json.loads(text)
    return json.loads(envelope["body"]) if envelope["content-type"] == "application/json" else envelope["body"]


# --- publish and consume


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_what_is_published_is_consumed(
    connection: Connection, channel: Channel, serializer: str, compression: str | None
) -> None:
    if serializer == "yaml":
        pytest.importorskip("yaml")
    body = {"id": 7, "name": "été"}
    channel.queue_declare("q")
    publish(channel, body, serializer=serializer, compression=compression, headers={"h": 1}, correlation_id="c")
    received: list[Any] = []
    consumer = Consumer(channel, [Queue("q")], accept=[serializer], callbacks=[lambda b, m: received.append((b, m))])
    with consumer:
        connection.drain_events(timeout=10)
    [(found, message)] = received
    assert found == body
    assert message.headers["h"] == 1
    assert message.properties["correlation_id"] == "c"


def test_an_acknowledged_message_is_deleted(fake: FakeClients, connection: Connection, channel: Channel) -> None:
    channel.queue_declare("q")
    publish(channel, "a")
    [message] = consume(channel).take(connection)
    assert in_flight(fake) == ["a"]
    message.ack()
    with pytest.raises(MessageStateError):
        message.ack()
    channel.basic_ack(message.delivery_tag)
    channel.basic_ack(999)
    eventually(lambda: not fake.queues.queue("q").messages)
    assert fake.count("delete_message_batch") == 1


def test_a_message_requeued_comes_again_at_once_as_redelivered(connection: Connection, channel: Channel) -> None:
    channel.queue_declare("q")
    publish(channel, "a")
    received = consume(channel)
    [first] = received.take(connection)
    assert first.delivery_info["redelivered"] is False
    first.requeue()
    [second] = received.take(connection)
    assert second.payload == "a"
    assert second.delivery_info["redelivered"] is True
    assert second.properties["receive_count"] == 2
    assert second.delivery_tag != first.delivery_tag


def test_a_rejected_message_is_gone_where_there_is_no_dead_letter_queue(
    fake: FakeClients, connection: Connection, channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="kombu_hake")
    channel.queue_declare("q")
    publish(channel, "a")
    [message] = consume(channel).take(connection)
    message.reject()
    eventually(lambda: not fake.queues.queue("q").messages)
    assert "no dead-letter queue" in caplog.text


def test_a_rejected_message_goes_to_the_dead_letter_queue(
    fake: FakeClients, connection: Connection, channel: Channel
) -> None:
    for name in ("q", "dead"):
        channel.queue_declare(name)
    redrive = json.dumps({"deadLetterTargetArn": fake.queues.queue("dead").arn, "maxReceiveCount": 5})
    url = fake.queues.queue("q").url
    fake.sqs("set_queue_attributes", QueueUrl=url, Attributes={"RedrivePolicy": redrive})
    publish(channel, "a")
    [message] = consume(channel).take(connection)
    message.reject()
    eventually(lambda: not fake.queues.queue("q").messages)
    assert ready(fake, "dead") == ["a"]


def test_without_acknowledgement_a_message_is_deleted_as_it_is_handed_over(
    fake: FakeClients, connection: Connection, channel: Channel
) -> None:
    channel.queue_declare("q")
    publish(channel, "a")
    [message] = consume(channel, no_ack=True).take(connection)
    eventually(lambda: not fake.queues.queue("q").messages)
    message.ack()


def test_consumers_of_one_queue_take_turns(connection: Connection, channel: Channel) -> None:
    channel.queue_declare("q")
    publish(channel, *range(6))
    received = {tag: Received() for tag in ("one", "two")}
    for tag, found in received.items():
        assert channel.basic_consume("q", consumer_tag=tag, callback=found.append) == tag
    for _ in range(6):
        connection.drain_events(timeout=10)
    assert [len(found) for found in received.values()] == [3, 3]
    assert {message.delivery_info["consumer_tag"] for message in received["two"]} == {"two"}


def test_one_consumer_of_two_may_be_cancelled(connection: Connection, channel: Channel) -> None:
    channel.queue_declare("q")
    cancelled, left = Received(), Received()
    channel.basic_consume("q", consumer_tag="one", callback=cancelled.append)
    channel.basic_consume("q", consumer_tag="two", callback=left.append)
    channel.basic_cancel("one")
    channel.basic_cancel("one")
    publish(channel, *range(4))
    left.take(connection, 4)
    assert not cancelled


def test_a_consumer_gets_a_tag_where_it_has_none(channel: Channel) -> None:
    channel.queue_declare("q")
    assert channel.basic_consume("q") != channel.basic_consume("q")


def test_a_consumer_of_a_missing_queue_is_an_error(channel: Channel) -> None:
    with pytest.raises(QueueNotFound):
        channel.basic_consume("missing", callback=print)


def test_what_a_callback_raises_comes_through_and_the_message_is_not_lost(
    fake: FakeClients, connection: Connection, channel: Channel
) -> None:
    def fail(message: Message) -> None:
        raise KeyError("x")

    channel.queue_declare("q")
    publish(channel, "a")
    channel.basic_consume("q", callback=fail)
    with pytest.raises(KeyError):
        connection.drain_events(timeout=10)
    connection.close()
    assert ready(fake) == ["a"]


@pytest.mark.parametrize("body", ["hello", '{"Records": []}', "[1]", "null", "\ufffd", "x" * 100_000])
def test_a_body_of_others_is_handed_over(
    fake: FakeClients, connection: Connection, channel: Channel, body: str
) -> None:
    channel.queue_declare("q")
    fake.sqs("send_message", QueueUrl=fake.queues.queue("q").url, MessageBody=body)
    [message] = consume(channel).take(connection)
    assert message.body == body.encode()
    assert message.decode() == (body if message.content_type == "text/plain" else json.loads(body))


# --- prefetch


def test_the_prefetch_count_limits_what_is_unsettled(
    fake: FakeClients, connection: Connection, channel: Channel
) -> None:
    channel.queue_declare("q")
    publish(channel, *range(10))
    channel.basic_qos(0, 3, False)
    received = consume(channel)
    received.take(connection, 3)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.3)
    assert len(in_flight(fake)) == 3
    for message in list(received):
        message.ack()
    received.take(connection, 3)


def test_fetching_single_messages_does_not_add_to_the_credit_of_consumers(
    fake: FakeClients, connection: Connection, channel: Channel
) -> None:
    channel.queue_declare("q")
    publish(channel, *range(9))
    channel.basic_qos(0, 2, False)
    consume(channel).take(connection, 2)
    for _ in range(3):
        fetched = channel.basic_get("q")
        assert fetched is not None
        fetched.ack()
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.3)
    assert len(in_flight(fake)) == 2


def test_a_prefetch_count_set_later_counts_what_is_handed_over_later(connection: Connection, channel: Channel) -> None:
    channel.queue_declare("q")
    publish(channel, *range(3))
    received = consume(channel)
    early = received.take(connection, 3)
    channel.basic_qos(0, 2, False)
    publish(channel, *range(9))
    received.take(connection, 2)
    for message in early:
        message.ack()
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.3)


# --- cancel and close


def test_what_is_buffered_at_a_cancel_is_visible_to_others_at_once(
    fake: FakeClients, connection: Connection, channel: Channel
) -> None:
    channel.queue_declare("q")
    publish(channel, *range(5))
    channel.basic_qos(0, 5, False)
    received = Received()
    channel.basic_consume("q", consumer_tag="tag", callback=received.append)
    [message] = received.take(connection)
    eventually(lambda: len(connection.transport.inbox) == 4)
    channel.basic_cancel("tag")
    eventually(lambda: len(ready(fake)) == 4)
    message.ack()
    eventually(lambda: len(fake.queues.queue("q").messages) == 4)


def test_a_cancel_inside_a_callback_is_the_last_message(connection: Connection, channel: Channel) -> None:
    channel.queue_declare("q")
    publish(channel, *range(5))
    received: list[Message] = []

    def once(message: Message) -> None:
        received.append(message)
        channel.basic_cancel("tag")

    channel.basic_consume("q", consumer_tag="tag", callback=once)
    connection.drain_events(timeout=10)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.05)
    assert len(received) == 1


def test_a_queue_may_be_consumed_again(connection: Connection, channel: Channel) -> None:
    channel.queue_declare("q")
    for text in ("a", "b", "c"):
        received = Received()
        channel.basic_consume("q", consumer_tag="tag", callback=received.append)
        publish(channel, text)
        [message] = received.take(connection)
        assert message.payload == text
        message.ack()
        channel.basic_cancel("tag")


def test_closing_a_channel_gives_everything_back(fake: FakeClients, connection: Connection, channel: Channel) -> None:
    channel.queue_declare("q")
    publish(channel, *range(6))
    channel.basic_qos(0, 4, False)
    received = consume(channel)
    acked, *held = received.take(connection, 2)
    acked.ack()
    channel.close()
    channel.close()
    eventually(lambda: len(ready(fake)) == 5)
    assert connection.transport.channels == []
    for message in held:  # Celery may settle from a pool thread a moment later
        message.ack()
    assert connection.transport.leases.flush(5.0)
    assert len(ready(fake)) == 5


def test_recovering_gives_back_what_is_unsettled(connection: Connection, channel: Channel) -> None:
    channel.queue_declare("q")
    publish(channel, *range(3))
    channel.basic_qos(0, 3, False)
    received = consume(channel)
    received.take(connection, 3)
    channel.basic_recover(requeue=True)
    again = received.take(connection, 3)
    assert sorted(message.payload for message in again) == [0, 1, 2]


@pytest.mark.parametrize(("tag", "left"), [(2, 3), (0, 0)])
def test_several_may_be_acknowledged_at_once(
    fake: FakeClients, connection: Connection, channel: Channel, tag: int, left: int
) -> None:
    channel.queue_declare("q")
    publish(channel, *range(5))
    consume(channel).take(connection, 5)
    channel.basic_ack(tag, multiple=True)
    eventually(lambda: len(fake.queues.queue("q").messages) == left)


def test_messages_may_be_settled_from_any_thread(fake: FakeClients, connection: Connection, channel: Channel) -> None:
    channel.queue_declare("q")
    publish(channel, *range(60))
    received = consume(channel)
    threads = []
    for _ in range(6):
        batch = received.take(connection, 10)
        threads.append(threading.Thread(target=lambda batch=batch: [message.ack() for message in batch]))
        threads[-1].start()
    for thread in threads:
        thread.join()
    eventually(lambda: not fake.queues.queue("q").messages)


# --- single messages


def test_fetching_a_single_message(fake: FakeClients, channel: Channel) -> None:
    channel.queue_declare("q")
    assert channel.basic_get("q") is None
    publish(channel, "a", "b")
    first, second = channel.basic_get("q"), channel.basic_get("q", no_ack=True)
    assert first is not None
    assert second is not None
    assert {first.payload, second.payload} == {"a", "b"}
    first.ack()
    eventually(lambda: not fake.queues.queue("q").messages)


def test_kombus_simple_queue(connection: Connection) -> None:
    with connection.SimpleQueue("simple") as queue:
        queue.put({"n": 1})
        assert queue.qsize() == 1
        message = queue.get(timeout=10)
        assert message.payload == {"n": 1}
        message.ack()
        with pytest.raises(queue.Empty):
            queue.get(block=False)


# --- publishing


def test_a_message_that_reaches_nobody_raises_if_mandatory(channel: Channel) -> None:
    with pytest.raises(Unroutable) as caught:
        publish(channel, "a", routing_key="missing", mandatory=True)
    assert isinstance(caught.value, ChannelError)


def test_a_message_that_is_too_large_raises(channel: Channel) -> None:
    channel.queue_declare("q")
    with pytest.raises(MessageTooLarge):
        publish(channel, "x" * 1_048_577)


def test_publishing_with_retries_goes_on_after_a_fault(fake: FakeClients, connection: Connection) -> None:
    connection.channel().queue_declare("q")
    fake.fail("send_message", BrokerUnavailable("x"), BrokerUnavailable("x"))
    policy = {"max_retries": 5, "interval_start": 0, "interval_step": 0, "interval_max": 0}
    connection.Producer().publish("a", routing_key="q", retry=True, retry_policy=policy)
    assert ready(fake) == ["a"]


def test_a_batch_of_kombus_producer_shares_requests(fake: FakeClients, channel: Channel) -> None:
    producer = Producer(channel)
    if not hasattr(producer, "batch"):
        pytest.skip("kombu before 5.7")
    channel.queue_declare("q")
    with producer.batch():
        for number in range(25):
            producer.publish(number, routing_key="q")
    assert sorted(ready(fake)) == list(range(25))
    assert fake.count("send_message_batch") == 3
    assert fake.count("send_message") == 0


def test_a_batch_names_what_was_not_accepted(fake: FakeClients, channel: Channel) -> None:
    channel.queue_declare("q")
    fake.fail_entries(
        "send_message_batch", code="X", sender_fault=True, of=lambda entry: body_of(entry["MessageBody"]) == 1
    )
    with pytest.raises(PublishFailed) as caught, kombu_hake.batch():
        publish(channel, 0, 1, 2)
    assert len(caught.value.failed) == 1
    assert ready(fake) == [0, 2]


def test_a_mandatory_message_of_kombus_batch_that_reaches_nobody_is_named(fake: FakeClients, channel: Channel) -> None:
    producer = Producer(channel)
    if not hasattr(producer, "batch"):
        pytest.skip("kombu before 5.7")
    fake.sqs("create_queue", QueueName="q")
    producer.publish("first", routing_key="q")

    def publish_both() -> None:
        with producer.batch():
            fake.sqs("delete_queue", QueueUrl=fake.queues.queue("q").url)
            producer.publish("optional", routing_key="q")
            producer.publish("mandatory", routing_key="q", mandatory=True)

    with pytest.raises(PublishFailed) as caught:
        publish_both()
    [(published, error)] = caught.value.failed
    assert isinstance(error, Unroutable)
    assert "mandatory" in str(published.message["body"])


@pytest.mark.parametrize("known", [True, False])
def test_kombus_batch_sends_the_others_when_a_mandatory_message_reaches_nobody(
    fake: FakeClients, channel: Channel, known: bool
) -> None:
    producer = Producer(channel)
    if not hasattr(producer, "batch"):
        pytest.skip("kombu before 5.7")
    fake.sqs("create_queue", QueueName="q")
    fake.sqs("create_queue", QueueName="gone")
    if known:
        fake.sqs("delete_queue", QueueUrl=fake.queues.queue("gone").url)
    else:
        producer.publish("first", routing_key="gone")

    def publish_three() -> None:
        with producer.batch():
            producer.publish(1, routing_key="q")
            if not known:
                fake.sqs("delete_queue", QueueUrl=fake.queues.queue("gone").url)
            producer.publish(2, routing_key="gone", mandatory=True)
            producer.publish(3, routing_key="q")

    with pytest.raises(PublishFailed) as caught:
        publish_three()
    assert [type(error) for _, error in caught.value.failed] == [Unroutable]
    assert sorted(ready(fake)) == [1, 3]


# --- declaring


def test_a_queue_of_events_that_may_not_be_received_from_does_not_end_the_consumer(
    fake: FakeClients, connection: Connection, channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    fake.deny("sqs:ReceiveMessage")
    Queue("celeryev.5bd2", Exchange("celeryev", "topic"), "#")(channel).declare()
    consume(channel, "celeryev.5bd2")
    eventually(lambda: "Stopped consuming from queue celeryev.5bd2" in caplog.text)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0)


def test_a_queue_of_events_whose_exchange_was_given_up_is_best_effort_too(
    fake: FakeClients, connection: Connection, channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    fake.deny("sqs:ReceiveMessage", "sns:CreateTopic")
    Queue("celeryev.5bd2", Exchange("celeryev", "topic"), "#")(channel).declare()
    consume(channel, "celeryev.5bd2")
    eventually(lambda: "Stopped consuming from queue celeryev.5bd2" in caplog.text)


def test_a_queue_that_also_gets_other_messages_is_not_best_effort(
    fake: FakeClients, connection: Connection, channel: Channel
) -> None:
    fake.deny("sqs:ReceiveMessage")
    queue = Queue("celery.pidbox", Exchange("celeryev", "topic"), "#")(channel)
    queue.declare()
    queue.bind_to("orders", "created")
    consume(channel, "celery.pidbox")
    with pytest.raises(AccessDenied):
        connection.drain_events(timeout=10)


def test_declaring_answers_with_the_name_and_no_counts(channel: Channel) -> None:
    assert channel.queue_declare("q") == ("q", 0, 0)
    name, *_ = channel.queue_declare("")
    assert name.startswith("amq.gen-")


def test_an_exchange_that_may_be_in_use_is_not_deleted_if_unused(fake: FakeClients, channel: Channel) -> None:
    fake.sns("create_topic", Name="x")
    fake.deny("sns:GetTopicAttributes")
    with pytest.raises(DeclarationMismatch, match="cannot be read"):
        channel.exchange_delete("x", if_unused=True)
    fake.allow("sns:GetTopicAttributes")
    fake.fail("get_topic_attributes", BrokerUnavailable("x"))
    with pytest.raises(BrokerUnavailable):
        channel.exchange_delete("x", if_unused=True)
    assert "x" in fake.topics.by_name
    channel.exchange_delete("x", if_unused=True)
    assert "x" not in fake.topics.by_name


def test_an_exchange_that_may_not_be_read_is_not_taken_for_missing(fake: FakeClients, channel: Channel) -> None:
    fake.deny("sns:GetTopicAttributes")
    channel.exchange_declare("x", passive=True)


def test_a_passive_declare_counts_and_finds_out(fake: FakeClients, channel: Channel) -> None:
    channel.queue_declare("q")
    publish(channel, "a", "b")
    assert channel.queue_declare("q", passive=True) == ("q", 2, 0)
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue("q").url)
    with pytest.raises(QueueNotFound):
        channel.queue_declare("q", passive=True)


def test_kombus_queue_declares_binds_purges_and_deletes(fake: FakeClients, channel: Channel) -> None:
    queue = Queue("q", Exchange("x", "topic"), routing_key="a.#")(channel)
    queue.declare()
    for key in ("a.b", "b.a"):
        Producer(channel, Exchange("x", "topic")).publish(key, routing_key=key)
    assert ready(fake) == ["a.b"]
    assert queue.purge() == 1
    queue.unbind_from(Exchange("x"), routing_key="a.#")
    Producer(channel).publish("c", exchange="x", routing_key="a.c")
    assert ready(fake) == []
    queue.delete()
    assert fake.queues.by_name == {}
    assert queue.delete() == 0


def test_deleting_minds_what_the_caller_minds(connection: Connection, channel: Channel) -> None:
    channel.queue_declare("q")
    publish(channel, "a")
    with pytest.raises(DeclarationMismatch, match="not empty"):
        channel.queue_delete("q", if_empty=True)
    received = consume(channel)
    received.take(connection)[0].ack()
    with pytest.raises(DeclarationMismatch, match="consumers"):
        channel.queue_delete("q", if_unused=True)


def test_the_size_of_an_exchange_is_an_argument(channel: Channel) -> None:
    channel.exchange_declare("orders", "topic", arguments={"x-max-message-size": 500_000, "x-other": 1})
    assert channel.topology.sizes.declared("orders") == 500_000
    channel.exchange_declare("orders", "topic")
    assert channel.topology.sizes.declared("orders") == 500_000
    with pytest.raises(DeclarationMismatch, match="x-max-message-size of exchange 'orders' is 2000000"):
        channel.exchange_declare("orders", "topic", arguments={"x-max-message-size": 2_000_000})


def test_exchanges_have_the_types_of_amqp(channel: Channel) -> None:
    for exchange_type in ("direct", "topic", "fanout", "headers"):
        channel.exchange_declare(exchange_type, exchange_type)
    with pytest.raises(DeclarationMismatch, match="x-random"):
        channel.exchange_declare("x", "x-random")
    with pytest.raises(DeclarationMismatch):
        channel.exchange_declare("fanout", "direct")
    channel.exchange_declare("fanout", passive=True)
    with pytest.raises(TopicNotFound):
        channel.exchange_declare("missing", passive=True)
    with pytest.raises(NotImplementedError):
        channel.exchange_bind("a", "b")
    with pytest.raises(NotImplementedError):
        channel.flow(False)


def test_an_exchange_is_deleted_unless_it_is_used(fake: FakeClients, channel: Channel) -> None:
    Queue("q", Exchange("x", "fanout"))(channel).declare()
    with pytest.raises(DeclarationMismatch, match="in use"):
        channel.exchange_delete("x", if_unused=True)
    channel.exchange_delete("x")
    assert fake.topics.by_name == {}


# --- kombu's mailbox, as Celery's remote control uses it


def test_remote_control_and_its_reply(fake: FakeClients) -> None:
    mailbox = Mailbox("celery", type="fanout", accept=["json"])
    with (
        connected(fake) as server,
        Connection("hake://localhost:1", transport_options=server.transport_options) as client,
    ):
        node = mailbox(server).Node("host", channel=server.channel(), handlers={"ping": lambda state: {"ok": "pong"}})
        consumer = node.listen()
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    server.drain_events(timeout=0.05)
                except TimeoutError:
                    continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            replies = mailbox(client).multi_call("ping", timeout=5, limit=1)
        finally:
            done.set()
            thread.join()
            consumer.cancel()
    assert replies == [{"host": {"ok": "pong"}}]


def test_a_command_has_the_worker_look_for_listeners(
    fake: FakeClients, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kombu_hake.publish.listeners._AFTER_COMMAND_S", 0.0)
    events = Exchange("celeryev", "topic")

    def heartbeat() -> None:
        Producer(connection).publish("alive", exchange=events, routing_key="worker.heartbeat")

    heartbeat()
    mailbox = Mailbox("celery", type="fanout", accept=["json"])(connection)
    done = threading.Event()
    node = mailbox.Node("host", channel=connection.channel(), handlers={"heartbeat": lambda state: done.set()})
    node.listen()
    Queue("monitor", events, routing_key="#")(connection.channel()).declare()
    heartbeat()
    assert not fake.queues.queue("monitor").messages
    mailbox.abcast("heartbeat")
    while not done.is_set():
        connection.drain_events(timeout=10)
    heartbeat()
    assert len(fake.queues.queue("monitor").messages) == 1


def test_a_reply_to_somebody_who_left_does_not_stop_the_node(fake: FakeClients, connection: Connection) -> None:
    mailbox = Mailbox("celery", type="fanout")
    node = mailbox(connection).Node("host", channel=connection.channel())
    node.reply({"ok": 1}, "reply.celery.pidbox", "5bd2", "ticket")
    assert fake.count("send_message") == 0


def test_a_consumer_tag_that_is_used_again_names_the_new_consumer(connection: Connection, channel: Channel) -> None:
    old: list[Message] = []
    new: list[Message] = []
    for queue in ("q", "other"):
        channel.queue_declare(queue)
    channel.basic_consume("q", callback=old.append, consumer_tag="mine")
    channel.basic_consume("other", callback=new.append, consumer_tag="mine")
    Producer(connection).publish("a", routing_key="q")
    Producer(connection).publish("b", routing_key="other")
    connection.drain_events(timeout=10)
    assert [message.payload for message in new] == ["b"]
    assert not old
    assert [vital.name for vital in channel._receiver.vitals()] == ["the poller of queue other"]


def test_a_consumer_that_cannot_be_polled_for_is_none(
    connection: Connection, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[Message] = []
    channel.queue_declare("q")

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="no thread"):
            channel.basic_consume("q", callback=received.append)
    channel.basic_consume("q", callback=received.append)
    Producer(connection).publish("a", routing_key="q")
    connection.drain_events(timeout=10)
    assert len(received) == 1


@pytest.mark.parametrize("error", [AccessDenied("sqs:ListQueueTags"), BrokerUnavailable("away"), KeyboardInterrupt()])
@pytest.mark.parametrize(("step", "how"), [("admit", "consume"), ("to_message", "consume"), ("admit", "get")])
def test_a_message_that_cannot_be_handed_over_is_held_by_nobody(
    fake: FakeClients,
    connection: Connection,
    channel: Channel,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    how: str,
    error: BaseException,
) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise error

    if step == "admit":
        monkeypatch.setattr(channel._gate, "admit", fails)
    else:
        monkeypatch.setattr(channel_module, "to_message", fails)
    channel.queue_declare("q")
    channel.basic_qos(0, 1, False)
    Producer(connection).publish("a", routing_key="q")
    if how == "consume":
        channel.basic_consume("q", callback=lambda message: None)
    with pytest.raises(type(error)):
        channel.basic_get("q") if how == "get" else connection.drain_events(timeout=10)
    channel.close()  # it may have been received again meanwhile
    eventually(lambda: not channel._leases._held)


def test_a_rejection_that_fails_leaves_the_message_to_come_again(
    connection: Connection, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel.queue_declare("q")
    Producer(connection).publish("a", routing_key="q")
    message = channel.basic_get("q")
    assert message is not None

    def fails(*args: Any, **kwargs: Any) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(channel._gate, "set_aside", fails)
    with pytest.raises(ZeroDivisionError):
        message.reject()
    assert not channel._leases._held


@pytest.mark.parametrize("name", [5, ["q"], {"q": 1}, b"q", True])
def test_a_name_that_is_not_text_is_refused_as_a_channel_error(channel: Channel, name: Any) -> None:
    channel.queue_declare("q")
    for call in (
        lambda: channel.queue_declare(name),
        lambda: channel.queue_declare(name, passive=True),
        lambda: channel.exchange_declare(name),
        lambda: channel.queue_bind(name, "x", "k"),
        lambda: channel.queue_bind("q", name, "k"),
        lambda: channel.queue_unbind(name, "x", "k"),
        lambda: channel.queue_delete(name),
        lambda: channel.queue_purge(name),
        lambda: channel.exchange_delete(name),
    ):
        with pytest.raises(InvalidName, match="must be text"):
            call()
    with pytest.raises(TopologyError, match="text as routing key"):
        channel.queue_bind("q", "x", name)
