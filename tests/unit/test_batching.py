"""Batches: what becomes of them in a forked child, and where there are no threads to be had."""

import threading
from collections.abc import Iterator

import pytest
from fakes import FakeClients, Gate, connected, eventually
from kombu import Connection
from test_forksafe import in_child, unlock

import kombu_hake
from kombu_hake.amqp.limits import SQS_MAX_BATCH_BYTES
from kombu_hake.publish import batching as batching_module
from kombu_hake.publish.batching import current_batch

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture
def connection(fake: FakeClients) -> Iterator[Connection]:
    with connected(fake) as made:
        made.channel().queue_declare("q")
        yield made


def stored(fake: FakeClients) -> int:
    return len(fake.queues.queue("q").messages)


def test_a_child_that_is_forked_inside_a_batch_publishes_by_itself(fake: FakeClients, connection: Connection) -> None:
    producer = connection.Producer()

    def publish() -> None:
        unlock(fake)
        before = stored(fake)
        assert current_batch() is None
        producer.publish({}, routing_key="q")
        assert stored(fake) == before + 1

    with kombu_hake.batch():
        for _ in range(15):  # ten are on their way, five are gathered
            producer.publish({}, routing_key="q")
        in_child(publish)
    assert stored(fake) == 15


def test_a_child_that_leaves_the_parents_batch_sends_nothing_of_it(fake: FakeClients, connection: Connection) -> None:
    producer = connection.Producer()
    with kombu_hake.batch() as gathering:
        for _ in range(15):
            producer.publish({}, routing_key="q")
        gathering.flush()
        producer.publish({}, routing_key="q")

        def leave() -> None:
            unlock(fake)
            gathering.flush()
            gathering.close()
            assert stored(fake) == 15
            with kombu_hake.batch():
                producer.publish({}, routing_key="q")
            assert stored(fake) == 16

        in_child(leave)
    assert stored(fake) == 16


@pytest.mark.parametrize("limit", ["messages", "bytes"])
def test_a_publisher_that_is_faster_than_aws_waits_until_half_of_the_room_is_free(
    fake: FakeClients, connection: Connection, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    producer, gates, collected = connection.Producer(), [Gate() for _ in range(3)], []
    with kombu_hake.batch() as measuring:
        producer.publish({}, routing_key="q")
        size_bytes = measuring._outstanding_bytes
    monkeypatch.setattr(batching_module, "MAX_OUTSTANDING", 40 if limit == "messages" else 1_000)
    monkeypatch.setattr(batching_module, "MAX_OUTSTANDING_BYTES", size_bytes * (1_000 if limit == "messages" else 40))
    fake.before("send_message_batch", *gates)

    def publish() -> None:
        with kombu_hake.batch(in_flight=1):
            for number in range(41):
                producer.publish({}, routing_key="q")
                collected.append(number)

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    assert gates[0].reached.wait(10.0)
    eventually(lambda: len(collected) == 40)
    gates[0].open()
    assert gates[1].reached.wait(10.0)
    assert len(collected) == 40
    gates[1].open()
    eventually(lambda: len(collected) == 41)
    gates[2].open()
    thread.join(10.0)
    assert not thread.is_alive()
    assert stored(fake) == 42


class Interrupted(BaseException):
    """As of Celery's time limit, or of Ctrl-C."""


def test_a_batch_is_no_larger_than_aws_takes(fake: FakeClients, connection: Connection) -> None:
    producer = connection.Producer()
    sizes = [0.6, 0.3, 0.3, 0.1, 0.05, 0.05, 0.05, 0.05]
    with kombu_hake.batch() as gathering:
        for share in sizes:
            producer.publish("x" * int(share * SQS_MAX_BATCH_BYTES), routing_key="q")
        gathering.flush()
        assert (gathering._outstanding, gathering._outstanding_bytes) == (0, 0)
    batches = [params["Entries"] for name, params in fake.calls if name == "send_message_batch"]
    assert sorted(map(len, batches)) == [2, 6]
    assert all(sum(len(entry["MessageBody"]) for entry in entries) <= SQS_MAX_BATCH_BYTES for entries in batches)
    assert stored(fake) == len(sizes)


def test_an_interrupted_thread_goes_on_collecting(
    fake: FakeClients, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = connection.Producer()
    with kombu_hake.batch() as gathering:
        submit = gathering._submit

        def interrupt(group: object) -> None:
            monkeypatch.setattr(gathering, "_submit", submit)
            submit(group)
            raise Interrupted

        monkeypatch.setattr(gathering, "_submit", interrupt)
        for _ in range(9):
            producer.publish({}, routing_key="q")
        with pytest.raises(Interrupted):
            producer.publish({}, routing_key="q")
        producer.publish({}, routing_key="q")
        gathering.flush()
    assert stored(fake) == 11
    assert fake.count("send_message") == 0


class InterruptedList(list[object]):
    """The messages of a request, whose publisher is interrupted as soon as one more is among them."""

    def append(self, item: object) -> None:
        super().append(item)
        raise Interrupted


@pytest.mark.timeout(20)
def test_a_message_whose_publisher_is_interrupted_counts_as_collected(
    fake: FakeClients, connection: Connection
) -> None:
    producer = connection.Producer()
    with kombu_hake.batch() as gathering:
        for _ in range(9):
            producer.publish({}, routing_key="q")
        [group] = gathering._open.values()
        group.items = InterruptedList(group.items)
        with pytest.raises(Interrupted):
            producer.publish({}, routing_key="q")
        producer.publish({}, routing_key="q")
        gathering.flush()
    assert stored(fake) == 11
    assert sorted(len(params["Entries"]) for name, params in fake.calls if name == "send_message_batch") == [1, 10]


def test_without_threads_a_batch_is_sent_by_the_publisher(
    fake: FakeClients, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.12 and later start none while the interpreter ends; a machine may have run out of them."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    producer = connection.Producer()
    with kombu_hake.batch():
        for _ in range(25):
            producer.publish({}, routing_key="q")
    assert stored(fake) == 25
