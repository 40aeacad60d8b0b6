"""FIFO queues and topics, and queues with priority levels, on both emulators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu import Connection, Consumer, Exchange, Producer, Queue
from support.emulators import Emulator


def consume(connection: Connection, queue: Queue, count: int, on_message: Callable[[Any, Any], None]) -> None:
    handled = 0

    def callback(body: Any, message: Any) -> None:
        nonlocal handled
        handled += 1
        on_message(body, message)

    with Consumer(connection, [queue], callbacks=[callback], prefetch_count=1):
        while handled < count:
            connection.drain_events(timeout=20)


def noting(seen: list[int]) -> Callable[[Any, Any], None]:
    """A callback that notes the body and acks."""

    def on_message(body: int, message: Any) -> None:
        seen.append(body)
        message.ack()

    return on_message


def test_fifo_queue_keeps_the_order_of_a_group_over_a_requeue(aws: Emulator) -> None:
    seen: list[int] = []

    def on_message(body: int, message: Any) -> None:
        if body == 2 and not message.delivery_info["redelivered"]:
            message.requeue()
            return
        seen.append(body)
        message.ack()

    with Connection(aws.url()) as connection:
        queue = Queue("work.fifo", Exchange("work.fifo", "direct"), "work.fifo", channel=connection.default_channel)
        queue.declare()
        for number in range(5):
            Producer(connection).publish(number, exchange="", routing_key="work.fifo", MessageGroupId="one")
        consume(connection, queue, 6, on_message)
    assert seen == list(range(5))


def test_fifo_queue_takes_a_message_once_for_each_deduplication_id(aws: Emulator) -> None:
    with Connection(aws.url()) as connection:
        queue = Queue("once.fifo", channel=connection.default_channel)
        queue.declare()
        for number, name in enumerate(["a", "b", "a"]):
            Producer(connection).publish(number, exchange="", routing_key="once.fifo", MessageDeduplicationId=name)
        seen: list[int] = []
        consume(connection, queue, 2, noting(seen))
        assert seen == [0, 1]
        assert queue.get() is None


def test_fifo_topic_feeds_fifo_queues_in_order(aws: Emulator) -> None:
    with Connection(aws.url()) as connection:
        exchange = Exchange("events.fifo", "fanout")
        queues = [Queue(f"{name}.fifo", exchange, channel=connection.default_channel) for name in ("one", "two")]
        for queue in queues:
            queue.declare()
        for number in range(5):
            Producer(connection).publish(number, exchange="events.fifo", MessageGroupId="g")
        for queue in queues:
            seen: list[int] = []
            consume(connection, queue, 5, noting(seen))
            assert seen == list(range(5))


def test_higher_priorities_are_consumed_first(aws: Emulator) -> None:
    with Connection(aws.url()) as connection:
        queue = Queue("jobs", max_priority=10, channel=connection.default_channel)
        queue.declare()
        for priority in (0, 5, 10, 0, 10):
            Producer(connection).publish(priority, exchange="", routing_key="jobs", priority=priority)
        seen: list[int] = []
        consume(connection, queue, 5, noting(seen))
    assert seen == [10, 10, 5, 0, 0]


def test_queue_with_priorities_is_counted_and_purged_as_one(aws: Emulator) -> None:
    with Connection(aws.url()) as connection:
        channel = connection.default_channel
        queue = Queue("jobs", max_priority=3, channel=channel)
        queue.declare()
        for priority in range(4):
            Producer(connection).publish(priority, exchange="", routing_key="jobs", priority=priority)
        assert channel.queue_declare("jobs", passive=True).message_count == 4
        assert queue.purge() == 4
        assert queue.get() is None
        queue.delete()
    assert aws.client("sqs").list_queues(QueueNamePrefix=aws.namespace).get("QueueUrls", []) == []
