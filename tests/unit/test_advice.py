"""A publish waits for no call that only tells whether a queue gets the message; what it finds out is still said."""

import json
import threading
from collections.abc import Callable, Iterator

import pytest
from fakes import FakeClients, Gate, eventually, wait_for_advice
from publishing import Process
from test_forksafe import in_child

from kombu_hake.amqp.bindings import Binding
from kombu_hake.aws import retry as retry_module
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable, MessageTooLarge, Unroutable
from kombu_hake.publish import advice as advice_module
from kombu_hake.publish import batch
from kombu_hake.publish.advice import Advice


@pytest.fixture
def gate(fake: FakeClients) -> Iterator[Gate]:
    """Counts of subscriptions are not answered before it is opened, as if AWS throttled them."""
    found = Gate()
    fake.before("get_topic_attributes", *[found] * 20)
    yield found
    found.open()


def publish_aside(action: Callable[[], None]) -> None:
    """Publish in a thread of its own, and fail where that waits."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive(), "the publish waits"
    assert not errors


def bodies(fake: FakeClients, queue: str) -> list[str]:
    return [json.loads(text)["body"] for text in fake.queues.queue(queue).bodies()]


def test_a_publish_to_a_topic_does_not_wait_and_the_warning_comes_late(
    fake: FakeClients, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    fake.sns("create_topic", Name="orders")
    process = Process(fake, advice=Advice())
    for _ in range(3):
        publish_aside(lambda: process.publish("orders", "k"))
    assert not caplog.records
    gate.open()
    eventually(lambda: "HAKE201 Unroutable message" in caplog.text)
    assert fake.count("publish") == 3
    assert fake.count("get_topic_attributes") == 1


def test_a_publish_to_a_queues_own_exchange_does_not_wait_and_reaches_the_other_queues(
    fake: FakeClients, gate: Gate
) -> None:
    Process(fake).declare("audit", Binding("q", "direct", "q"))
    process = Process(fake, advice=Advice())
    process.declare("q", Binding("q", "direct", "q"))
    publish_aside(lambda: process.publish("q", "q"))
    assert bodies(fake, "q") == bodies(fake, "audit") == ["hello"]
    gate.open()
    assert process.advice.wait(10)
    fake.calls.clear()
    process.publish("q", "q")
    assert fake.counts() == {"send_message": 1, "publish": 1}


def test_a_topic_that_is_not_needed_is_not_created(fake: FakeClients, gate: Gate) -> None:
    process = Process(fake, advice=Advice())
    process.declare("q", Binding("q", "direct", "q"))
    publish_aside(lambda: process.publish("q", "q"))
    publish_aside(lambda: process.publish("q", "q"))
    assert bodies(fake, "q") == ["hello"] * 2
    assert fake.count("publish") == 1
    assert fake.topics.by_name == {}


def test_a_batch_does_not_wait_either(fake: FakeClients, gate: Gate) -> None:
    process = Process(fake, advice=Advice())
    process.declare("q", Binding("q", "direct", "q"))

    def publish() -> None:
        with batch():
            for _ in range(25):
                process.publish("q", "q")

    publish_aside(publish)
    assert len(bodies(fake, "q")) == 25
    assert fake.count("publish") == 1


def test_events_do_not_wait(fake: FakeClients, gate: Gate) -> None:
    process = Process(fake, advice=Advice())
    publish_aside(lambda: process.publish("celeryev", "worker.heartbeat"))
    assert fake.topics.by_name == {}


@pytest.mark.parametrize("is_bound", [True, False])
def test_a_denied_topic_is_an_error_only_where_queues_are_subscribed(fake: FakeClients, is_bound: bool) -> None:
    process = Process(fake, advice=Advice())
    if is_bound:
        Process(fake).declare("audit", Binding("q", "direct", "q"))
    process.declare("q", Binding("q", "direct", "q"))
    fake.deny("sns:Publish")
    if is_bound:
        with pytest.raises(AccessDenied):
            process.publish("q", "q")
        assert bodies(fake, "q") == []
    else:
        process.publish("q", "q")
        assert bodies(fake, "q") == ["hello"]


@pytest.mark.parametrize("is_bound", [True, False])
def test_a_message_too_large_for_a_topic_is_an_error_only_where_queues_are_subscribed(
    fake: FakeClients, is_bound: bool
) -> None:
    process = Process(fake, advice=Advice())
    if is_bound:
        Process(fake).declare("audit", Binding("q", "direct", "q"))
    process.declare("q", Binding("q", "direct", "q"))
    if is_bound:
        with pytest.raises(MessageTooLarge):
            process.publish("q", "q", "x" * 300_000)
    else:
        process.publish("q", "q", "x" * 300_000)
        assert len(bodies(fake, "q")) == 1


@pytest.mark.parametrize(("unroutable", "mandatory"), [("raise", False), ("warn", True)])
def test_a_publish_that_must_know_asks_for_some_seconds(fake: FakeClients, unroutable: str, mandatory: bool) -> None:
    process = Process(fake, advice=Advice(), unroutable=unroutable)
    seen: list[float | None] = []
    fake.before("get_topic_attributes", lambda: seen.append(retry_module._patient_until.get()))
    with pytest.raises(Unroutable):
        process.publish("orders", "k", mandatory=mandatory)
    [until] = seen
    assert until is not None
    assert process.advice.wait(0.0)


# --- the questions


@pytest.fixture
def advice(monkeypatch: pytest.MonkeyPatch) -> Iterator[Advice]:
    monkeypatch.setattr(advice_module, "backoff_s", lambda *_, **__: 0.0)
    found = Advice()
    yield found
    assert found.wait(10)
    wait_for_advice(10)


def test_a_question_is_asked_once_at_a_time(advice: Advice) -> None:
    gate, asked = Gate(), []

    def question() -> None:
        gate()
        asked.append(1)

    for _ in range(50):
        advice.ask("key", question)
    assert not advice.wait(0.01)
    gate.open()
    assert advice.wait(10)
    assert asked == [1]
    advice.ask("key", question)
    assert advice.wait(10)
    assert asked == [1, 1]


def test_a_question_that_aws_cannot_answer_is_asked_again(advice: Advice) -> None:
    failures: list[Exception] = [BrokerUnavailable("x"), BrokerUnavailable("x", is_throttle=True)]
    answered = []

    def question() -> None:
        if failures:
            raise failures.pop()
        answered.append(1)

    advice.ask("key", question)
    assert advice.wait(10)
    assert answered == [1]


def test_it_is_not_asked_for_ever(advice: Advice) -> None:
    asked = []

    def question() -> None:
        asked.append(1)
        raise BrokerUnavailable("x")

    advice.ask("key", question)
    assert advice.wait(10)
    assert len(asked) == 10


def test_a_refusal_and_a_bug_end_one_question_only(advice: Advice, caplog: pytest.LogCaptureFixture) -> None:
    def refused() -> None:
        raise AccessDenied("x")

    def broken() -> None:
        raise ValueError("x")

    asked = []
    for key, question in (("a", refused), ("b", broken), ("c", lambda: asked.append(1))):
        advice.ask(key, question)
    assert advice.wait(10)
    assert asked == [1]
    assert "Unexpected error" in caplog.text


def test_waiting_questions_are_bounded(advice: Advice) -> None:
    gate = Gate()
    advice.ask("first", gate)
    assert gate.reached.wait(10)
    for number in range(1_000):
        advice.ask(number, lambda: None)
    assert len(advice._questions) <= 100
    gate.open()


def test_the_end_of_the_process_waits_for_answers_but_not_long(
    advice: Advice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    advice.ask("key", gate)
    monkeypatch.setattr(advice_module, "_EXIT_S", 0.01)
    advice_module._wait_at_exit()
    assert "The process ends before" in caplog.text
    gate.open()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_no_question_of_its_parents(advice: Advice) -> None:
    gate = Gate()
    advice.ask("key", gate)
    assert gate.reached.wait(10)

    def check() -> None:
        assert advice.wait(0)
        answered = threading.Event()
        advice.ask("key", answered.set)
        assert answered.wait(10)

    in_child(check)
    gate.open()
