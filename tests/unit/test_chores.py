"""Work of the topology that is due later: done one at a time, and nothing of it keeps its owner alive."""

import gc
import logging
import threading

import pytest
from fakes import FakeClock, eventually
from test_forksafe import in_child

from kombu_hake.exceptions import BrokerUnavailable
from kombu_hake.topology.chores import Chores

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "hake-topology"]


def failing(error: Exception) -> None:
    raise error


def test_work_is_done_when_it_is_due_and_the_thread_ends() -> None:
    chores, done = Chores(), threading.Event()
    chores.after(0.0, ("check", "q"), done.set)
    assert done.wait(10.0)
    eventually(lambda: not threads())
    again = threading.Event()
    chores.after(0.0, ("check", "q"), again.set)
    assert again.wait(10.0)


def test_work_that_fails_does_not_keep_back_what_follows(caplog: pytest.LogCaptureFixture) -> None:
    chores, done = Chores(FakeClock()), []
    chores._background.stop(0.0)
    chores.after(1.0, ("a", "q"), lambda: failing(BrokerUnavailable("away")))
    chores.after(2.0, ("b", "q"), lambda: failing(ZeroDivisionError()))
    chores.after(3.0, ("c", "q"), lambda: done.append("c"))
    chores._clock.advance(5.0)  # type: ignore[attr-defined]
    assert chores.work() is None
    assert done == ["c"]
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage() == "HAKE310 Unexpected error in background work for b/q."


def test_chores_that_wait_do_not_keep_their_owner_and_its_thread_alive() -> None:
    chores = Chores()
    chores.after(3_600.0, ("check", "q"), lambda: None)
    background = chores._background
    eventually(lambda: bool(background._changed._waiters))  # type: ignore[attr-defined]
    del chores
    gc.collect()
    eventually(lambda: not threads())


def test_a_forked_child_does_not_do_its_parents_work() -> None:
    chores = Chores()
    chores.after(3_600.0, ("check", "q"), lambda: None)

    def check() -> None:
        done = threading.Event()
        chores.after(0.0, ("check", "q"), done.set)  # ignored while a chore with this key waits
        assert done.wait(10.0)

    in_child(check)
    chores._background.stop(10.0)
    eventually(lambda: not threads())
