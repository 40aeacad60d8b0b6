"""kombu's own patterns of asking and answering: reply_to, mailboxes, broadcasts, simple queues."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection, Consumer, Producer, Queue
from kombu.common import Broadcast
from kombu.pidbox import Mailbox
from support.emulators import Emulator

import kombu_hake  # noqa: F401 - makes the scheme known

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def client(aws: Emulator) -> Iterator[Connection]:
    with Connection(aws.url()) as connection:
        yield connection


@contextmanager
def serving(aws: Emulator, consume: Callable[[Connection], Consumer]) -> Iterator[Connection]:
    """Another process's connection, drained in a thread."""
    stop, ready = threading.Event(), threading.Event()
    with Connection(aws.url()) as connection:

        def serve() -> None:
            with consume(connection):
                ready.set()
                while not stop.is_set():
                    try:
                        connection.drain_events(timeout=0.1)
                    except TimeoutError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            assert ready.wait(20)
            yield connection
        finally:
            stop.set()
            thread.join(20)


def take(connection: Connection, consumer: Consumer, count: int) -> list[Any]:
    """What a consumer of *connection* gets."""
    seen: list[Any] = []
    consumer.register_callback(lambda body, message: (seen.append((body, message)), message.ack()))
    with consumer:
        while len(seen) < count:
            connection.drain_events(timeout=20)
    return seen


def test_answers_go_to_the_exclusive_queue_that_a_request_names(aws: Emulator, client: Connection) -> None:
    def answer(body: Any, message: Any) -> None:
        Producer(message.channel).publish(
            body * 2,
            exchange="",
            routing_key=message.properties["reply_to"],
            correlation_id=message.properties["correlation_id"],
        )
        message.ack()

    requests = Queue("requests")
    with serving(aws, lambda connection: Consumer(connection, [requests], callbacks=[answer])):
        replies = Queue(f"replies-{uuid4().hex}", exclusive=True)
        consumer = Consumer(client, [replies])
        for number in range(3):
            Producer(client).publish(
                number, exchange="", routing_key="requests", reply_to=replies.name, correlation_id=f"c{number}"
            )
        seen = take(client, consumer, 3)
    assert sorted((body, message.properties["correlation_id"]) for body, message in seen) == [
        (0, "c0"),
        (2, "c1"),
        (4, "c2"),
    ]


def test_a_mailbox_calls_one_and_all(aws: Emulator, client: Connection) -> None:
    mailbox = Mailbox("shop", type="fanout", accept=["json"])

    def node(name: str) -> Callable[[Connection], Consumer]:
        def consume(connection: Connection) -> Consumer:
            answers = {"double": lambda state, number: {name: number * 2}}
            mine = mailbox(connection).Node(name, channel=connection.channel(), handlers=answers)
            return mine.Consumer(callbacks=[mine.handle_message])

        return consume

    with serving(aws, node("a")), serving(aws, node("b")):
        bound = mailbox(client)
        assert bound.call(["b"], "double", {"number": 4}, timeout=10) == [{"b": {"b": 8}}]
        found = bound.multi_call("double", {"number": 5}, timeout=10, limit=2)
        assert sorted(name for answer in found for name in answer) == ["a", "b"]
        assert bound.cast(["a"], "double", {"number": 1}) is None
        assert bound.abcast("double", {"number": 1}) is None


def test_a_direct_mailbox_is_possible_too(aws: Emulator, client: Connection) -> None:
    mailbox = Mailbox("direct", type="direct", accept=["json"])

    def consume(connection: Connection) -> Consumer:
        node = mailbox(connection).Node("a", channel=connection.channel(), handlers={"ping": lambda state: "pong"})
        return node.Consumer(callbacks=[node.handle_message])

    with serving(aws, consume):
        assert mailbox(client).multi_call("ping", timeout=10, limit=1) == [{"a": "pong"}]


def test_each_has_its_own_copy_of_a_broadcast(aws: Emulator, client: Connection) -> None:
    got: dict[str, list[Any]] = {"a": [], "b": []}
    both = threading.Event()

    def listen(name: str) -> Callable[[Connection], Consumer]:
        def hear(body: Any, message: Any) -> None:
            got[name].append(body)
            message.ack()
            if all(len(bodies) == 3 for bodies in got.values()):
                both.set()

        return lambda connection: Consumer(connection, [Broadcast("news")], callbacks=[hear])

    with serving(aws, listen("a")), serving(aws, listen("b")):
        for number in range(3):
            Producer(client).publish(number, exchange="news", routing_key="")
        assert both.wait(20)
    assert sorted(got["a"]) == sorted(got["b"]) == [0, 1, 2]


def test_simple_queue_and_buffer(client: Connection) -> None:
    queue = client.SimpleQueue("simple")
    queue.put({"n": 1})
    message = queue.get(timeout=10)
    assert message.payload == {"n": 1}
    message.requeue()
    again = queue.get(timeout=10)
    again.ack()
    with pytest.raises(queue.Empty):
        queue.get(timeout=0.1)
    with pytest.raises(queue.Empty):
        queue.get_nowait()
    queue.close()
    with client.SimpleBuffer("buffer") as buffer:
        buffer.put("now")
        assert buffer.get(timeout=10).payload == "now"
