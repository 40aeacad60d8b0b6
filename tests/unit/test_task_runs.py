"""The hooks in which a worker observes its tasks; tests/processes/test_celery_telemetry.py has whole workers."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.app.trace import build_tracer
from celery.exceptions import Ignore, Reject
from support.telemetry import Observed, observed

from kombu_hake.telemetry import Telemetry, names
from kombu_hake.worker import observe, task_runs


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(task_runs, "_known", found)
    return found


@pytest.fixture
def seen() -> Iterator[Observed]:
    with observed() as found:
        observe(found.telemetry)
        yield found


@pytest.fixture
def app() -> Iterator[Celery]:
    found = Celery("shop", broker="memory://", set_as_current=False)
    found.conf.task_ignore_result = True
    task_runs.on_init(sender=SimpleNamespace(app=found))
    yield found
    found.close()


def run(app: Celery, function: Any, **request: Any) -> Any:
    """Run a function as a task of a message from ``hake://``, as a worker does; the state that Celery finds."""
    name = f"shop.{function.__name__}"
    app.finalize()
    task = app.tasks.get(name) or app.task(function, name=name, bind=True, shared=False)
    message = {
        "id": "1",
        "properties": {"receive_count": 1},
        "delivery_info": {"exchange": "", "routing_key": "mails"},
        **request,
    }
    return build_tracer(task.name, task, app.loader, app=app)("1", (), {}, message)


def processed(seen: Observed) -> list[Any]:
    """The classes of errors in the metric of runs, and how many runs there are of each."""
    return [(attributes.get(names.ERROR), count) for attributes, (count, _) in seen.points(names.PROCESS_DURATION)]


def nothing(self: Any) -> None:
    """Do nothing."""


def test_a_run_is_measured_and_has_a_span_that_ends_with_it(app: Celery, seen: Observed) -> None:
    inside: list[int] = []

    def look(self: Any) -> None:
        inside.append(len(seen.spans()))

    run(app, look)
    assert inside == [0]
    assert [span.name for span in seen.spans()] == ["process mails"]
    assert processed(seen) == [(None, 1)]


def test_an_error_is_that_of_the_task_even_where_it_cannot_be_pickled(app: Celery, seen: Observed) -> None:
    class Local(LookupError):
        def __init__(self, text: str, _lock: Any) -> None:
            super().__init__(text)

    def fail(self: Any) -> None:
        raise Local("no such card", object())

    run(app, fail)
    assert processed(seen) == [("Local", 1)]
    assert (seen.span("process mails").attributes or {})[names.ERROR] == "Local"


def test_the_error_of_a_retry_is_its_reason(app: Celery, seen: Observed) -> None:
    def retry(self: Any) -> None:
        raise self.retry(exc=OSError("the bank is closed"), throw=False) from None

    def publish(*_args: Any, **_kwargs: Any) -> None:
        """Send nothing."""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("celery.canvas.Signature.apply_async", publish)
        run(app, retry)
    assert processed(seen) == [("OSError", 1)]


@pytest.mark.parametrize("raised", [Ignore, Reject])
def test_what_is_ignored_or_rejected_is_no_error(app: Celery, seen: Observed, raised: Any) -> None:
    def leave(self: Any) -> None:
        raise raised

    run(app, leave)
    assert processed(seen) == [(None, 1)]


def test_a_task_that_another_one_runs_like_a_function_belongs_to_its_run(app: Celery, seen: Observed) -> None:
    @app.task(name="shop.inner", shared=False)
    def inner() -> None:
        raise LookupError

    def outer(self: Any) -> None:
        inner.apply()

    run(app, outer)
    assert processed(seen) == [(None, 1)]
    assert len(seen.spans()) == 1


def test_a_message_of_another_broker_is_not_observed(app: Celery, seen: Observed) -> None:
    run(app, nothing, properties={})
    assert processed(seen) == seen.spans() == []


def test_a_run_that_celery_did_not_end_ends_with_the_next_one(
    app: Celery, seen: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError("the result backend is gone")

    with monkeypatch.context() as patch:
        patch.setattr(app.backend, "process_cleanup", fail)
        run(app, nothing)
    assert seen.spans() == []
    run(app, nothing)
    assert processed(seen) == [(None, 2)]
    assert len(seen.spans()) == 2


def test_without_an_sdk_nothing_is_started(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    observe(Telemetry())
    monkeypatch.setattr(task_runs, "_start", None)  # a call would be reported
    monkeypatch.setattr(task_runs, "report", raising)
    run(app, nothing)


def raising(exc: Exception) -> None:
    raise exc


def test_a_child_finds_out_with_its_first_task_whether_anything_is_reported(app: Celery, known: list[Any]) -> None:
    run(app, nothing)
    assert known == [None]


def test_what_fails_here_fails_no_task(app: Celery, seen: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_runs, "label", None)
    reported: list[Exception] = []
    monkeypatch.setattr(task_runs, "report", reported.append)
    done = []

    def work(self: Any) -> None:
        done.append(1)

    run(app, work)
    assert done
    assert [type(exc) for exc in reported] == [TypeError]


def test_the_hooks_of_a_loader_are_taken_once(app: Celery) -> None:
    before = app.loader.on_task_init
    task_runs.on_init(sender=SimpleNamespace(app=app))
    assert app.loader.on_task_init is before


def test_a_sender_without_an_app_is_ignored() -> None:
    task_runs.on_init(sender=object())
