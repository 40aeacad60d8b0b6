"""Background work: runs when it is due or woken, survives errors, and a stop reaches it wherever it is."""

import logging
import threading
from collections.abc import Iterator

import pytest
from fakes import eventually
from test_forksafe import in_child

from kombu_hake.aws import Background

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


class Bench:
    """Work that counts its runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.wait_s: float | None = 600.0
        self.background = Background(self.work, "hake-bench", "the work of the test", after_error_s=600.0)

    def work(self) -> float | None:
        self.runs += 1
        if self.runs in self.fails_at:
            raise ZeroDivisionError(self.runs)
        return self.wait_s

    fails_at: tuple[int, ...] = ()

    def threads(self) -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "hake-bench"]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    assert made.background.stop(10.0)


def test_nothing_starts_by_itself(bench: Bench) -> None:
    assert not bench.background.is_alive
    bench.background.wake()
    assert not bench.threads()


def test_a_started_one_works_and_waits(bench: Bench) -> None:
    assert bench.background.start()
    eventually(lambda: bench.runs == 1)
    assert bench.background.is_alive


def test_waking_makes_it_work_before_its_time(bench: Bench) -> None:
    bench.background.start()
    eventually(lambda: bench.runs == 1)
    bench.background.wake()
    eventually(lambda: bench.runs == 2)
    bench.background.start()
    eventually(lambda: bench.runs == 3)
    assert len(bench.threads()) == 1


def test_it_works_again_when_it_said_so(bench: Bench) -> None:
    bench.wait_s = 0.001
    bench.background.start()
    eventually(lambda: bench.runs > 3)


def test_it_ends_when_nothing_is_left_and_starts_again(bench: Bench) -> None:
    bench.wait_s = None
    bench.background.start()
    eventually(lambda: not bench.background.is_alive)
    assert bench.runs == 1
    bench.background.start()
    eventually(lambda: bench.runs == 2)


def test_a_start_while_it_ends_is_not_lost() -> None:
    reached, leave, runs = threading.Event(), threading.Event(), []

    def work() -> None:
        runs.append(None)
        reached.set()
        assert leave.wait(10.0)

    background = Background(work, "hake-bench", "the work of the test", after_error_s=0.0)
    background.start()
    assert reached.wait(10.0)
    background.start()
    leave.set()
    eventually(lambda: len(runs) == 2 and not background.is_alive)


def test_an_error_is_logged_and_does_not_end_it(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.fails_at = (1,)
    bench.background.start()
    eventually(lambda: "Unexpected error in the work of the test; continuing." in caplog.text)
    bench.background.wake()
    eventually(lambda: bench.runs == 2)


def test_a_stop_ends_its_wait_and_it_never_starts_again(bench: Bench) -> None:
    bench.background.start()
    eventually(lambda: bench.runs == 1)
    assert bench.background.stop(10.0)
    assert not bench.threads()
    assert not bench.background.start()
    assert bench.runs == 1


def test_a_stop_waits_no_longer_than_told_for_work_that_hangs() -> None:
    reached, leave = threading.Event(), threading.Event()

    def work() -> None:
        reached.set()
        assert leave.wait(10.0)

    background = Background(work, "hake-bench", "the work of the test", after_error_s=0.0)
    background.start()
    assert reached.wait(10.0)
    assert not background.stop(0.0)
    leave.set()
    assert background.stop(10.0)


def test_it_may_stop_itself() -> None:
    done = threading.Event()

    def work() -> float:
        assert background.stop(10.0)
        done.set()
        return 0.0

    background = Background(work, "hake-bench", "the work of the test", after_error_s=0.0)
    background.start()
    assert done.wait(10.0)
    eventually(lambda: not background.is_alive)


def test_without_a_thread_it_says_so_and_can_be_started_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        assert not bench.background.start()
    assert bench.background.start()
    eventually(lambda: bench.runs == 1)


def test_an_error_that_goes_on_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    runs: list[None] = []

    def work() -> float | None:
        runs.append(None)
        if len(runs) in (1, 2, 3, 5):
            raise ZeroDivisionError(len(runs))
        return 0.0 if len(runs) < 6 else None

    background = Background(work, "hake-bench", "the work of the test", after_error_s=0.0)
    background.start()
    eventually(lambda: len(runs) == 6 and not background.is_alive)
    found = [record for record in caplog.records if record.levelno >= logging.WARNING]
    expected = "HAKE706 Unexpected error in the work of the test; continuing."
    assert [record.getMessage() for record in found] == [expected] * 2
    assert [str(record.exc_info and record.exc_info[1]) for record in found] == ["1", "5"]


def test_a_forked_child_starts_a_thread_of_its_own(bench: Bench) -> None:
    bench.background.start()
    eventually(lambda: bench.runs == 1)

    def check() -> None:
        before = bench.runs
        assert not bench.background.is_alive
        bench.background.wake()
        assert bench.background.start()
        eventually(lambda: bench.runs == before + 1)

    in_child(check)


def test_a_fork_in_the_middle_of_a_start_leaves_the_child_no_lock_that_is_held(bench: Bench) -> None:
    with bench.background._lock:
        held = threading.Thread(target=lambda: in_child(bench.background.wake))
        held.start()
        held.join(30.0)
    assert not held.is_alive()
