"""A fault that lasts: its pauses, its log lines, and the tries beside silent tries."""

import logging
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from fakes import FakeClock, eventually

from kombu_hake.exceptions import BrokerUnavailable, QuotaExceeded
from kombu_hake.receive import trouble as trouble_module
from kombu_hake.receive.trouble import Hedge, Trouble


def never() -> bool:
    return False


class Tries:
    """Attempts that come back when told to, with their number."""

    def __init__(self) -> None:
        self.started = 0
        self._answers: dict[int, object] = {}
        self._changed = threading.Condition()

    def __call__(self) -> int:
        with self._changed:
            self.started += 1
            me = self.started
            assert self._changed.wait_for(lambda: me in self._answers, 10.0)
            answer = self._answers[me]
        if isinstance(answer, Exception):
            raise answer
        return me

    def answer(self, number: int, error: Exception | None = None) -> None:
        with self._changed:
            self._answers[number] = error
            self._changed.notify_all()


def in_thread(function: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    results: list[object] = []

    def run() -> None:
        try:
            results.append(function())
        except Exception as exc:
            results.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


def test_a_try_that_answers_stays_alone() -> None:
    tries = Tries()
    tries.answer(1)
    assert Hedge[int]("q", silence_s=60.0).first(tries, late=lambda _: None, is_over=never) == 1
    assert tries.started == 1


def test_a_silent_try_gets_company_and_is_heard_in_the_end() -> None:
    tries, late = Tries(), list[int]()
    tries.answer(2)
    assert Hedge[int]("q", silence_s=0.005).first(tries, late=late.append, is_over=never) == 2
    tries.answer(1)
    eventually(lambda: late == [1])


def test_the_first_to_come_back_decides_be_it_an_error() -> None:
    tries, late = Tries(), list[int]()
    tries.answer(2, BrokerUnavailable("refused"))
    with pytest.raises(BrokerUnavailable):
        Hedge[int]("q", silence_s=0.005).first(tries, late=late.append, is_over=never)
    tries.answer(1, BrokerUnavailable("too late to matter"))
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("hake-probe")])
    assert late == []


def test_no_more_tries_at_once_than_allowed_over_all_calls() -> None:
    tries = Tries()
    hedge = Hedge[int]("q", silence_s=0.002, most=3)
    thread, results = in_thread(lambda: hedge.first(tries, late=lambda _: None, is_over=never))
    eventually(lambda: tries.started == 3)
    thread.join(0.05)
    assert tries.started == 3
    tries.answer(2, BrokerUnavailable("timeout"))
    thread.join(10.0)
    assert isinstance(results[0], BrokerUnavailable)
    # One place is free again.
    tries.answer(4)
    assert hedge.first(tries, late=lambda _: None, is_over=never) == 4
    tries.answer(1)
    tries.answer(3)


def test_whoever_does_not_want_the_answer_any_more_does_not_wait_for_it() -> None:
    tries = Tries()
    over = threading.Event()
    thread, results = in_thread(
        lambda: Hedge[int]("q", silence_s=0.002, most=1).first(tries, late=lambda _: None, is_over=over.is_set)
    )
    eventually(lambda: tries.started == 1)
    over.set()
    thread.join(10.0)
    assert results == [None]
    tries.answer(1)


def test_a_process_that_can_start_no_thread_tries_without_company(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble_module, "start_thread", lambda target, name: None)
    tries = Tries()
    tries.answer(1)
    assert Hedge[int]("q").first(tries, late=lambda _: None, is_over=never) == 1


def test_an_outage_ends_within_seconds_and_throttling_is_left_alone_for_longer() -> None:
    trouble = Trouble("q")
    assert max(trouble.pause_s(BrokerUnavailable("refused")) for _ in range(50)) <= 2.0
    assert trouble.is_outage
    assert max(trouble.pause_s(BrokerUnavailable("slowly", is_throttle=True)) for _ in range(50)) > 2.0
    assert not trouble.is_outage
    trouble.pause_s(QuotaExceeded("in flight"))
    assert not trouble.is_outage


def test_after_a_try_that_was_silent_there_is_no_pause_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr(trouble_module, "time", SimpleNamespace(monotonic=clock))
    trouble = Trouble("q")
    for _ in range(10):
        clock.advance(trouble.pause_s(BrokerUnavailable("refused")))
    clock.advance(15.0)
    assert trouble.pause_s(BrokerUnavailable("no answer within 15 s")) == 0.0
    assert trouble.pause_s(BrokerUnavailable("refused")) >= 1.0
    clock.advance(15.0)
    assert trouble.pause_s(BrokerUnavailable("slowly", is_throttle=True)) >= 2.5


def test_the_start_and_the_end_of_a_fault_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="kombu_hake.receive.trouble")
    trouble = Trouble("orders")
    for _ in range(20):
        trouble.pause_s(BrokerUnavailable("refused"))
    trouble.over()
    trouble.over()
    assert [record.getMessage() for record in caplog.records] == [
        "HAKE001 Cannot receive from queue orders; retrying: refused",
        "HAKE002 Receiving from queue orders again, after 20 failures in 0 s.",
    ]
