"""Results of tasks: records in Celery's result backend, and Django's ``TaskResult`` from a record and an outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from celery import states
from celery.backends.base import DisabledBackend
from celery.backends.rpc import RPCBackend
from django.conf import settings
from django.tasks import Task, TaskResult, TaskResultStatus
from django.tasks.base import TaskError
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend
from django.utils import timezone as django_timezone

from kombu_hake.contrib.django.records import Record, class_path, record_id

__all__ = ["Results", "task_result"]

#: The state of a record in the result backend: any that Celery gives no meaning to.
_STATE = "READY"
_STATUS = {
    states.STARTED: TaskResultStatus.RUNNING,
    states.RETRY: TaskResultStatus.READY,
    states.SUCCESS: TaskResultStatus.SUCCESSFUL,
    states.FAILURE: TaskResultStatus.FAILED,
    states.REVOKED: TaskResultStatus.FAILED,
}


class Results:
    """The result backend of a Celery app. Its errors propagate, as they do from Celery's own results."""

    def __init__(self, app: Any) -> None:
        self._app = app

    @property
    def are_kept(self) -> bool:
        """True if results can be read from any process."""
        conf = self._app.conf
        if conf.task_always_eager and not conf.task_store_eager_result:
            return False
        return not isinstance(self._app.backend, DisabledBackend | RPCBackend)

    def read(self, result_id: str) -> Record | None:
        """The record of a task; None for an unknown id."""
        meta = self._app.backend.get_task_meta(record_id(result_id))
        return Record.from_stored(meta.get("result")) if meta.get("status") == _STATE else None

    def write(self, result_id: str, record: Record) -> None:
        """Store a record, in place of the former one."""
        self._app.backend.store_result(record_id(result_id), record.stored(), _STATE)

    def forget(self, result_id: str) -> None:
        """Delete a record."""
        self._app.backend.forget(record_id(result_id))

    def outcome(self, result_id: str) -> Mapping[str, Any]:
        """Celery's result of a task: ``status``, ``result``, ``traceback``, ``date_done``."""
        found: Mapping[str, Any] = self._app.backend.get_task_meta(result_id)
        return found


def task_result(result_id: str, record: Record, task: Task, outcome: Mapping[str, Any]) -> TaskResult:
    """Django's view of a task.

    Args:
        task: As it is defined; the result shows the priority, queue, … that it was enqueued with.
        outcome: Celery's result of it, ``{}`` for none yet.
    """
    unfinished = TaskResultStatus.RUNNING if record.worker_ids else TaskResultStatus.READY
    status = _STATUS.get(outcome.get("status", ""), unfinished)
    is_finished = status in (TaskResultStatus.SUCCESSFUL, TaskResultStatus.FAILED)
    errors = [
        TaskError(exception_class_path=each.exception_class_path, traceback=each.traceback) for each in record.failures
    ]
    if status == TaskResultStatus.FAILED and not record.has_failure_of_last_attempt:
        errors.append(_error_of_celery(outcome))  # the worker died, the task was revoked, no worker knows it, …
    found = TaskResult(
        task=_as_enqueued(record, task),
        id=result_id,
        status=status,
        enqueued_at=record.enqueued_at,
        started_at=record.started_at,
        finished_at=_time(outcome.get("date_done")) if is_finished else None,
        last_attempted_at=record.last_attempted_at,
        args=record.args,
        kwargs=record.kwargs,
        backend=record.backend,
        errors=errors,
        worker_ids=list(record.worker_ids),
    )
    if status == TaskResultStatus.SUCCESSFUL:
        object.__setattr__(found, "_return_value", outcome.get("result"))
    return found


def _as_enqueued(record: Record, task: Task) -> Task:
    try:
        return replace(
            task,
            backend=record.backend,
            priority=record.priority,
            queue_name=record.queue_name,
            run_after=record.run_after,
        )
    except (InvalidTask, InvalidTaskBackend):  # TASKS has changed since
        return task


def _error_of_celery(outcome: Mapping[str, Any]) -> TaskError:
    error, traceback = outcome.get("result"), outcome.get("traceback")
    if not isinstance(error, BaseException):
        error = RuntimeError(str(error))
    return TaskError(
        exception_class_path=class_path(error), traceback=str(traceback or f"{class_path(error)}: {error}")
    )


def _time(value: object) -> datetime | None:
    """A time that Celery stored, which is UTC if it does not say, as Django's ``timezone.now()`` gives it."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        return None
    aware = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
    if settings.USE_TZ:
        return aware.astimezone(timezone.utc)
    naive: datetime = django_timezone.make_naive(aware)
    return naive
