"""The inbox: where poller threads and the consuming thread meet; its descriptor is readable while it holds anything."""

import select
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kombu_hake.amqp.naming import QueueUrl
from kombu_hake.receive.deliveries import Inbox
from kombu_hake.receive.delivery import Delivery, Lease


def delivery(number: int, queue: str = "q", channel_id: int = 1) -> Delivery:
    return Delivery(
        channel_id, queue, queue, {"Body": str(number)}, Lease(QueueUrl("u"), f"handle-{number}", 0.0, 30.0)
    )


def is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    made = Inbox()
    yield made
    made.close()


def test_what_is_put_comes_out_in_order(inbox: Inbox) -> None:
    items = [delivery(n) for n in range(3)]
    inbox.put(items[:2])
    inbox.put(items[2:])
    assert len(inbox) == 3
    assert [inbox.get(0) for _ in range(4)] == [*items, None]


def test_an_error_comes_out_like_a_delivery(inbox: Inbox) -> None:
    error = RuntimeError("x")
    inbox.put([error])
    assert inbox.get(0) is error


def test_getting_waits_no_longer_than_told(inbox: Inbox) -> None:
    assert inbox.get(0) is None
    assert inbox.get(0.001) is None
    assert inbox.get(-1) is None


def test_who_waits_looks_up_when_woken(inbox: Inbox) -> None:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(inbox.get(60.0)))
    thread.start()
    inbox.wake()
    thread.join(10.0)
    assert found == [None]


def test_taking_does_not_undo_waking(inbox: Inbox) -> None:
    fd = inbox.fileno()
    inbox.put([delivery(1)])
    inbox.wake()
    assert len(inbox.take(lambda item: True)) == 1
    assert is_readable(fd)
    assert inbox.get(60.0) is None
    assert not is_readable(fd)


def test_getting_waits_for_what_another_thread_puts(inbox: Inbox) -> None:
    item = delivery(1)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(inbox.get(None)))
    thread.start()
    inbox.put([item])
    thread.join(10.0)
    assert found == [item]


def test_taking_leaves_what_is_not_wanted_and_errors(inbox: Inbox) -> None:
    mine, other, error = delivery(1, "mine"), delivery(2, "other"), RuntimeError("x")
    inbox.put([mine, error, other])
    assert inbox.take(lambda item: item.queue == "mine") == [mine]
    assert inbox.take(lambda item: item.queue == "mine") == []
    assert [inbox.get(0), inbox.get(0)] == [error, other]


# --- the descriptor

steps = st.lists(st.sampled_from(["put", "put many", "get", "take", "fileno", "put nothing"]), max_size=20)


@given(steps)
@settings(deadline=None)
def test_the_descriptor_is_readable_if_and_only_if_it_holds_anything(sequence: list[str]) -> None:
    inbox = Inbox()
    count = 0
    try:
        for step in sequence:
            if step == "put":
                inbox.put([delivery(1)])
                count += 1
            elif step == "put many":
                inbox.put([delivery(n) for n in range(300)])
                count += 300
            elif step == "put nothing":
                inbox.put([])
            elif step == "get":
                count -= inbox.get(0) is not None
            elif step == "take":
                count -= len(inbox.take(lambda item: True))
            if step == "fileno" or inbox._reader is not None:
                assert is_readable(inbox.fileno()) == bool(count)
        assert len(inbox) == count
        assert is_readable(inbox.fileno()) == bool(count)
    finally:
        inbox.close()


def test_the_descriptor_stays_the_same_until_it_is_closed(inbox: Inbox) -> None:
    fd = inbox.fileno()
    assert inbox.fileno() == fd
    inbox.put([delivery(1)])
    assert inbox.fileno() == fd
    inbox.close()
    inbox.close()


def test_after_close_a_new_descriptor_can_be_had(inbox: Inbox) -> None:
    # Celery registers with its event loop again after a reconnect.
    inbox.fileno()
    inbox.put([delivery(1)])
    inbox.close()
    inbox.put([delivery(2)])
    assert is_readable(inbox.fileno())


def test_a_loop_that_handles_one_item_a_turn_is_woken_again(inbox: Inbox) -> None:
    fd = inbox.fileno()
    inbox.put([delivery(n) for n in range(3)])
    turns = 0
    while is_readable(fd):
        assert inbox.get(0) is not None
        turns += 1
    assert turns == 3


def test_many_threads_lose_nothing(inbox: Inbox) -> None:
    fd = inbox.fileno()
    threads = [
        threading.Thread(target=lambda start=start: [inbox.put([delivery(start + n)]) for n in range(100)])
        for start in range(0, 800, 100)
    ]
    for thread in threads:
        thread.start()
    found: set[str] = set()
    while len(found) < 800:
        assert select.select([fd], [], [], 10.0)[0]
        item = inbox.get(0)
        assert isinstance(item, Delivery)
        found.add(item.message["Body"])
    for thread in threads:
        thread.join()
    assert not is_readable(fd)


def test_closing_ends_the_wait_for_what_does_not_come_any_more(inbox: Inbox) -> None:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(inbox.get(None)))
    thread.start()
    inbox.close()
    thread.join(10.0)
    assert found == [None]
