"""Publish path: shared requests, an answer for everybody, and nothing left hanging."""

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fakes import FakeClients, Gate, eventually
from hypothesis import given
from hypothesis import strategies as st
from publishing import Process

from kombu_hake.amqp.limits import SNS_MAX_MESSAGE_BYTES, SQS_MAX_MESSAGE_BYTES
from kombu_hake.amqp.naming import QueueUrl, TopicArn
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable, MessageTooLarge, PublishError, QueueNotFound
from kombu_hake.publish import publisher as publisher_module
from kombu_hake.publish.publisher import Outgoing, Publisher, make_batches, outgoing
from kombu_hake.publish.routes import QueueTarget, TopicTarget


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeClients:
    monkeypatch.setattr(publisher_module, "backoff_s", lambda *args, **kwargs: 0.0)
    return FakeClients()


@pytest.fixture
def target(fake: FakeClients) -> QueueTarget:
    return QueueTarget("q", QueueUrl(fake.sqs("create_queue", QueueName="q")["QueueUrl"]))


@pytest.fixture
def publisher(here: Process) -> Publisher:
    return here.publisher


def message(text: str) -> Outgoing:
    return outgoing(text, {}, {})


class Threads:
    """Threads that publish, and what came of each."""

    def __init__(self) -> None:
        self.outcomes: dict[str, BaseException | None] = {}
        self._threads: list[threading.Thread] = []

    def start(self, name: str, action: Callable[[], None]) -> None:
        def run() -> None:
            try:
                action()
            except BaseException as exc:
                self.outcomes[name] = exc
            else:
                self.outcomes[name] = None

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()

    def join(self) -> dict[str, BaseException | None]:
        for thread in self._threads:
            thread.join(10.0)
            assert not thread.is_alive(), "a publish hangs"
        return self.outcomes


@pytest.fixture
def threads() -> Iterator[Threads]:
    found = Threads()
    yield found
    found.join()


def waiting(publisher: Publisher, target: QueueTarget) -> int:
    lane = publisher._lanes.get(target.url)
    return len(lane.waiting) if lane is not None else 0


def is_gathered(fake: FakeClients, publisher: Publisher, target: QueueTarget, count: int) -> bool:
    """Whether so many wait for the first request, or some of them have gone ahead with one of their own."""
    return waiting(publisher, target) == count or fake.count("send_message_batch") > 0


def gather(fake: FakeClients, publisher: Publisher, target: QueueTarget, threads: Threads, names: list[str]) -> Gate:
    """Publish the first of *names* up to AWS and hold it there; the second waits for it."""
    gate = Gate()
    fake.before("send_message", gate)
    threads.start(names[0], lambda: publisher.send(target, message(names[0])))
    assert gate.reached.wait(10.0)
    threads.start(names[1], lambda: publisher.send(target, message(names[1])))
    eventually(lambda: waiting(publisher, target) == 1)
    return gate


# --- one message


def test_a_lone_publish_is_one_request(fake: FakeClients, publisher: Publisher, target: QueueTarget) -> None:
    publisher.send(target, message("hello"))
    assert fake.count("send_message") == 1
    assert fake.count("send_message_batch") == 0
    assert fake.queues.queue("q").bodies() == ["hello"]


def test_attributes_and_parameters_go_along(fake: FakeClients, publisher: Publisher, target: QueueTarget) -> None:
    publisher.send(target, outgoing("hello", {"rk": "a"}, {"DelaySeconds": 7}))
    operation, params = fake.calls[-1]
    assert operation == "send_message"
    assert params["DelaySeconds"] == 7
    assert params["MessageAttributes"] == {"rk": {"DataType": "String", "StringValue": "a"}}


def test_publishing_to_a_topic(fake: FakeClients, publisher: Publisher) -> None:
    arn = TopicArn(fake.sns("create_topic", Name="orders")["TopicArn"])
    publisher.send(TopicTarget("orders", arn), outgoing("hello", {"rk": "a"}, {}))
    assert fake.count("publish") == 1


@pytest.mark.parametrize("error", [BrokerUnavailable("x"), AccessDenied("x"), QueueNotFound("x"), PublishError("x")])
def test_a_publish_that_aws_does_not_accept_raises(
    fake: FakeClients, publisher: Publisher, target: QueueTarget, error: Exception
) -> None:
    fake.fail("send_message", error)
    with pytest.raises(type(error)):
        publisher.send(target, message("hello"))
    publisher.send(target, message("again"))
    assert fake.queues.queue("q").bodies() == ["again"]


@pytest.mark.parametrize("error", [BrokerUnavailable("x"), KeyboardInterrupt()])
def test_a_thread_whose_publish_failed_shares_requests_again(
    fake: FakeClients, publisher: Publisher, target: QueueTarget, threads: Threads, error: BaseException
) -> None:
    def fail() -> None:
        raise error

    fake.before("send_message", fail)
    with pytest.raises(type(error)):
        publisher.send(target, message("hello"))
    gate = Gate()
    fake.before("send_message", gate)
    threads.start("first", lambda: publisher.send(target, message("first")))
    assert gate.reached.wait(10.0)
    threads.start("opener", lambda: eventually(lambda: waiting(publisher, target) == 1) or gate.open())
    publisher.send(target, message("second"))  # sent singly, it would not wait
    assert threads.join() == {"first": None, "opener": None}


def test_nothing_is_remembered_of_a_target_that_is_done_with(publisher: Publisher, target: QueueTarget) -> None:
    # Reply queues are many, and each is used once.
    publisher.send(target, message("hello"))
    assert not publisher._lanes


# --- size


def test_a_message_over_the_limit_raises_before_any_call(
    fake: FakeClients, publisher: Publisher, target: QueueTarget
) -> None:
    calls = len(fake.calls)
    with pytest.raises(MessageTooLarge, match="1,048,577 bytes for queue 'q'") as caught:
        publisher.send(target, message("x" * (SQS_MAX_MESSAGE_BYTES + 1)))
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (SQS_MAX_MESSAGE_BYTES + 1, SQS_MAX_MESSAGE_BYTES)
    assert len(fake.calls) == calls


@pytest.mark.parametrize("attributes", [{}, {"rk": "a" * 100}])
def test_a_message_of_exactly_the_limit_is_sent(
    fake: FakeClients, publisher: Publisher, attributes: dict[str, str]
) -> None:
    arn = TopicArn(fake.sns("create_topic", Name="orders")["TopicArn"])
    room = SNS_MAX_MESSAGE_BYTES - outgoing("", attributes, {}).size_bytes
    publisher.send(TopicTarget("orders", arn), outgoing("x" * room, attributes, {}))
    with pytest.raises(MessageTooLarge, match="exchange 'orders'"):
        publisher.send(TopicTarget("orders", arn), outgoing("x" * (room + 1), attributes, {}))


# --- group commit


def test_threads_that_meet_share_requests(
    fake: FakeClients, publisher: Publisher, target: QueueTarget, threads: Threads
) -> None:
    names = [f"m{n}" for n in range(40)]
    gate, second = gather(fake, publisher, target, threads, names), Gate()
    fake.before("send_message_batch", *[second] * 8)
    for name in names[2:]:
        threads.start(name, lambda name=name: publisher.send(target, message(name)))
    eventually(lambda: waiting(publisher, target) >= 20)
    gate.open()
    second.open()
    assert threads.join() == dict.fromkeys(names)
    assert sorted(fake.queues.queue("q").bodies()) == sorted(names)
    assert fake.count("send_message", "send_message_batch") < 20


def test_a_follower_goes_as_soon_as_the_request_in_flight_is_done(
    fake: FakeClients, publisher: Publisher, target: QueueTarget, threads: Threads
) -> None:
    gate = gather(fake, publisher, target, threads, ["first", "second"])
    gate.open()
    assert threads.join() == {"first": None, "second": None}
    assert fake.queues.queue("q").bodies() == ["first", "second"]


def test_targets_do_not_wait_for_one_another(
    fake: FakeClients, publisher: Publisher, target: QueueTarget, threads: Threads
) -> None:
    gate = gather(fake, publisher, target, threads, ["first", "second"])
    other = QueueTarget("other", QueueUrl(fake.sqs("create_queue", QueueName="other")["QueueUrl"]))
    publisher.send(other, message("hello"))
    assert fake.queues.queue("other").bodies() == ["hello"]
    gate.open()


def test_a_batch_is_no_larger_than_aws_takes(
    fake: FakeClients, publisher: Publisher, target: QueueTarget, threads: Threads
) -> None:
    gate = gather(fake, publisher, target, threads, ["first", "second"])
    half = "x" * (SQS_MAX_MESSAGE_BYTES // 2 + 1)
    for name in ("third", "fourth", "fifth"):
        threads.start(name, lambda: publisher.send(target, message(half)))
    gate.open()
    assert set(threads.join().values()) == {None}
    assert len(fake.queues.queue("q").messages) == 5
    for params in [params for name, params in fake.calls if name == "send_message_batch"]:
        assert sum(len(entry["MessageBody"]) for entry in params["Entries"]) <= SQS_MAX_MESSAGE_BYTES


def test_each_publisher_gets_the_error_of_its_own_message(
    fake: FakeClients, publisher: Publisher, target: QueueTarget, threads: Threads
) -> None:
    fake.fail_entries(
        "send_message_batch",
        code="InvalidParameterValue",
        sender_fault=True,
        of=lambda entry: entry["MessageBody"] == "bad",
    )
    gate = gather(fake, publisher, target, threads, ["first", "bad"])
    threads.start("good", lambda: publisher.send(target, message("good")))
    eventually(lambda: is_gathered(fake, publisher, target, 2))
    gate.open()
    outcomes = threads.join()
    assert isinstance(outcomes.pop("bad"), PublishError)
    assert outcomes == {"first": None, "good": None}
    assert sorted(fake.queues.queue("q").bodies()) == ["first", "good"]


def test_a_request_that_fails_as_a_whole_fails_each_with_an_error_of_its_own(
    fake: FakeClients, publisher: Publisher, target: QueueTarget, threads: Threads
) -> None:
    fake.fail("send_message_batch", BrokerUnavailable("gone", is_throttle=True))
    gate = gather(fake, publisher, target, threads, ["first", "second"])
    threads.start("third", lambda: publisher.send(target, message("third")))
    eventually(lambda: is_gathered(fake, publisher, target, 2))
    gate.open()
    outcomes = threads.join()
    second, third = outcomes["second"], outcomes["third"]
    assert outcomes["first"] is None
    assert isinstance(second, BrokerUnavailable)
    assert isinstance(third, BrokerUnavailable)
    assert second is not third
    assert second.is_throttle
    assert third.is_throttle


def test_publishing_goes_on_after_a_request_that_failed(
    fake: FakeClients, publisher: Publisher, target: QueueTarget, threads: Threads
) -> None:
    gate = gather(fake, publisher, target, threads, ["first", "second"])
    fake.fail("send_message", AccessDenied("no"), AccessDenied("no"))
    gate.open()
    outcomes = threads.join()
    assert isinstance(outcomes["first"], AccessDenied)
    publisher.send(target, message("third"))
    assert fake.queues.queue("q").bodies() == ["third"]


# --- interruptions


def test_an_interrupted_leader_does_not_pass_for_success_in_the_others(
    fake: FakeClients, publisher: Publisher, target: QueueTarget, threads: Threads
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    fake.before("send_message_batch", interrupt)
    gate = gather(fake, publisher, target, threads, ["first", "second"])
    threads.start("third", lambda: publisher.send(target, message("third")))
    eventually(lambda: waiting(publisher, target) == 2 or "third" in threads.outcomes)
    gate.open()
    outcomes = threads.join()
    assert outcomes.pop("first") is None
    leader, follower = sorted(outcomes.values(), key=lambda error: isinstance(error, BrokerUnavailable))
    assert isinstance(leader, KeyboardInterrupt)
    assert isinstance(follower, BrokerUnavailable)
    assert "may not be sent" in str(follower)
    publisher.send(target, message("later"))
    assert fake.queues.queue("q").bodies() == ["first", "later"]


class InterruptedEvent(threading.Event):
    """What a follower waits on; a KeyboardInterrupt comes while it does, or as it is woken."""

    armed = False
    is_waiting = threading.Event()
    strike = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        if not InterruptedEvent.armed:
            return super().wait(timeout)
        InterruptedEvent.armed = False
        self.is_waiting.set()
        assert self.strike.wait(10.0)
        raise KeyboardInterrupt


@pytest.fixture
def _interruptible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InterruptedEvent, "armed", True)
    monkeypatch.setattr(InterruptedEvent, "is_waiting", threading.Event())
    monkeypatch.setattr(InterruptedEvent, "strike", threading.Event())

    class Interruptible(publisher_module._Waiting):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, InterruptedEvent() if name == "done" else value)

    monkeypatch.setattr(publisher_module, "_Waiting", Interruptible)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupted_follower_leaves_the_queue(
    fake: FakeClients, publisher: Publisher, target: QueueTarget, threads: Threads
) -> None:
    gate = gather(fake, publisher, target, threads, ["first", "second"])
    InterruptedEvent.strike.set()
    eventually(lambda: "second" in threads.outcomes)
    gate.open()
    outcomes = threads.join()
    assert isinstance(outcomes["second"], KeyboardInterrupt)
    assert fake.queues.queue("q").bodies() == ["first"]
    publisher.send(target, message("later"))
    assert fake.queues.queue("q").bodies() == ["first", "later"]


@pytest.mark.usefixtures("_interruptible")
def test_a_follower_that_is_interrupted_as_it_gets_the_lead_hands_it_on(
    fake: FakeClients, publisher: Publisher, target: QueueTarget, threads: Threads
) -> None:
    gate = gather(fake, publisher, target, threads, ["first", "second"])
    assert InterruptedEvent.is_waiting.wait(10.0)
    gate.open()
    eventually(lambda: waiting(publisher, target) == 0 and fake.count("send_message") == 1)
    threads.start("third", lambda: publisher.send(target, message("third")))
    eventually(lambda: waiting(publisher, target) == 1)
    InterruptedEvent.strike.set()
    outcomes = threads.join()
    assert isinstance(outcomes.pop("second"), KeyboardInterrupt)
    assert outcomes == {"first": None, "third": None}
    assert fake.queues.queue("q").bodies() == ["first", "third"]


class InterruptedList(list[Any]):
    """The publishes that wait for a leader, which is interrupted while it takes some of them."""

    def __delitem__(self, index: Any) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_leader_leaves_none_waiting_of_those_that_it_takes(
    fake: FakeClients, publisher: Publisher, target: QueueTarget, threads: Threads
) -> None:
    gate = gather(fake, publisher, target, threads, ["first", "second"])
    threads.start("third", lambda: publisher.send(target, message("third")))
    eventually(lambda: waiting(publisher, target) == 2)
    lane = publisher._lanes[target.url]
    lane.waiting = InterruptedList(lane.waiting)
    gate.open()
    outcomes = threads.join()
    assert outcomes.pop("first") is None
    assert {type(outcome) for outcome in outcomes.values()} == {KeyboardInterrupt, BrokerUnavailable}
    assert not publisher._lanes


# --- many at once


def test_only_what_aws_could_not_take_is_sent_again(
    fake: FakeClients, publisher: Publisher, target: QueueTarget
) -> None:
    fake.fail_entries("send_message_batch", of=lambda entry: entry["MessageBody"] in ("b", "d"))
    fake.fail_entries("send_message_batch", of=lambda entry: entry["MessageBody"] == "d")
    assert publisher.send_many(target, [message(text) for text in "abcd"]) == [None] * 4
    assert fake.queues.queue("q").bodies() == ["a", "c", "b", "d"]


def test_what_aws_refuses_is_not_sent_again(fake: FakeClients, publisher: Publisher, target: QueueTarget) -> None:
    fake.fail_entries("send_message_batch", sender_fault=True, code="X", of=lambda entry: entry["MessageBody"] == "b")
    errors = publisher.send_many(target, [message(text) for text in "abc"])
    assert [type(error) for error in errors] == [type(None), PublishError, type(None)]
    assert fake.count("send_message_batch") == 1


def test_trying_again_ends(fake: FakeClients, publisher: Publisher, target: QueueTarget) -> None:
    fake.fail_entries("send_message_batch", times=100, of=lambda entry: entry["MessageBody"] == "b")
    errors = publisher.send_many(target, [message(text) for text in "ab"])
    assert [type(error) for error in errors] == [type(None), BrokerUnavailable]
    assert fake.count("send_message_batch") < 10


def test_what_was_accepted_before_a_request_failed_stays_accepted(
    fake: FakeClients, publisher: Publisher, target: QueueTarget
) -> None:
    fake.fail_entries("send_message_batch", of=lambda entry: entry["MessageBody"] == "b")
    failed = AccessDenied("since a moment ago")

    def deny() -> None:
        raise failed

    fake.before("send_message_batch", lambda: None, deny)
    errors = publisher.send_many(target, [message(text) for text in "abc"])
    assert errors[0] is errors[2] is None
    assert isinstance(errors[1], AccessDenied)


def test_a_batch_to_a_topic(fake: FakeClients, publisher: Publisher) -> None:
    arn = TopicArn(fake.sns("create_topic", Name="orders")["TopicArn"])
    fake.fail_entries("publish_batch", of=lambda entry: entry["Message"] == "b")
    assert publisher.send_many(TopicTarget("orders", arn), [message(text) for text in "ab"]) == [None, None]
    assert fake.count("publish_batch") == 2


def test_one_bad_message_does_not_take_others_with_it(
    fake: FakeClients, publisher: Publisher, target: QueueTarget, threads: Threads
) -> None:
    fake.fail("send_message_batch", PublishError("MessageGroupId can only include alphanumeric characters"))
    gate = gather(fake, publisher, target, threads, ["first", "second"])
    threads.start("third", lambda: publisher.send(target, message("third")))
    eventually(lambda: is_gathered(fake, publisher, target, 2))
    gate.open()
    assert set(threads.join().values()) == {None}
    assert sorted(fake.queues.queue("q").bodies()) == ["first", "second", "third"]


# --- cutting into batches


@given(st.lists(st.integers(0, 100), max_size=60), st.integers(100, 300))
def test_batches_hold_everything_in_order_and_fit(sizes: list[int], most: int) -> None:
    batches = make_batches(sizes, most)
    assert [index for batch in batches for index in batch] == list(range(len(sizes)))
    for batch in batches:
        assert 1 <= len(batch) <= 10
        assert sum(sizes[index] for index in batch) <= most
    for batch, following in itertools.pairwise(batches):
        # Each is as full as it can be.
        assert len(batch) == 10 or sum(sizes[index] for index in batch) + sizes[following[0]] > most


def test_a_message_larger_than_a_batch_goes_alone() -> None:
    assert make_batches([5, 500, 5], 100) == [range(1), range(1, 2), range(2, 3)]
    assert make_batches([], 100) == []
