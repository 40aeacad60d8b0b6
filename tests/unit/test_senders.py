"""Threads that work off jobs: as many as needed, none left behind, and none needed in the end."""

import threading
from collections.abc import Iterator

import pytest
from fakes import eventually

from kombu_hake.aws.senders import Senders


class Work:
    """What was done, and where; holds jobs while its gate is shut."""

    def __init__(self) -> None:
        self.done: list[tuple[int, str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.inside = 0
        self._lock = threading.Lock()

    def __call__(self, job: int) -> None:
        with self._lock:
            self.inside += 1
        assert self.gate.wait(10.0)
        with self._lock:
            self.inside -= 1
            self.done.append((job, threading.current_thread().name))


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def senders(work: Work) -> Iterator[Senders[int]]:
    made = Senders(work, most=3, name="sender")
    yield made
    work.gate.set()
    made.stop(10.0)


def test_there_are_no_more_threads_than_jobs_and_than_allowed(work: Work, senders: Senders[int]) -> None:
    assert not senders._threads
    work.gate.clear()
    for job in range(5):
        senders.submit(job)
        assert len(senders._threads) == min(job + 1, 3)
    eventually(lambda: work.inside == 3)
    assert senders.unanswered == 5
    work.gate.set()
    assert senders.wait(10.0) == 0
    assert sorted(job for job, _ in work.done) == list(range(5))
    for job in range(20):
        senders.submit(job)
        assert senders.wait(10.0) == 0
    assert len(senders._threads) == 3


def test_waiting_ends_in_time_and_says_how_much_is_left(work: Work, senders: Senders[int]) -> None:
    work.gate.clear()
    senders.submit(1)
    assert senders.wait(0.01) == 1


def test_stop_does_what_is_left_and_leaves_no_thread(work: Work, senders: Senders[int]) -> None:
    work.gate.clear()
    for job in range(9):
        senders.submit(job)
    threads = list(senders._threads)
    work.gate.set()
    senders.stop(10.0)
    assert len(work.done) == 9
    assert not any(thread.is_alive() for thread in threads)
    assert not senders._threads


def test_stop_waits_no_longer_than_told(work: Work, senders: Senders[int]) -> None:
    work.gate.clear()
    for job in range(3):
        senders.submit(job)
    senders.stop(0.01)
    assert senders.unanswered == 3


def test_a_job_that_comes_late_is_done_by_a_thread_that_ends(work: Work, senders: Senders[int]) -> None:
    senders.stop(10.0)
    for job in range(5):
        senders.submit(job)
    assert senders.wait(10.0) == 0
    eventually(lambda: not senders._threads)
    assert len(work.done) == 5


def test_where_no_thread_starts_the_one_who_waits_does_the_work(
    work: Work, senders: Senders[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python 3.12 and later do while the interpreter ends."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        senders.submit(1)
        senders.submit(2)
        assert senders.unanswered == 2
        assert senders.wait(10.0) == 0
    assert work.done == [(1, "MainThread"), (2, "MainThread")]
    senders.submit(3)
    assert senders.wait(10.0) == 0
    assert work.done[-1][1] == "sender"


def test_help_starts_the_thread_that_is_missing_or_does_the_work(
    work: Work, senders: Senders[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        senders.submit(1)
        senders.submit(2)
        assert work.done == []
        senders.help()
        assert work.done == [(1, "MainThread"), (2, "MainThread")]
        senders.submit(3)
    senders.help()
    assert senders.wait(10.0) == 0
    assert work.done[2] == (3, "sender")
    senders.help()
