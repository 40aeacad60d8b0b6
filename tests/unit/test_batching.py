"""Batches: what becomes of them in a forked child, and where there are no threads to be had."""

import threading
from collections.abc import Iterator

import pytest
from fakes import FakeClients, connected
from kombu import Connection
from test_forksafe import in_child, unlock

import kombu_hake
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
