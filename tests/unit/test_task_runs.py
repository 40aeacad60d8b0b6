from collections.abc import Iterator
from typing import Any

import celery.worker.state  # noqa: F401  # makes this process look like a worker
import pytest
from celery.signals import task_postrun, task_prerun

from kombu_hake.worker import observe, task_runs, watch


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    task_runs._unwatch()
    found: list[Any] = []
    monkeypatch.setattr(task_runs, "_known", found)
    yield found
    task_runs._unwatch()


def is_watched() -> bool:
    found = [any(key[0] == task_runs._UID for key, _ in signal.receivers) for signal in (task_prerun, task_postrun)]
    assert len(set(found)) == 1
    return found[0]


def test_tasks_are_watched_before_it_is_known_whether_anything_is_reported() -> None:
    watch()
    assert is_watched()


def test_where_nothing_is_reported_a_task_sends_no_signal() -> None:
    watch()
    observe(None)
    assert not is_watched()
    watch()  # by the next connection
    assert not is_watched()


def test_a_child_that_finds_out_with_its_first_task_sends_no_further_signal(known: list[Any]) -> None:
    watch()
    known[:] = [None]
    task_prerun.send(sender=None, task=None)
    assert not is_watched()


def test_a_connection_with_telemetry_is_watched_after_one_without() -> None:
    observe(None)
    telemetry: Any = object()
    observe(telemetry)
    assert is_watched()
