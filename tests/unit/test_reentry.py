"""A publish in the middle of a publish: a signal handler's, or a finalizer's, in the thread that it interrupts."""

import signal
import threading
from collections.abc import Callable, Iterator

import pytest
from fakes import FakeClients, connected, make_settings
from kombu import Connection

import kombu_hake
from kombu_hake.aws.clients import Clients
from kombu_hake.aws.concurrency import Reentry, SharedParts, SingleFlight


@pytest.fixture
def connection(fake: FakeClients) -> Iterator[Connection]:
    with connected(fake) as made:
        made.channel().queue_declare("q")
        yield made


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Have SIGUSR1 do something, in this thread and in the middle of whatever it does."""
    before = signal.getsignal(signal.SIGUSR1)

    def set_handler(action: Callable[[], None]) -> None:
        signal.signal(signal.SIGUSR1, lambda signum, frame: action())

    yield set_handler
    signal.signal(signal.SIGUSR1, before)


def interrupt() -> None:
    signal.raise_signal(signal.SIGUSR1)


def bodies(fake: FakeClients) -> int:
    return len(fake.queues.queue("q").messages)


@pytest.mark.timeout(20)
def test_a_signal_handler_publishes_while_its_thread_waits_for_an_answer(
    fake: FakeClients, connection: Connection, on_signal: Callable[[Callable[[], None]], None]
) -> None:
    producer = connection.Producer()
    on_signal(lambda: producer.publish({"from": "handler"}, routing_key="q"))
    fake.before("send_message", interrupt)
    producer.publish({"from": "main"}, routing_key="q")
    assert bodies(fake) == 2
    assert fake.count("send_message") == 2


@pytest.mark.timeout(20)
def test_a_signal_handler_publishes_while_its_thread_waits_for_another_one(
    fake: FakeClients, connection: Connection, on_signal: Callable[[Callable[[], None]], None]
) -> None:
    main, reached, leave = threading.get_ident(), threading.Event(), threading.Event()
    producer = connection.Producer()

    def hold() -> None:
        reached.set()
        assert leave.wait(10.0)

    def handle() -> None:
        producer.publish({"from": "handler"}, routing_key="q")
        leave.set()

    on_signal(handle)
    fake.before("send_message", hold)
    first = threading.Thread(target=lambda: producer.publish({"from": "another"}, routing_key="q"))
    first.start()
    assert reached.wait(10.0)
    threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGUSR1)).start()
    producer.publish({"from": "main"}, routing_key="q")
    first.join()
    assert bodies(fake) == 3


@pytest.mark.timeout(20)
def test_what_a_signal_handler_publishes_in_the_middle_of_a_batch_is_sent(
    fake: FakeClients, connection: Connection, on_signal: Callable[[Callable[[], None]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    producer = connection.Producer()
    on_signal(lambda: producer.publish({"from": "handler"}, routing_key="q"))
    with kombu_hake.batch() as gathering:
        submit = gathering._submit

        def interrupted(group: object) -> None:
            interrupt()
            submit(group)

        monkeypatch.setattr(gathering, "_submit", interrupted)
        for number in range(25):
            producer.publish({"number": number}, routing_key="q")
        gathering.flush()
        assert bodies(fake) == 25 + 3
    assert bodies(fake) == 25 + 3


@pytest.mark.timeout(20)
def test_the_same_thread_may_enter_twice_what_is_for_one_thread_a_time(
    on_signal: Callable[[Callable[[], None]], None],
) -> None:
    flights, clients, parts = SingleFlight(), Clients(make_settings()), SharedParts[str, set[str]](most=1)
    seen: list[str] = []

    def enter_all() -> None:
        with flights("key"):
            seen.append("flight")
        with clients._lock:
            seen.append("clients")
        parts.get("other", set)
        seen.append("parts")

    on_signal(enter_all)
    with flights._lock, clients._lock, parts._lock:
        interrupt()
    assert seen == ["flight", "clients", "parts"]


def test_reentry_knows_threads_apart() -> None:
    entered = Reentry()
    found: list[bool] = []

    def enter() -> None:
        with entered() as again:
            found.append(again)

    with entered() as first:
        assert not first
        enter()
        other = threading.Thread(target=enter)
        other.start()
        other.join()
    enter()
    assert found == [True, False, False]
