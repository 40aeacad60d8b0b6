"""The backend of ``django.tasks``, method by method, against what Django documents of it. No worker, and no AWS."""

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest

django = pytest.importorskip("django")
if django.VERSION < (6,):
    pytest.skip("needs Django 6", allow_module_level=True)

from support.django_project import celery_app, configure

configure()

from celery import Celery, _state
from celery.exceptions import WorkerLostError
from django.apps import apps
from django.core import checks
from django.db import transaction
from django.tasks import TaskResult, TaskResultStatus, default_task_backend, signals, task_backends
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist, TaskResultMismatch
from django.test import override_settings
from kombu import Queue
from support import django_tasks as tasks

from kombu_hake.contrib.django import CeleryBackend
from kombu_hake.contrib.django.running import HEADER

UNKNOWN = "0e4b1c5e-7c3a-4f0e-9d53-0a4b6c1d2e3f"


@pytest.fixture
def app() -> Iterator[Celery]:
    tasks.calls.clear()
    with celery_app() as app:
        yield app


def message(app: Celery, queue: str | None = None) -> Any:
    """The next message of a queue, or None."""
    with app.connection_for_read() as connection:
        return app.amqp.queues[queue or app.conf.task_default_queue](connection.default_channel).get(no_ack=True)


def work(app: Celery, found: Any = None) -> None:
    """Run the task of a message as a worker does, and store its outcome."""
    found = found or message(app)
    args, kwargs, _ = found.payload
    headers = {HEADER: found.headers[HEADER]} if HEADER in found.headers else {}
    task = app.tasks[found.headers["task"]]
    task.store_eager_result = True
    task.apply(args, kwargs, task_id=found.headers["id"], headers=headers)


def test_it_says_what_it_supports(app: Celery) -> None:
    backend = task_backends["default"]
    assert isinstance(backend, CeleryBackend)
    assert backend.supports_defer
    assert backend.supports_async_task
    assert backend.supports_priority
    assert backend.supports_get_result


# --- enqueue


def test_a_task_is_a_celery_message_under_its_own_name(app: Celery) -> None:
    before = datetime.now(timezone.utc)
    result = tasks.add.enqueue(1, b=2)
    sent = message(app)
    assert sent.headers["task"] == "support.django_tasks.add"
    assert sent.headers["id"] == result.id
    assert sent.payload[:2] == [[1], {"b": 2}]
    assert result.status == TaskResultStatus.READY
    assert before <= result.enqueued_at <= datetime.now(timezone.utc)
    assert (result.args, result.kwargs, result.backend) == ([1], {"b": 2}, "default")
    assert (result.started_at, result.finished_at, result.last_attempted_at) == (None, None, None)
    assert (result.attempts, result.errors, result.worker_ids) == (0, [], [])
    assert len(result.id) < 64


def test_arguments_are_made_json_as_django_documents_it(app: Celery) -> None:
    result = tasks.add.enqueue((1, 2))
    assert result.args == [[1, 2]]
    assert message(app).payload[0] == [[1, 2]]


@pytest.mark.parametrize("value", [datetime(2026, 1, 1, tzinfo=timezone.utc), object(), {1}])
def test_other_arguments_are_refused_and_nothing_is_sent(app: Celery, value: Any) -> None:
    with pytest.raises(TypeError, match="Unsupported type"):
        tasks.add.enqueue(value)
    assert message(app) is None


@pytest.mark.parametrize("name", ["default", "emails"])
def test_a_queue_name_is_that_of_celerys_queue_and_default_is_celerys_default(app: Celery, name: str) -> None:
    tasks.add.using(queue_name=name).enqueue(1)
    assert message(app, None if name == "default" else name).headers["task"] == "support.django_tasks.add"


def test_celerys_routes_apply_to_the_default_queue(app: Celery) -> None:
    app.conf.task_routes = {"support.django_tasks.add": {"queue": "sums"}}
    tasks.add.enqueue(1)
    assert message(app, "sums") is not None


def test_a_queue_that_is_not_in_the_settings_is_invalid(app: Celery) -> None:
    with pytest.raises(InvalidTask, match="'sums' is not valid"):
        tasks.add.using(queue_name="sums")
    tasks.anywhere.using(queue_name="sums").enqueue()
    assert message(app, "sums") is not None


def test_a_queue_that_celery_does_not_have_is_invalid() -> None:
    queues = {"task_default_queue": "sums", "task_queues": [Queue("sums")], "task_create_missing_queues": False}
    with celery_app(**queues), pytest.raises(InvalidTask, match="Celery has no queue 'emails'"):
        tasks.urgent.enqueue()
    assert ids(**queues) == ["kombu_hake.E005"]


def test_run_after_is_the_eta_of_the_message(app: Celery) -> None:
    later = datetime.now(timezone.utc) + timedelta(days=40)
    result = tasks.add.using(run_after=later).enqueue(1)
    assert datetime.fromisoformat(message(app).headers["eta"]) == later
    assert tasks.add.get_result(result.id).task.run_after == later


def test_run_after_may_be_a_time_from_now_on(app: Celery) -> None:
    """As Django documents it. It counts from the moment the task is enqueued."""
    in_an_hour = tasks.add.using(run_after=timedelta(hours=1))
    before = datetime.now(timezone.utc)
    result = in_an_hour.enqueue(1)
    due = datetime.fromisoformat(message(app).headers["eta"])
    assert before <= due - timedelta(hours=1) <= datetime.now(timezone.utc)
    assert tasks.add.get_result(result.id).task.run_after == result.task.run_after == due
    with pytest.raises(InvalidTask, match="'sums' is not valid"):
        tasks.add.using(run_after=timedelta(hours=1), queue_name="sums")


def test_run_after_needs_a_time_zone_if_django_uses_them(app: Celery) -> None:
    with pytest.raises(InvalidTask, match="aware"):
        tasks.add.using(run_after=datetime(2030, 1, 1))  # noqa: DTZ001 - the point
    with override_settings(USE_TZ=False, TIME_ZONE="Europe/Oslo"):
        tasks.add.using(run_after=datetime(2030, 1, 1, 12)).enqueue(1)  # noqa: DTZ001
    assert message(app).headers["eta"] == "2030-01-01T12:00:00+01:00"


@pytest.mark.parametrize(("priority", "expected"), [(-100, 0), (0, 4), (50, 7), (100, 9)])
def test_a_priority_is_spread_over_those_of_the_queue(app: Celery, priority: int, expected: int) -> None:
    app.conf.task_queue_max_priority = 9  # read with the first use of a queue
    tasks.add.using(priority=priority).enqueue(1)
    assert message(app).properties["priority"] == expected


def test_a_queue_without_priorities_gets_none(app: Celery) -> None:
    tasks.add.using(priority=70).enqueue(1)
    assert not message(app).properties["priority"]


def test_a_task_that_cannot_be_sent_is_not_stored(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    ids: list[str] = []

    def refuse(*_: Any, task_id: str, **__: Any) -> None:
        ids.append(task_id)
        raise OSError("no broker")

    monkeypatch.setattr(app.tasks["support.django_tasks.add"], "apply_async", refuse)
    with pytest.raises(OSError, match="no broker"):
        tasks.add.enqueue(1)
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(ids[0])


def test_inside_of_a_transaction_it_is_sent_at_once(app: Celery) -> None:
    """As Django documents it; ``transaction.on_commit`` waits."""
    with transaction.atomic():
        tasks.add.enqueue(1)
        transaction.on_commit(partial(tasks.add.enqueue, 2))
        transaction.set_rollback(True)
    assert message(app).payload[0] == [1]
    assert message(app) is None
    with transaction.atomic():
        transaction.on_commit(partial(tasks.add.enqueue, 3))
        assert message(app) is None
    assert message(app).payload[0] == [3]


def test_a_task_that_is_defined_for_another_backend_is_refused_because_no_worker_knows_it(app: Celery) -> None:
    with pytest.raises(InvalidTask, match=r"defined for backend 'here'.*@task\(backend='default'\)"):
        tasks.at_once.using(backend="default")
    assert tasks.at_once.enqueue().status == TaskResultStatus.SUCCESSFUL


def test_async_methods_do_the_same(app: Celery) -> None:
    async def there_and_back() -> TaskResult:
        result = await tasks.add.aenqueue(1, b=2)
        await asyncio.to_thread(work, app)
        await result.arefresh()
        assert result.return_value == 3
        return await default_task_backend.aget_result((await tasks.add.aget_result(result.id)).id)

    assert asyncio.run(there_and_back()).status == TaskResultStatus.SUCCESSFUL
    with pytest.raises(TaskResultDoesNotExist):
        asyncio.run(default_task_backend.aget_result(UNKNOWN))


# --- results


@pytest.mark.parametrize("result_id", [UNKNOWN, f"{UNKNOWN}-django", "", "x" * 1000, None])
def test_an_unknown_id_does_not_exist(app: Celery, result_id: Any) -> None:
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(result_id)


def test_the_result_of_a_plain_celery_task_does_not_exist(app: Celery) -> None:
    app.backend.store_result(UNKNOWN, 7, "SUCCESS")
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(UNKNOWN)


def test_a_task_is_ready_from_the_moment_it_is_enqueued(app: Celery) -> None:
    result = tasks.add.enqueue(1, b=2)
    assert tasks.add.get_result(result.id) == result
    with pytest.raises(ValueError, match="not finished"):
        _ = result.return_value


def test_a_task_that_succeeds(app: Celery) -> None:
    result = tasks.add.enqueue(1, b=2)
    work(app)
    result.refresh()
    assert (result.status, result.return_value, result.is_finished) == (TaskResultStatus.SUCCESSFUL, 3, True)
    assert result.enqueued_at <= result.started_at == result.last_attempted_at <= result.finished_at
    assert result.attempts == len(result.worker_ids) == 1
    assert app.AsyncResult(result.id).get() == 3


def test_an_async_task_runs_and_its_value_is_made_json(app: Celery) -> None:
    result = tasks.slowly.enqueue("x")
    work(app)
    assert tasks.slowly.get_result(result.id).return_value == {"text": ["x"]}


def test_a_task_that_fails_has_the_class_and_the_traceback(app: Celery) -> None:
    result = tasks.fail.enqueue("no hake")
    work(app)
    result.refresh()
    assert (result.status, result.attempts) == (TaskResultStatus.FAILED, 1)
    [error] = result.errors
    assert error.exception_class is tasks.OutOfStock
    assert error.traceback.startswith("Traceback (most recent call last):")
    assert error.traceback.endswith("support.django_tasks.OutOfStock: no hake\n")
    with pytest.raises(ValueError, match="failed"):
        _ = result.return_value


def test_a_value_that_json_cannot_hold_is_a_failure(app: Celery) -> None:
    result = tasks.answer_a_set.enqueue()
    work(app)
    result.refresh()
    assert [error.exception_class for error in result.errors] == [TypeError]


def test_a_result_of_another_task_is_a_mismatch(app: Celery) -> None:
    result = tasks.add.enqueue(1)
    with pytest.raises(TaskResultMismatch):
        tasks.fail.get_result(result.id)


def test_a_result_whose_task_is_gone_is_a_mismatch(app: Celery) -> None:
    result = tasks.add.enqueue(1)
    meta = app.backend.get_task_meta(f"{result.id}-django")
    app.backend.store_result(f"{result.id}-django", meta["result"] | {"path": "os.system"}, "READY")
    with pytest.raises(TaskResultMismatch, match=r"No module that Celery imports defines .*os\.system"):
        default_task_backend.get_result(result.id)


@pytest.mark.parametrize("stored", [7, {}, {"path": "os.system"}, [None]])
def test_a_damaged_record_does_not_exist(app: Celery, stored: Any) -> None:
    app.backend.store_result(f"{UNKNOWN}-django", stored, "READY")
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(UNKNOWN)


def test_the_result_shows_what_the_task_was_enqueued_with(app: Celery) -> None:
    result = tasks.add.using(priority=7, queue_name="emails").enqueue(1)
    found = tasks.add.get_result(result.id).task
    assert (found.priority, found.queue_name, found.func) == (7, "emails", tasks.add.func)


def test_a_queue_that_is_gone_from_the_settings_leaves_the_result_readable(app: Celery) -> None:
    result = tasks.add.using(queue_name="emails").enqueue(1)
    with override_settings(TASKS={"default": {"BACKEND": "kombu_hake.contrib.django.CeleryBackend"}}):
        assert default_task_backend.get_result(result.id).status == TaskResultStatus.READY


def test_results_are_kept_where_celery_ignores_those_of_other_tasks(app: Celery) -> None:
    app.conf.task_ignore_result = True
    result = tasks.add.enqueue(1)
    work(app)
    result.refresh()
    assert result.return_value == 1


@pytest.mark.parametrize("backend", [None, "disabled://", "rpc://"])
def test_without_results_that_can_be_read_get_result_is_not_implemented(backend: str | None) -> None:
    with celery_app(backend=backend) as app:
        assert not default_task_backend.supports_get_result
        result = tasks.add.enqueue(1)
        assert message(app).headers["id"] == result.id
        for read in (default_task_backend.get_result, tasks.add.get_result):
            with pytest.raises(NotImplementedError, match="CELERY_RESULT_BACKEND"):
                read(result.id)
        with pytest.raises(NotImplementedError):
            result.refresh()


@pytest.mark.parametrize(
    ("store", "path"),
    [
        (lambda app, id: app.backend.mark_as_failure(id, WorkerLostError("gone")), "WorkerLostError"),
        (lambda app, id: app.backend.mark_as_revoked(id, "revoked"), "TaskRevokedError"),
    ],
)
def test_what_ends_a_task_outside_of_it_is_a_failure_too(
    app: Celery, store: Callable[[Celery, str], None], path: str
) -> None:
    result = tasks.add.enqueue(1)
    store(app, result.id)
    result.refresh()
    assert result.status == TaskResultStatus.FAILED
    assert [error.exception_class_path.rpartition(".")[2] for error in result.errors] == [path]
    assert result.errors[0].traceback


# --- in the worker


def test_a_task_that_takes_context_gets_its_result_and_attempt(app: Celery) -> None:
    result = tasks.attempt.using(queue_name="emails").enqueue()
    sent = message(app, "emails")
    work(app, sent)
    work(app, sent)  # redelivered
    assert [call["attempt"] for call in tasks.calls] == [1, 2]
    assert tasks.calls[0] == {"attempt": 1, "id": result.id, "status": TaskResultStatus.RUNNING, "queue": "emails"}
    assert tasks.attempt.get_result(result.id).attempts == 2


def test_each_attempt_that_fails_leaves_its_error(app: Celery) -> None:
    result = tasks.attempt.enqueue(fails=True)
    sent = message(app)
    work(app, sent)
    work(app, sent)
    result.refresh()
    assert [error.exception_class for error in result.errors] == [tasks.OutOfStock] * 2
    assert result.attempts == 2


def test_a_task_is_running_while_its_worker_is_at_it(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TaskResult] = []
    result = tasks.add.enqueue(1)
    signals.task_started.connect(look := lambda **_: seen.append(tasks.add.get_result(result.id)))
    try:
        work(app)
    finally:
        signals.task_started.disconnect(look)
    assert [(each.status, each.attempts) for each in seen] == [(TaskResultStatus.RUNNING, 1)]


def test_a_worker_needs_no_record_to_run_a_task(app: Celery) -> None:
    """The record has expired, or its transaction has not committed: the message has what it needs."""
    result = tasks.add.using(priority=7).enqueue(1)
    app.backend.forget(f"{result.id}-django")
    work(app)
    result = tasks.add.get_result(result.id)
    assert (result.status, result.task.priority, result.attempts) == (TaskResultStatus.SUCCESSFUL, 7, 1)


@pytest.mark.parametrize("header", [None, {}, "x", {"backend": "nobody's", "priority": 10**400}])
def test_a_message_with_a_damaged_header_runs_with_the_defaults(app: Celery, header: Any) -> None:
    result = tasks.add.using(priority=7).enqueue(1)
    app.backend.forget(f"{result.id}-django")
    sent = message(app)
    sent.headers[HEADER] = header
    work(app, sent)
    found = tasks.add.get_result(result.id)
    assert (found.status, found.task.priority, found.backend) == (TaskResultStatus.SUCCESSFUL, 0, "default")


def test_a_result_backend_that_fails_does_not_keep_a_task_from_running(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.add.enqueue(1)
    sent = message(app)

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no result backend")

    monkeypatch.setattr(app.backend, "get_task_meta", fail)
    monkeypatch.setattr(app.backend, "store_result", fail)
    app.tasks[sent.headers["task"]].apply(sent.payload[0], task_id=sent.headers["id"])
    assert tasks.calls == [(1, 0)]


def test_celerys_own_exceptions_are_no_errors(app: Celery) -> None:
    result = tasks.ignore.enqueue()
    work(app)
    assert tasks.ignore.get_result(result.id).errors == []


def test_signals_are_sent_and_a_receiver_that_fails_changes_nothing(app: Celery) -> None:
    seen: list[tuple[str, type, str]] = []

    def receive(name: str) -> Callable[..., None]:
        def note(sender: type, task_result: TaskResult, **_: Any) -> None:
            seen.append((name, sender, task_result.status))
            raise RuntimeError("a bug of the receiver's")

        return note

    receivers = [
        (signal, receive(name))
        for name, signal in (
            ("enqueued", signals.task_enqueued), ("started", signals.task_started), ("finished", signals.task_finished),
        )
    ]  # fmt: skip
    for signal, receiver in receivers:
        signal.connect(receiver)
    try:
        done, failed = tasks.add.enqueue(1), tasks.fail.enqueue("x")
        work(app)
        work(app)
    finally:
        for signal, receiver in receivers:
            signal.disconnect(receiver)
    assert {sender for _, sender, _ in seen} == {CeleryBackend}
    expected = ["enqueued READY"] * 2 + ["started RUNNING", "finished SUCCESSFUL", "started RUNNING", "finished FAILED"]
    assert [f"{name} {status}" for name, _, status in seen] == expected
    assert tasks.add.get_result(done.id).return_value == 1
    assert tasks.fail.get_result(failed.id).status == TaskResultStatus.FAILED


def test_a_worker_runs_only_tasks_that_its_code_defines(app: Celery) -> None:
    app.finalize()
    assert {"support.django_tasks.add", "support.django_tasks.slowly"} <= set(app.tasks)
    assert not {name for name in app.tasks if name.startswith("os.") or name == "support.django_tasks.at_once"}


def test_an_app_that_is_created_later_knows_the_tasks_too(app: Celery) -> None:
    other = Celery("other", set_as_current=False)
    assert "support.django_tasks.add" in other.tasks
    other.close()
    del other
    gc.collect()


def test_eager_tasks_run_in_place() -> None:
    with celery_app(task_always_eager=True):
        assert tasks.add.enqueue(1, b=2).return_value == 3
        failed = tasks.fail.enqueue("x")
        assert failed.status == TaskResultStatus.FAILED
        assert failed.errors[0].exception_class is tasks.OutOfStock
        assert not default_task_backend.supports_get_result
    with celery_app(task_always_eager=True, task_store_eager_result=True):
        result = tasks.add.enqueue(2)
        assert tasks.add.get_result(result.id).return_value == result.return_value == 2


# --- checks


def ids(**options: Any) -> list[str]:
    with celery_app(**options):
        return [str(found.id) for found in default_task_backend.check()]


def test_results_are_checked() -> None:
    priorities = {"task_queue_max_priority": 9}
    assert ids(**priorities) == []
    assert ids(**priorities, backend=None) == ["kombu_hake.I001"]
    assert ids(**priorities, backend="rpc://") == ["kombu_hake.W003"]
    assert ids(**priorities, backend="nosuch://") == ["kombu_hake.E006"]


def test_a_priority_in_a_queue_without_any_is_a_warning(app: Celery) -> None:
    [found] = default_task_backend.check()
    assert (found.id, found.level) == ("kombu_hake.W004", checks.WARNING)
    assert "support.django_tasks.urgent has priority 50, but its queue 'emails' has no priorities" in found.msg


def test_a_missing_app_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_state, "default_app", None)
    monkeypatch.setattr(_state, "_tls", _state._TLS())
    assert [found.id for found in checks.run_checks()] == ["kombu_hake.E001"]
    monkeypatch.setattr(apps, "is_installed", lambda name: False)
    assert [found.id for found in default_task_backend.check()] == ["kombu_hake.E001"]


def test_djangos_check_command_calls_the_checks() -> None:
    with celery_app(broker="hake://?regoin=x"):
        assert sorted(found.id for found in checks.run_checks()) == ["kombu_hake.E003", "kombu_hake.W004"]


def test_a_record_is_json(app: Celery) -> None:
    result = tasks.attempt.enqueue(fails=True)
    work(app)
    assert json.loads(json.dumps(app.backend.get_task_meta(f"{result.id}-django")["result"]))["failures"]
