"""Receive path: within the credit, fair, back to SQS what is too much, and never a silent stop."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from fake_sqs import FakeQueue
from fakes import FakeClients, eventually, make_payloads, make_settings

from kombu_hake.amqp.naming import QueueUrl
from kombu_hake.aws import waits_until
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable, HakeError, QueueNotFound, QuotaExceeded
from kombu_hake.receive import receiver as receiver_module
from kombu_hake.receive import settling as settling_module
from kombu_hake.receive import trouble as trouble_module
from kombu_hake.receive.deliveries import Deliveries, How, Inbox
from kombu_hake.receive.delivery import Delivery
from kombu_hake.receive.leases import Leases
from kombu_hake.receive.receiver import Receiver
from kombu_hake.receive.trouble import Hedge

RELEASE = "change_message_visibility_batch"


class Bench:
    """A receiver on a fake AWS."""

    def __init__(self, fake: FakeClients) -> None:
        self.fake = fake
        self.inbox = Inbox()
        self.leases = Leases(fake, visibility_s=120, linger_s=0.0, clock=self._now)
        self.payloads = make_payloads(fake)
        self.deliveries = Deliveries(self.inbox, self.leases, self.payloads)
        #: Seconds that the clock of the leases is ahead, and the threads that have read it.
        self.ahead_s = 0.0
        self.clock_readers: list[str] = []
        self.on_gone: Callable[[str], QueueUrl | None] = lambda queue: None
        self.on_check: Callable[[str], None] = lambda queue: None
        self.best_effort: set[str] = set()
        self.hedge: Callable[[str], Hedge[Any]] = Hedge
        self.receiver = Receiver(
            7,
            clients=fake,
            settings=make_settings(max_pollers=4),
            inbox=self.inbox,
            deliveries=self.deliveries,
            on_gone=self._gone,
            on_check=self._check,
            is_best_effort=lambda queue: queue in self.best_effort,
            hedge=self._hedge,
        )

    def _now(self) -> float:
        self.clock_readers.append(threading.current_thread().name)
        return time.monotonic() + self.ahead_s

    def _check(self, queue: str) -> None:
        self.on_check(queue)

    def _hedge(self, queue: str) -> Hedge[Any]:
        return self.hedge(queue)

    def _gone(self, queue: str) -> QueueUrl | None:
        return self.on_gone(queue)

    def queue(self, name: str, messages: int = 0) -> FakeQueue:
        """A queue that holds messages named after it."""
        self.fake.sqs("create_queue", QueueName=name)
        queue = self.fake.queues.queue(name)
        for number in range(messages):
            self.send(queue, f"{name}{number}")
        return queue

    def send(self, queue: FakeQueue, text: str) -> None:
        self.fake.sqs("send_message", QueueUrl=queue.url, MessageBody=text)

    def pollers(self) -> int:
        """How many poll the queue ``q`` now."""
        return self.receiver._sources["q"].pollers

    def consume(self, *queues: FakeQueue, prefetch: int = 0) -> None:
        self.receiver.set_prefetch(prefetch)
        for queue in queues:
            self.receiver.add(queue.name, [(queue.name, QueueUrl(queue.url))])

    def next(self) -> Delivery:
        item = self.inbox.get(10.0)
        assert isinstance(item, Delivery), item
        return item

    def settle(self, item: Delivery) -> None:
        self.deliveries.finish(item, How.ACK)

    def in_flight(self) -> int:
        now = self.fake.clock()
        return sum(m.is_in_flight(now) for q in self.fake.queues.by_name.values() for m in q.messages)

    def is_polling(self, name: str) -> bool:
        """Whether a poll is open, and waits for a message."""
        share = self.receiver._credit._shares.get(name)
        return share is not None and share.reserved > 0

    def close(self) -> None:
        self.receiver.stop()
        self.fake.end()
        self.leases.stop(5.0)
        self.inbox.close()
        eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("hake-poll")])


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(trouble_module, "backoff_s", lambda *args, **kwargs: 0.0)
    monkeypatch.setattr(receiver_module, "backoff_s", lambda *args, **kwargs: 0.0)
    monkeypatch.setattr(settling_module, "backoff_s", lambda *args, **kwargs: 0.0)
    monkeypatch.setattr(receiver_module, "_PATIENCE_S", 0.002)
    made = Bench(FakeClients())
    yield made
    made.close()


def visible(bench: Bench, queue: FakeQueue) -> list[str]:
    return [message.body for message in queue.messages if message.visible_at <= bench.fake.clock()]


# --- receiving


def test_messages_come_with_all_that_settling_needs(bench: Bench) -> None:
    queue = bench.queue("q", messages=1)
    bench.consume(queue)
    item = bench.next()
    assert (item.channel_id, item.queue, item.source, item.message["Body"]) == (7, "q", "q", "q0")
    assert item.message["Attributes"]["ApproximateReceiveCount"] == "1"
    assert "SentTimestamp" in item.message["Attributes"]
    assert item.lease.url == queue.url
    assert queue.messages[0].visible_at == bench.fake.clock() + 120
    bench.settle(item)
    eventually(lambda: not queue.messages)


def test_nothing_starts_before_a_queue_is_added(bench: Bench) -> None:
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("hake-poll")])
    assert bench.fake.count("receive_message") == 0


def test_a_lease_counts_from_the_answer_not_from_when_it_is_worked_off(bench: Bench) -> None:
    queue = bench.queue("q", messages=1)
    asked, answer = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        assert answer.wait(10.0)

    bench.fake.before("receive_message", hold)
    bench.consume(queue)
    assert asked.wait(10.0)
    with bench.receiver._lock:  # the poller has its answer, and waits to work it off
        answer.set()
        eventually(lambda: "hake-poll-q" in bench.clock_readers)
        bench.ahead_s = 50.0
        worked_off_at = time.monotonic() + bench.ahead_s
    assert bench.next().lease.received_at < worked_off_at


def test_an_idle_queue_costs_one_long_poll_at_a_time(bench: Bench) -> None:
    bench.consume(bench.queue("q"))
    eventually(lambda: bench.fake.count("receive_message") == 1)
    for polls in (2, 3):
        bench.fake.clock.advance(20)
        eventually(lambda polls=polls: bench.fake.count("receive_message") == polls)
    assert {params["WaitTimeSeconds"] for name, params in bench.fake.calls if name == "receive_message"} == {20}


def test_a_queue_of_replies_is_polled_briefly(bench: Bench) -> None:
    queue = bench.queue("replies")
    bench.receiver.add("5bd2.reply.celery.pidbox", [("5bd2.reply.celery.pidbox", QueueUrl(queue.url))])
    eventually(lambda: bench.fake.count("receive_message") == 1)
    assert bench.fake.calls[-1][1]["WaitTimeSeconds"] == 2


def test_a_message_that_arrives_during_a_poll_is_delivered_at_once(bench: Bench) -> None:
    queue = bench.queue("q")
    bench.consume(queue)
    eventually(lambda: bench.is_polling("q"))
    bench.send(queue, "hello")
    assert bench.next().message["Body"] == "hello"


# --- credit


@pytest.mark.parametrize("prefetch", [1, 3, 10, 25])
def test_never_more_in_flight_than_the_prefetch_count(bench: Bench, prefetch: int) -> None:
    queue = bench.queue("q", messages=60)
    bench.consume(queue, prefetch=prefetch)
    done = 0
    held: list[Delivery] = []
    while done < 60:
        while len(held) < min(prefetch, 60 - done):
            held.append(bench.next())
        assert bench.in_flight() <= prefetch
        assert len(bench.inbox) == 0
        bench.settle(held.pop(0))
        done += 1
        assert bench.leases.flush(5.0)
    assert not queue.messages


def test_without_a_prefetch_count_what_is_handed_over_makes_room(bench: Bench) -> None:
    queue = bench.queue("q", messages=450)
    bench.consume(queue)
    eventually(lambda: len(bench.inbox) == 200)
    for _ in range(450):
        item = bench.next()
        assert bench.in_flight() <= 450
        bench.receiver.settled(item.source)
    assert len(visible(bench, queue)) == 0


def test_no_credit_no_polls(bench: Bench) -> None:
    bench.consume(bench.queue("q", messages=5), prefetch=2)
    first, second = bench.next(), bench.next()
    polls = bench.fake.count("receive_message")
    bench.fake.clock.advance(60)
    assert bench.fake.count("receive_message") == polls
    bench.settle(first)
    bench.settle(second)
    bench.next()


def test_a_free_place_is_filled_though_long_tasks_hold_the_others(bench: Bench) -> None:
    bench.consume(bench.queue("q", messages=6), prefetch=4)
    items = [bench.next() for _ in range(4)]
    bench.settle(items[0])
    assert bench.next().message["Body"] == "q4"


def test_settled_messages_do_not_each_become_a_request(bench: Bench) -> None:
    bench.consume(bench.queue("q", messages=200), prefetch=20)
    for _ in range(200):
        bench.settle(bench.next())
    assert bench.fake.count("receive_message") < 60


def test_an_idle_queue_is_heard_beside_a_full_one(bench: Bench) -> None:
    full, idle = bench.queue("full", messages=100), bench.queue("idle")
    bench.consume(idle, full, prefetch=4)
    bench.settle(bench.next())
    eventually(lambda: bench.is_polling("idle"))
    bench.fake.clock.advance(21)  # its poll comes back empty, and it is known as idle from then on
    bench.send(idle, "hello")
    for _ in range(90):  # before the other one is empty
        item = bench.next()
        if item.queue == "idle":
            break
        bench.settle(item)
    assert item.message["Body"] == "hello"


def test_what_comes_beyond_the_credit_goes_back_at_once(bench: Bench) -> None:
    together = threading.Barrier(3)
    bench.fake.before("receive_message", *[lambda: together.wait(10.0)] * 3)
    queues = [bench.queue(name, messages=1) for name in "abc"]
    bench.consume(*queues, prefetch=1)
    kept = bench.next()
    eventually(lambda: bench.fake.count(RELEASE) == 2)
    eventually(lambda: bench.in_flight() == 1)
    assert len(bench.inbox) == 0
    assert [queue for queue in queues if not visible(bench, queue)] == [bench.fake.queues.queue(kept.queue)]
    # Each of them is worked on in the end.
    worked = {kept.queue}
    bench.settle(kept)
    while len(worked) < 3:
        item = bench.next()
        worked.add(item.queue)
        bench.settle(item)


def test_a_busy_queue_is_polled_by_several_and_by_one_when_it_is_idle(bench: Bench) -> None:
    bench.consume(bench.queue("q", messages=300))
    most = 0
    for _ in range(300):
        item = bench.next()
        most = max(most, bench.pollers())
        bench.receiver.settled(item.source)
    assert 1 < most <= 4

    def is_calm() -> bool:
        bench.fake.clock.advance(1)
        return bench.pollers() == 1

    eventually(is_calm)


# --- the end of consuming


@pytest.mark.parametrize("end", ["remove", "stop"])
def test_what_an_open_poll_brings_after_the_end_goes_back_at_once(bench: Bench, end: str) -> None:
    queue = bench.queue("q")
    bench.consume(queue, prefetch=4)
    eventually(lambda: bench.is_polling("q"))
    if end == "stop":
        bench.receiver.stop()
    else:
        bench.receiver.remove("q")
    bench.send(queue, "hello")
    eventually(lambda: bench.fake.count(RELEASE) == 1 and visible(bench, queue) == ["hello"])
    assert queue.messages[0].receive_count == 1
    assert len(bench.inbox) == 0


@pytest.mark.parametrize("end", ["remove", "stop"])
def test_the_end_does_not_wait_for_an_open_poll(bench: Bench, end: str) -> None:
    bench.consume(bench.queue("q"))
    eventually(lambda: bench.is_polling("q"))
    if end == "stop":
        bench.receiver.stop()
    else:
        bench.receiver.remove("q")
        bench.receiver.remove("nothing")
    assert bench.receiver.vitals() == []


def test_a_queue_that_is_consumed_again_at_once_is_polled_at_once(bench: Bench) -> None:
    queue = bench.queue("q")
    bench.consume(queue, prefetch=2)
    eventually(lambda: bench.is_polling("q"))
    bench.receiver.remove("q")
    bench.consume(queue, prefetch=2)
    eventually(lambda: bench.fake.count("receive_message") == 2)
    for number in range(6):  # the old poll gives back one of them, and both old and new go on
        bench.send(queue, f"m{number}")
    for _ in range(6):
        bench.settle(bench.next())
    eventually(lambda: not queue.messages)


def test_what_is_settled_after_the_end_is_no_trouble(bench: Bench) -> None:
    bench.consume(bench.queue("q", messages=1), prefetch=1)
    item = bench.next()
    bench.receiver.remove("q")
    bench.settle(item)
    bench.receiver.settled("nobody")


# --- faults


@pytest.mark.parametrize(
    "messages",
    [[{}], [None], "text", [{"MessageId": "m", "Body": "b"}], {"a": 1}],
    ids=["empty", "null", "text", "no handle", "object"],
)
def test_an_answer_of_odd_shape_keeps_no_credit(
    bench: Bench, messages: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [messages] * 3
    genuine = bench.fake.sqs

    def sqs(operation: str, **params: Any) -> dict[str, Any]:
        if operation == "receive_message" and answers:
            return {"Messages": answers.pop()}
        return genuine(operation, **params)

    monkeypatch.setattr(bench.fake, "sqs", sqs)
    bench.consume(bench.queue("q", messages=1), prefetch=1)
    assert bench.next().message["Body"] == "q0"
    assert not answers
    assert "Unexpected error while receiving from queue q" in caplog.text


@pytest.mark.parametrize("where", ["hold", "begin", "received", "ask", "deliver"])
@pytest.mark.parametrize("error", [MemoryError(), KeyError("a bug"), RuntimeError("can't start new thread")])
def test_no_error_of_a_poller_keeps_credit_or_ends_it(
    bench: Bench, where: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name = {
        "hold": (bench.leases, "hold"),
        "begin": (bench.payloads, "begin"),
        "received": (bench.receiver._credit, "received"),
        "ask": (bench.receiver._credit, "ask"),
        "deliver": (receiver_module, "Delivery"),
    }[where]
    genuine, left = getattr(owner, name), [error] * (1 if where == "received" else 3)

    def failing(*args: Any, **kwargs: Any) -> Any:
        if left:
            raise left.pop()
        return genuine(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)
    queue = bench.queue("q")
    bench.consume(queue, prefetch=1)
    for number in range(5):
        bench.send(queue, str(number))
    eventually(lambda: not left)
    for message in queue.messages:  # what a failed poll took
        message.visible_at = 0
    for _ in range(2):
        bench.settle(bench.next())


class Fatal(BaseException):
    """Nothing catches it but the end of a thread."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_poller_that_has_died_is_replaced(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    queue = bench.queue("q")
    bench.fake.fail("receive_message", Fatal())
    bench.consume(queue, prefetch=1)
    eventually(lambda: not bench.receiver.vitals()[0].is_alive)
    bench.send(queue, "after")
    bench.receiver.look_after_pollers()
    assert bench.next().message["Body"] == "after"
    bench.receiver.look_after_pollers()
    assert caplog.text.count("has ended unexpectedly") == 1


def test_a_poller_that_cannot_be_replaced_yet_is_replaced_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = bench.queue("q", messages=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError):
            bench.consume(queue)
        bench.receiver.look_after_pollers()
    bench.receiver.look_after_pollers()
    assert bench.next().message["Body"] == "q0"


def test_a_poller_that_ended_with_a_denial_is_not_replaced(bench: Bench) -> None:
    bench.fake.fail("receive_message", AccessDenied("no"))
    bench.consume(bench.queue("q"), prefetch=1)
    assert isinstance(bench.inbox.get(10.0), AccessDenied)
    eventually(lambda: not bench.pollers())
    bench.receiver.look_after_pollers()
    assert not bench.pollers()


def test_a_lost_wake_up_is_made_good(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_module, "_LOOK_AGAIN_S", 0.02)
    queue = bench.queue("q", messages=2)
    bench.consume(queue, prefetch=1)
    first = bench.next()
    eventually(lambda: bench.receiver._sources["q"].is_hopeless)
    bench.leases.ack(first.lease)
    bench.receiver._credit.returned("q")  # and nobody is woken
    assert bench.next().message["Body"] == "q1"


@pytest.mark.parametrize("error", [BrokerUnavailable("no network"), QuotaExceeded("in flight"), KeyError("a bug")])
def test_a_fault_that_passes_is_waited_out(bench: Bench, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="kombu_hake")
    bench.fake.fail("receive_message", *[error] * 5)
    bench.consume(bench.queue("q", messages=1), prefetch=1)
    assert bench.next().message["Body"] == "q0"
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
    assert "Cannot receive from queue q" in warnings[0]
    assert "again, after 5 failures" in warnings[1]


def test_a_poll_that_is_lost_in_an_outage_does_not_hold_up_the_others(bench: Bench) -> None:
    """A black hole that closes: what was sent into it is never answered, what is sent afterwards is."""
    bench.hedge = partial(Hedge, silence_s=0.005, most=4)
    lost, lost_ones = threading.Event(), []

    def swallow() -> None:
        lost_ones.append(threading.current_thread().name)
        assert lost.wait(10.0)

    bench.fake.fail("receive_message", BrokerUnavailable("silence"))
    bench.fake.before("receive_message", lambda: None, swallow, swallow)
    queue = bench.queue("q", messages=1)
    bench.consume(queue, prefetch=5)
    bench.settle(bench.next())
    assert len(lost_ones) == 2
    # Were they answered after all, with messages, those would not be lost either.
    for number in range(4):
        bench.send(queue, f"more{number}")
    lost.set()
    assert {bench.next().message["Body"] for _ in range(4)} == {f"more{number}" for number in range(4)}
    assert bench.in_flight() <= 5


def test_polls_are_short_until_an_outage_is_over(bench: Bench) -> None:
    bench.fake.fail("receive_message", *[BrokerUnavailable("refused")] * 2)
    bench.consume(bench.queue("q"))
    eventually(lambda: bench.fake.count("receive_message") == 4)
    waits = [params["WaitTimeSeconds"] for name, params in bench.fake.calls if name == "receive_message"]
    assert waits == [20, 0, 0, 20]


def test_throttling_is_no_outage(bench: Bench) -> None:
    bench.fake.fail("receive_message", BrokerUnavailable("not so fast", is_throttle=True))
    bench.consume(bench.queue("q"))
    eventually(lambda: bench.fake.count("receive_message") == 2)
    waits = [params["WaitTimeSeconds"] for name, params in bench.fake.calls if name == "receive_message"]
    assert waits == [20, 20]


def test_a_queue_that_is_given_up_in_an_outage_is_not_tried_any_more(bench: Bench) -> None:
    bench.hedge = partial(Hedge, silence_s=0.005, most=2)
    leave, tries = threading.Event(), []

    def swallow() -> None:
        tries.append(threading.current_thread())
        assert leave.wait(10.0)

    bench.fake.fail("receive_message", BrokerUnavailable("silence"))
    bench.fake.before("receive_message", lambda: None, swallow, swallow)
    queue = bench.queue("q", messages=1)
    bench.consume(queue)
    eventually(lambda: len(tries) == 2)
    bench.receiver.remove("q")
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("hake-poll")])
    leave.set()
    eventually(lambda: visible(bench, queue) == ["q0"])
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("hake-probe")])


def test_a_denied_action_reaches_the_consuming_thread(bench: Bench) -> None:
    bench.fake.deny("sqs:ReceiveMessage")
    bench.consume(bench.queue("q"))
    error = bench.inbox.get(10.0)
    assert isinstance(error, AccessDenied)
    assert error.action == "sqs:ReceiveMessage"
    eventually(lambda: not bench.pollers())
    assert bench.fake.count("receive_message") == 1


def test_a_queue_one_can_do_without_is_given_up_with_a_warning(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.fake.deny("sqs:ReceiveMessage")
    name = "celeryev.5bd2"
    bench.best_effort.add(name)
    url = QueueUrl(bench.queue("events").url)
    bench.receiver.add(name, [(name, url)])
    eventually(lambda: "Stopped consuming" in caplog.text)
    assert len(bench.inbox) == 0


@pytest.mark.parametrize("fault", [AccessDenied("x"), BrokerUnavailable("x")])
def test_a_fault_after_the_end_bothers_nobody(bench: Bench, fault: HakeError, caplog: pytest.LogCaptureFixture) -> None:
    reached, leave = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        assert leave.wait(10.0)

    bench.fake.before("receive_message", hold)
    bench.fake.fail("receive_message", fault)
    bench.consume(bench.queue("q"))
    assert reached.wait(10.0)
    bench.receiver.stop()
    leave.set()
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("hake-poll")])
    assert len(bench.inbox) == 0
    assert not caplog.records


def test_a_queue_that_was_deleted_is_polled_where_it_was_made_again(bench: Bench) -> None:
    queue, again = bench.queue("q"), bench.queue("again", messages=1)
    asked: list[str] = []

    def make_again(name: str) -> QueueUrl:
        asked.append(name)
        return QueueUrl(again.url)

    bench.on_gone = make_again
    bench.fake.sqs("delete_queue", QueueUrl=queue.url)
    bench.consume(queue)
    item = bench.next()
    assert (item.queue, item.lease.url, asked) == ("q", again.url, ["q"])


@pytest.mark.parametrize("trouble", [None, BrokerUnavailable("x"), AccessDenied("x")])
def test_a_deleted_queue_that_nobody_makes_again_is_looked_for(bench: Bench, trouble: HakeError | None) -> None:
    queue = bench.queue("q", messages=1)

    def on_gone(name: str) -> QueueUrl | None:
        if trouble is not None:
            raise trouble
        return None

    bench.on_gone = on_gone
    bench.fake.fail("receive_message", *[QueueNotFound("gone")] * 3)
    bench.consume(queue)
    assert bench.next().message["Body"] == "q0"


@pytest.mark.parametrize("error", [None, BrokerUnavailable("x"), AccessDenied("x"), KeyError("a bug")])
def test_what_feeds_a_queue_is_looked_after_and_that_ends_no_poller(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception | None
) -> None:
    looked: list[str] = []

    def look(name: str) -> None:
        looked.append(name)
        if error is not None:
            raise error

    bench.on_check = look
    at_once = SimpleNamespace(uniform=lambda low, high: 0.0, random=lambda: 0.0)
    monkeypatch.setattr(receiver_module.forksafe, "rng", at_once)
    bench.receiver._settings = make_settings(check_bindings=1e-9)
    queue = bench.queue("q")
    bench.consume(queue, prefetch=1)
    for number in range(3):
        bench.send(queue, f"m{number}")
        item = bench.next()
        assert item.message["Body"] == f"m{number}"
        bench.settle(item)
        eventually(lambda number=number: len(looked) > number)
    assert set(looked) == {"q"}
    assert ("bindings of queue q" in caplog.text) == (error is not None)


def test_what_feeds_a_queue_is_looked_after_seldom(bench: Bench) -> None:
    looked: list[str] = []
    bench.on_check = looked.append
    bench.consume(bench.queue("q", messages=30), prefetch=1)
    for _ in range(30):
        bench.settle(bench.next())
    assert looked == []


def test_bindings_are_looked_after_once_a_queue_is_back_that_could_not_be_made_again(bench: Bench) -> None:
    looked: list[str] = []
    bench.on_check = looked.append

    def on_gone(name: str) -> QueueUrl | None:
        raise BrokerUnavailable("made, and not bound")

    bench.on_gone = on_gone
    bench.fake.fail("receive_message", QueueNotFound("gone"))
    bench.consume(bench.queue("q", messages=1), prefetch=1)
    bench.next()
    eventually(lambda: looked == ["q"])


def test_what_came_too_late_is_released_though_aws_could_not_take_it_at_once(bench: Bench) -> None:
    queue = bench.queue("q")
    bench.consume(queue)
    eventually(lambda: bench.is_polling("q"))
    bench.receiver.stop()
    bench.fake.fail(RELEASE, BrokerUnavailable("x"), BrokerUnavailable("x", is_throttle=True))
    bench.send(queue, "hello")
    eventually(lambda: bench.fake.count(RELEASE) == 3)
    eventually(lambda: visible(bench, queue) == ["hello"])


def test_a_release_that_fails_is_logged_and_not_raised(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="kombu_hake.receive.leases")
    queue = bench.queue("q")
    bench.consume(queue)
    eventually(lambda: bench.is_polling("q"))
    bench.receiver.stop()
    bench.fake.fail(RELEASE, *[BrokerUnavailable("x")] * 5)
    bench.send(queue, "hello")
    eventually(lambda: "stays hidden" in caplog.text)
    assert bench.fake.count(RELEASE) == 5


def test_open_polls_survive_the_garbage_collection_of_their_owner(bench: Bench) -> None:
    # A finalizer may run in a poller that holds the lock.
    with bench.receiver._lock:
        bench.receiver.stop()


# --- priority levels


def test_higher_levels_go_first(bench: Bench) -> None:
    low, high = bench.queue("low", messages=3), bench.queue("high", messages=3)
    bench.receiver.set_prefetch(1)
    bench.receiver.add("q", [("low", QueueUrl(low.url)), ("high", QueueUrl(high.url))])
    order: list[Any] = []
    for _ in range(6):
        item = bench.next()
        assert item.queue == "q"
        order.append(item.source)
        bench.settle(item)
    assert order == ["high"] * 3 + ["low"] * 3


def test_a_higher_level_is_heard_while_a_lower_one_is_full(bench: Bench) -> None:
    low, high = bench.queue("low", messages=50), bench.queue("high")
    bench.receiver.set_prefetch(2)
    bench.receiver.add("q", [("low", QueueUrl(low.url)), ("high", QueueUrl(high.url))])
    bench.settle(bench.next())
    bench.send(high, "urgent")
    sources = []
    for _ in range(40):  # the threads of a busy machine take turns slowly; "low" is not drained by then
        item = bench.next()
        sources.append(item.source)
        if item.source == "high":
            break
        bench.settle(item)
    assert sources[-1] == "high"


def test_repr_shows_the_state(bench: Bench) -> None:
    bench.consume(bench.queue("q", messages=1), prefetch=1)
    bench.next()
    assert repr(bench.receiver) == "<Receiver <Credit prefetch=1 q=1+0> pollers q:1>"


def test_an_error_that_nobody_expected_while_a_queue_is_made_again_does_not_end_the_consumer(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    queue, again = bench.queue("q"), bench.queue("again", messages=1)
    failures = [ZeroDivisionError()]

    def make_again(name: str) -> QueueUrl:
        if failures:
            raise failures.pop()
        return QueueUrl(again.url)

    bench.on_gone = make_again
    bench.fake.sqs("delete_queue", QueueUrl=queue.url)
    bench.consume(queue)
    assert bench.next().lease.url == again.url
    assert "Unexpected error while receiving from queue q" in caplog.text


def no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_where_no_more_threads_start_one_poller_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = bench.queue("q", messages=40)
    gate = threading.Event()
    bench.fake.before("receive_message", lambda: gate.wait(10.0))
    bench.consume(queue)
    bench.leases.hold([])  # has its keeper before there are no more
    bench.leases.release([])
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        gate.set()
        for _ in range(40):
            bench.receiver.settled(bench.next().source)
        assert bench.pollers() == 1


def test_a_queue_that_cannot_be_polled_is_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = bench.queue("q", messages=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="no thread"):
            bench.consume(queue)
    bench.receiver.remove("q")
    bench.consume(queue)
    assert bench.next().queue == "q"


def test_the_end_can_wait_until_open_polls_have_given_back_what_they_took(bench: Bench) -> None:
    queue = bench.queue("q")
    url = QueueUrl(queue.url)
    bench.consume(queue)
    eventually(lambda: bench.is_polling("q"))
    bench.receiver.stop()
    assert not bench.receiver.wait_for_open_polls([url], 0.01)
    assert bench.receiver.wait_for_open_polls([QueueUrl("another")], 0.0)
    bench.send(queue, "given back")
    assert bench.receiver.wait_for_open_polls([url], 10.0)
    assert visible(bench, queue) == ["given back"]


def test_a_poller_that_got_credit_just_before_the_end_does_not_poll(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end would not wait for its poll: whatever it received would stay hidden."""
    queue = bench.queue("q")
    await_credit = bench.receiver._await_credit
    ended: list[threading.Thread] = []

    def end(source: Any, is_helper: bool) -> int:
        count = await_credit(source, is_helper)
        bench.receiver.stop()
        ended.append(threading.current_thread())
        return count

    monkeypatch.setattr(bench.receiver, "_await_credit", end)
    bench.send(queue, "stays")
    bench.consume(queue)
    eventually(lambda: bool(ended) and not ended[0].is_alive())
    assert bench.receiver.wait_for_open_polls([QueueUrl(queue.url)], 0.0)
    assert bench.fake.count("receive_message") == 0
    assert visible(bench, queue) == ["stays"]


# --- health


def test_a_poller_beats_before_each_poll(bench: Bench) -> None:
    queue = bench.queue("q")
    bench.consume(queue)
    eventually(lambda: bench.is_polling("q"))
    [vital] = bench.receiver.vitals()
    assert (vital.name, vital.is_alive) == ("the poller of queue q", True)
    at, thread = vital.pulse.last
    assert thread == bench.receiver._sources["q"].main.ident  # type: ignore[union-attr]
    bench.send(queue, "one")
    bench.next()
    eventually(lambda: vital.pulse.last[0] > at)


def test_a_poller_without_credit_beats_when_it_looks_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_module, "_LOOK_AGAIN_S", 0.002)
    bench.consume(bench.queue("q", messages=2), prefetch=1)
    bench.next()
    [vital] = bench.receiver.vitals()
    at, _ = vital.pulse.last
    eventually(lambda: vital.pulse.last[0] > at)


def test_a_helper_does_not_beat_for_the_poller_that_stays(bench: Bench) -> None:
    bench.consume(bench.queue("q", messages=40))
    for _ in range(40):
        bench.next()
    [vital] = bench.receiver.vitals()
    assert vital.pulse.last[1] == bench.receiver._sources["q"].main.ident  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_poller_that_has_ended_is_not_alive_unless_it_was_denied(bench: Bench) -> None:
    bench.fake.fail("receive_message", Fatal())
    bench.consume(bench.queue("q"))
    eventually(lambda: not bench.receiver.vitals()[0].is_alive)
    bench.fake.fail("receive_message", AccessDenied("no", action="sqs:ReceiveMessage"))
    bench.receiver.look_after_pollers()
    eventually(lambda: bench.receiver.vitals() == [])


def test_a_poller_in_an_outage_waits_while_its_tries_are_silent(bench: Bench) -> None:
    bench.hedge = partial(Hedge, silence_s=0.005, most=2)
    lost, tries = threading.Event(), []

    def swallow() -> None:
        tries.append(None)
        assert lost.wait(10.0)

    bench.fake.fail("receive_message", BrokerUnavailable("silence"))
    bench.fake.before("receive_message", lambda: None, swallow, swallow)
    bench.consume(bench.queue("q"))
    eventually(lambda: len(tries) == 2)
    [vital] = bench.receiver.vitals()
    assert waits_until(vital.pulse.last[1]) is not None
    lost.set()
    eventually(lambda: waits_until(vital.pulse.last[1]) is None)


def test_a_poller_that_has_a_queue_recreated_waits(bench: Bench) -> None:
    found = []
    bench.on_gone = lambda queue: found.append(waits_until(threading.get_ident()))  # type: ignore[func-returns-value]
    bench.fake.fail("receive_message", QueueNotFound("gone"))
    bench.consume(bench.queue("q"))
    eventually(lambda: found and found[0] is not None)


def test_queues_that_are_no_longer_consumed_have_no_health(bench: Bench) -> None:
    bench.consume(bench.queue("q"), bench.queue("r"))
    bench.receiver.remove("q")
    assert [vital.name for vital in bench.receiver.vitals()] == ["the poller of queue r"]
    bench.receiver.stop()
    assert bench.receiver.vitals() == []
