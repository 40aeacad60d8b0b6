"""Batches: what becomes of them in a forked child, and where there are no threads to be had."""

import threading
from collections.abc import Iterator

import pytest
from fakes import FakeClients, connected
from kombu import Connection
from test_forksafe import in_child, unlock

import kombu_hake
from kombu_hake.amqp.limits import SQS_MAX_BATCH_BYTES
from kombu_hake.publish.batching import current_batch

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture
def fake() -> FakeClients:
    return FakeClients()


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
