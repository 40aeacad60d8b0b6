"""Receiving and settling: ack, reject, recover, prefetch, no_ack, basic.get, several consumers, cancel."""

import time
from collections import Counter
from typing import Any

import pytest
from contract.broker import Broker, consuming, declare, get, nothing_comes, publish, wait_until
from contract.features import Can, needs
from kombu import Connection, Consumer, Exchange, Message, Queue


@pytest.fixture
def connection(broker: Broker) -> Connection:
    """With the queue ``work`` declared, and as many pollers as a busy queue gets by default."""
    connection = broker.connect(max_pollers=8)
    declare(connection, Queue("work"))
    return connection


def send(connection: Connection, *bodies: object) -> None:
    for body in bodies:
        publish(connection, body, routing_key="work")


def size(connection: Connection, queue: str = "work") -> int:
    return int(connection.default_channel.queue_declare(queue, passive=True).message_count)


class TestSettling:
    def test_acked_message_is_gone(self, broker: Broker, connection: Connection) -> None:
        send(connection, 1)
        consumer = broker.connect()
        message = get(consumer, "work")
        assert message is not None
        message.ack()
        consumer.release()
        assert broker.bodies("work") == {"work": []}

    @needs(Can.RETURNS_ON_CLOSE, Can.EXACT_COUNTS)
    def test_unsettled_message_is_back_when_the_connection_closes(self, broker: Broker, connection: Connection) -> None:
        send(connection, 1)
        consumer = broker.connect()
        assert get(consumer, "work") is not None
        assert size(connection) == 0
        consumer.release()
        (message,) = broker.drain("work")["work"]
        assert message.payload == 1
        assert message.delivery_info["redelivered"]

    @needs(Can.RETURNS_ON_CLOSE)
    def test_unsettled_message_is_back_when_the_channel_closes(self, broker: Broker, connection: Connection) -> None:
        send(connection, 1)
        channel = broker.connect().channel()
        found: list[Message] = []
        with consuming(channel, {"work": found.append}):
            wait_until(lambda: found, channel.connection.client, "the message")
        channel.close()
        broker.wait_for_open_polls(channel, "work")  # one may receive what is visible again, and gives it back
        assert broker.bodies("work") == {"work": [1]}

    def test_requeued_message_is_back_at_once(self, connection: Connection) -> None:
        send(connection, 1)
        first = get(connection, "work")
        assert first is not None
        first.requeue()
        second = get(connection, "work")
        assert second is not None
        assert second.payload == 1
        second.ack()

    @needs(Can.RECEIVE_COUNT)
    def test_receives_are_counted(self, connection: Connection) -> None:
        send(connection, 1)
        seen = []
        for _ in range(3):
            message = get(connection, "work")
            assert message is not None
            seen.append((message.properties["receive_count"], message.delivery_info["redelivered"]))
            message.requeue()
        assert seen == [(1, False), (2, True), (3, True)]

    @needs(Can.SCOPED_REQUEUE)
    @pytest.mark.parametrize("exchange_type", ["fanout", "direct", "topic"])
    def test_requeue_reaches_no_other_queue(self, broker: Broker, connection: Connection, exchange_type: str) -> None:
        exchange = Exchange("orders", exchange_type)
        declare(connection, Queue("email", exchange, "new"), Queue("stock", exchange, "new"))
        publish(connection, 1, "orders", "new")
        message = get(connection, "email")
        assert message is not None
        message.requeue()
        assert broker.bodies("email", "stock") == {"email": [1], "stock": [1]}

    def test_rejected_message_is_gone(self, broker: Broker, connection: Connection) -> None:
        send(connection, 1)
        message = get(connection, "work")
        assert message is not None
        message.reject()
        connection.release()
        assert broker.bodies("work") == {"work": []}

    def test_recover_brings_all_unsettled_back(self, broker: Broker, connection: Connection) -> None:
        send(connection, 1, 2, 3)
        channel = broker.connect().channel()
        found: list[Message] = []
        with consuming(channel, {"work": found.append}):
            wait_until(lambda: len(found) == 3, channel.connection.client, "three messages")
        found[0].ack()
        channel.basic_recover(requeue=True)
        back = broker.bodies("work")["work"]
        assert back == sorted(message.payload for message in found[1:])
        channel.close()

    @needs(Can.ACK_MULTIPLE)
    def test_ack_of_several_leaves_later_ones(self, broker: Broker, connection: Connection) -> None:
        send(connection, 1, 2, 3)
        consumer = broker.connect()
        channel = consumer.channel()
        found: list[Message] = []
        with consuming(channel, {"work": found.append}):
            wait_until(lambda: len(found) == 3, consumer, "three messages")
        found[1].ack(multiple=True)
        consumer.release()
        assert broker.bodies("work") == {"work": [found[2].payload]}

    def test_settling_twice_is_refused_and_does_no_harm(self, broker: Broker, connection: Connection) -> None:
        send(connection, 1)
        message = get(connection, "work")
        assert message is not None
        message.ack()
        with pytest.raises(message.MessageStateError):
            message.ack()
        if Can.ACK_MULTIPLE not in broker.features.lacks:
            connection.default_channel.basic_ack(message.delivery_tag)
        connection.release()
        assert broker.bodies("work") == {"work": []}

    def test_no_ack_takes_out_what_it_delivers(self, broker: Broker, connection: Connection) -> None:
        send(connection, 1, 2)
        consumer = broker.connect()
        found: list[Message] = []
        with consumer.channel() as channel, consuming(channel, {"work": found.append}, no_ack=True):
            wait_until(lambda: len(found) == 2, consumer, "two messages")
        consumer.release()
        assert broker.bodies("work") == {"work": []}


class TestBasicGet:
    def test_empty_queue_gives_none(self, connection: Connection) -> None:
        assert connection.default_channel.basic_get("work") is None

    def test_takes_one(self, broker: Broker, connection: Connection) -> None:
        send(connection, 1, 2)
        message = get(connection, "work")
        assert message is not None
        message.ack()
        assert broker.bodies("work") == {"work": [3 - message.payload]}

    def test_no_ack(self, broker: Broker, connection: Connection) -> None:
        send(connection, 1)
        message = get(connection, "work", no_ack=True)
        assert message is not None
        connection.release()
        assert broker.bodies("work") == {"work": []}

    def test_simple_queue_round_trip(self, connection: Connection) -> None:
        with connection.SimpleQueue("simple") as queue:
            queue.put({"a": [1, "ü"]})
            message = queue.get(timeout=10)
            assert message.payload == {"a": [1, "ü"]}
            message.ack()
            with pytest.raises(queue.Empty):
                queue.get(timeout=0.2)

    @needs(Can.EXACT_COUNTS)
    def test_simple_queue_counts_and_clears(self, connection: Connection) -> None:
        with connection.SimpleQueue("simple") as queue:
            queue.put(1)
            queue.put(2)
            assert queue.qsize() == 2
            assert queue.clear() == 2
            assert queue.qsize() == 0
            with pytest.raises(queue.Empty):
                queue.get_nowait()


class TestPrefetch:
    @needs(Can.EXACT_COUNTS)
    def test_no_more_than_the_count_is_unsettled(self, connection: Connection) -> None:
        send(connection, *range(6))
        channel = connection.channel()
        channel.basic_qos(0, 2, False)
        found: list[Message] = []
        with consuming(channel, {"work": found.append}):
            wait_until(lambda: len(found) == 2, connection, "two messages")
            assert nothing_comes(connection)
            found[0].ack()
            wait_until(lambda: len(found) == 3, connection, "one for the acked one")
            assert nothing_comes(connection)
            assert size(connection) == 3
            for message in found[1:]:
                message.ack()
            wait_until(lambda: len(found) == 5, connection, "two for the two acked ones")

    def test_reject_and_requeue_free_a_place_too(self, connection: Connection) -> None:
        send(connection, *range(4))
        channel = connection.channel()
        channel.basic_qos(0, 1, False)
        found: list[Message] = []
        with consuming(channel, {"work": found.append}):
            wait_until(lambda: len(found) == 1, connection, "the first message")
            found[0].reject()
            wait_until(lambda: len(found) == 2, connection, "another after the reject")
            found[1].requeue()
            wait_until(lambda: len(found) == 3, connection, "another after the requeue")

    def test_one_count_for_several_queues(self, connection: Connection) -> None:
        names = [f"q{i}" for i in range(4)]
        declare(connection, *[Queue(name) for name in names])
        for name in names:
            for i in range(3):
                publish(connection, i, routing_key=name)
        channel = connection.channel()
        channel.basic_qos(0, 2, False)
        found: list[Message] = []
        with consuming(channel, dict.fromkeys(names, found.append)):
            wait_until(lambda: len(found) == 2, connection, "two messages")
            assert nothing_comes(connection)
            acked: list[Message] = []
            while len(acked) < 12:
                for message in found[len(acked) :]:
                    message.ack()
                    acked.append(message)
                wait_until(lambda: len(found) > len(acked) or len(acked) == 12, connection, "the rest")
        assert Counter(message.delivery_info["routing_key"] for message in found) == dict.fromkeys(names, 3)

    def test_queue_that_is_added_later_gets_its_share_at_once(self, broker: Broker) -> None:
        """Also while the open long poll of an empty queue could take all that may be prefetched."""
        connection = broker.connect(wait_time_seconds=20)
        declare(connection, Queue("work"), Queue("later"))
        channel = connection.channel()
        channel.basic_qos(0, 4, False)
        found: list[Message] = []
        with consuming(channel, {"work": found.append}):
            assert nothing_comes(connection)
            with consuming(channel, {"later": found.append}):
                publish(connection, 1, routing_key="later")
                started = time.monotonic()
                wait_until(lambda: found, connection, "the message of the queue that came later")
                assert time.monotonic() - started < 5

    def test_no_limit_delivers_all(self, connection: Connection) -> None:
        send(connection, *range(25))
        found: list[Message] = []
        with connection.channel() as channel, consuming(channel, {"work": found.append}):
            wait_until(lambda: len(found) == 25, connection, "all messages")
            for message in found:
                message.ack()
        assert sorted(message.payload for message in found) == list(range(25))


class TestConsumers:
    @needs(Can.SHARED_QUEUE)
    def test_two_of_one_channel_take_turns(self, connection: Connection) -> None:
        send(connection, *range(10))
        channel = connection.channel()
        one: list[Message] = []
        two: list[Message] = []
        with (
            consuming(channel, {"work": one.append}, no_ack=True),
            consuming(channel, {"work": two.append}, no_ack=True),
        ):
            wait_until(lambda: len(one) + len(two) == 10, connection, "all messages")
        assert sorted(message.payload for message in one + two) == list(range(10))
        assert len(one) == len(two) == 5

    @needs(Can.SHARED_QUEUE)
    def test_the_other_goes_on_when_one_is_cancelled(self, connection: Connection) -> None:
        channel = connection.channel()
        one: list[Message] = []
        two: list[Message] = []
        with consuming(channel, {"work": two.append}, no_ack=True):
            with consuming(channel, {"work": one.append}, no_ack=True):
                pass
            send(connection, 1, 2)
            wait_until(lambda: len(two) == 2, connection, "both messages at the consumer that stayed")
        assert one == []

    def test_two_connections_share_a_queue(self, broker: Broker, connection: Connection) -> None:
        send(connection, *range(12))
        taken: dict[int, list[Any]] = {0: [], 1: []}
        pair = [broker.connect(), broker.connect()]
        channels = [each.channel() for each in pair]
        held: list[Message] = []
        consumers = []
        for i, channel in enumerate(channels):
            channel.basic_qos(0, 1, False)

            def take(message: Message, i: int = i) -> None:
                taken[i].append(message.payload)
                held.append(message)

            consumers.append(Consumer(channel, [Queue("work")], on_message=take, auto_declare=False))
            consumers[-1].consume()
        deadline = time.monotonic() + 20
        while len(taken[0]) + len(taken[1]) < 12 and time.monotonic() < deadline:
            before = len(held)
            for each in pair:
                # Both hold one before either acks, so neither can take all.
                nothing_comes(each, 0.2)
            for message in held[:before] or held:
                if not message.acknowledged:
                    message.ack()
        assert sorted(taken[0] + taken[1]) == list(range(12))
        assert taken[0]
        assert taken[1]
        for message in held:
            if not message.acknowledged:
                message.ack()

    def test_cancel_gives_back_what_was_not_delivered(self, broker: Broker, connection: Connection) -> None:
        send(connection, *range(5))
        found: list[Message] = []
        holder = broker.connect()
        channel = holder.channel()
        with consuming(channel, {"work": found.append}):
            wait_until(lambda: found, holder, "a message")
        broker.wait_for_open_polls(channel, "work")
        others = broker.bodies("work")["work"]
        assert sorted([*others, *(message.payload for message in found)]) == list(range(5))
        for message in found:
            message.ack()

    def test_same_queue_is_consumed_again_after_a_cancel(self, connection: Connection) -> None:
        channel = connection.channel()
        found: list[Message] = []
        for i in range(3):
            with consuming(channel, {"work": found.append}, no_ack=True):
                send(connection, i)
                wait_until(lambda: len(found) == i + 1, connection, f"message {i}")  # noqa: B023
        assert [message.payload for message in found] == [0, 1, 2]

    def test_cancelled_consumer_gets_nothing_more(self, broker: Broker, connection: Connection) -> None:
        channel = connection.channel()
        found: list[Message] = []
        with consuming(channel, {"work": found.append}, no_ack=True):
            send(connection, 1)
            wait_until(lambda: found, connection, "the message")
        send(connection, 2)
        assert nothing_comes(connection)
        assert broker.bodies("work") == {"work": [2]}

    def test_error_of_a_callback_comes_out_of_drain_events(self, connection: Connection) -> None:
        send(connection, 1)

        def fails(message: Message) -> None:
            message.ack()
            raise LookupError("of the callback")

        with (
            connection.channel() as channel,
            consuming(channel, {"work": fails}),
            pytest.raises(LookupError, match="of the callback"),
        ):
            wait_until(lambda: False, connection, "the error")

    def test_drain_events_keeps_to_its_timeout(self, connection: Connection) -> None:
        with connection.channel() as channel, consuming(channel, {"work": lambda _: None}):
            for timeout in (0.05, 0.3):
                started = time.monotonic()
                with pytest.raises(TimeoutError):
                    connection.drain_events(timeout=timeout)
                assert timeout - 0.02 <= time.monotonic() - started < timeout + 1.5

    def test_message_that_comes_while_waiting_is_delivered_soon(self, broker: Broker, connection: Connection) -> None:
        found: list[Message] = []
        with connection.channel() as channel, consuming(channel, {"work": found.append}, no_ack=True):
            assert nothing_comes(connection, 0.3)
            started = time.monotonic()
            publish(broker.connect(), 1, routing_key="work")
            wait_until(lambda: found, connection, "the message")
            assert time.monotonic() - started < 3

    def test_delivery_says_where_it_was_published(self, connection: Connection) -> None:
        declare(connection, Queue("bound", Exchange("events", "topic"), "#"))
        publish(connection, 1, "events", "order.created")
        message = get(connection, "bound", no_ack=True)
        assert message is not None
        assert (message.delivery_info["exchange"], message.delivery_info["routing_key"]) == ("events", "order.created")

    def test_consumer_tag_is_in_the_delivery(self, connection: Connection) -> None:
        send(connection, 1)
        found: list[Message] = []
        consumer = Consumer(
            connection.channel(), [Queue("work")], on_message=found.append, no_ack=True, tag_prefix="mine-"
        )
        with consumer:
            wait_until(lambda: found, connection, "the message")
        assert str(found[0].delivery_info.get("consumer_tag", "mine-")).startswith("mine-")
