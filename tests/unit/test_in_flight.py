"""The number of messages in flight is asked once a minute, aside, and never blocks whoever wants to know it."""

from collections.abc import Callable

import pytest
from fakes import FakeClients, FakeClock, make_settings

from kombu_hake.amqp.naming import QueueUrl
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable
from kombu_hake.receive.deferring import InFlight


class Bench:
    """Readings whose threads run when the test says so."""

    def __init__(self) -> None:
        self.fake, self.clock = FakeClients(), FakeClock()
        self.url = QueueUrl(self.fake.sqs("create_queue", QueueName="q")["QueueUrl"])
        self.threads: list[Callable[[], None]] = []
        self.in_flight = InFlight(self.fake, clock=self.clock, start=lambda run, name: self.threads.append(run))

    def receive(self, count: int) -> None:
        for number in range(count):
            self.fake.sqs("send_message", QueueUrl=self.url, MessageBody=str(number))
        self.fake.sqs("receive_message", QueueUrl=self.url, MaxNumberOfMessages=count, VisibilityTimeout=600)

    def run(self) -> None:
        self.threads.pop()()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_nothing_is_known_before_the_first_answer_and_nobody_waits_for_it(bench: Bench) -> None:
    assert bench.in_flight.reading(bench.url) == (None, 0)
    assert bench.fake.count("get_queue_attributes") == 0
    bench.receive(3)
    bench.run()
    assert bench.in_flight.reading(bench.url) == (3, 0)


def test_it_is_asked_once_a_minute_at_most(bench: Bench) -> None:
    for _ in range(5):
        bench.in_flight.reading(bench.url)
    assert len(bench.threads) == 1
    bench.run()
    bench.clock.advance(59.9)
    bench.in_flight.reading(bench.url)
    assert not bench.threads
    bench.clock.advance(0.1)
    bench.in_flight.reading(bench.url)
    assert len(bench.threads) == 1


def test_what_is_hidden_since_the_question_is_added(bench: Bench) -> None:
    bench.in_flight.reading(bench.url)
    bench.in_flight.hid(bench.url)
    bench.fake.before("get_queue_attributes", lambda: bench.in_flight.hid(bench.url))
    bench.run()
    assert bench.in_flight.reading(bench.url) == (0, 1)


@pytest.mark.parametrize("error", [AccessDenied("no"), BrokerUnavailable("away"), ValueError("strange")])
def test_a_number_that_cannot_be_read_leaves_what_was_known(bench: Bench, error: Exception) -> None:
    bench.receive(2)
    bench.in_flight.reading(bench.url)
    bench.run()
    bench.in_flight.hid(bench.url)
    bench.clock.advance(60)
    bench.fake.fail("get_queue_attributes", error)
    bench.in_flight.reading(bench.url)
    bench.run()
    assert bench.in_flight.reading(bench.url) == (2, 1)


def test_with_assumed_topology_nothing_is_asked(bench: Bench) -> None:
    bench.fake.settings = make_settings(topology="assume")
    assert bench.in_flight.reading(bench.url) == (None, 0)
    assert not bench.threads


def test_queues_that_come_and_go_are_evicted(bench: Bench) -> None:
    for number in range(1_100):
        bench.in_flight.reading(QueueUrl(f"u{number}"))
    bench.in_flight.hid(QueueUrl("u0"))
    assert bench.in_flight.reading(QueueUrl("u0")) == (None, 0)
