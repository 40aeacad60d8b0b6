"""Tasks of ``django.tasks`` as Celery tasks: their registration, and how a worker runs one.

Each is a shared task of Celery under its path, ``orders.tasks.send_receipt``, registered when its module is imported.
So a worker runs only what its own code defines, and logs, monitors, ``task_routes`` and ``task_annotations`` show and
take the names that they have in the code. Celery stores how the task ended; the record of it says the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from traceback import format_exception
from typing import Any

from celery import shared_task
from celery.exceptions import TaskPredicate
from django.tasks import Task, TaskContext, TaskResult, TaskResultStatus, signals, task_backends
from django.tasks.base import TaskError
from django.tasks.exceptions import InvalidTaskBackend
from django.utils import timezone
from django.utils.json import normalize_json

from kombu_hake.contrib.django.records import Record
from kombu_hake.contrib.django.results import Results, task_result
from kombu_hake.quoting import guarded

__all__ = ["HEADER", "defined", "find", "register"]

logger = guarded(logging.getLogger(__name__))
#: Of a message: :meth:`Record.header`.
HEADER = "django-task"
_tasks: dict[str, Task] = {}


def register(task: Task) -> None:
    """Make a task known to Celery's apps, in this process. Idempotent."""
    path = task.module_path
    known = _tasks.get(path)
    if known is None or known.func is not task.func:
        _tasks[path] = task
    if known is None:
        shared_task(name=path, bind=True, ignore_result=False, typing=False)(_runner(path))


def defined() -> list[Task]:
    """The tasks that this process has imported, as they are defined."""
    return list(_tasks.values())


def find(path: str, app: Any) -> Task | None:
    """A task by its path, among all that workers import; None if it is not there."""
    if path not in _tasks:
        app.loader.import_default_modules()
    return _tasks.get(path)


def _runner(path: str) -> Callable[..., Any]:
    def run(celery_task: Any, *args: Any, **kwargs: Any) -> Any:
        return _Run(celery_task, _tasks[path], list(args), kwargs)()

    run.__module__, _, run.__name__ = path.rpartition(".")
    return run


class _Run:
    """One attempt."""

    def __init__(self, celery_task: Any, task: Task, args: list[Any], kwargs: dict[str, Any]) -> None:
        self._id = str(celery_task.request.id)
        self._task, self._args, self._kwargs = task, args, kwargs
        self._results = Results(celery_task.app)
        header = (celery_task.request.headers or {}).get(HEADER)
        sent = Record.from_header(header, task.module_path, args, kwargs, task.backend)
        # The attempts before this one are in the record alone.
        before = self._read()
        record = before if before is not None and before.path == sent.path else sent
        self._record = record.started(str(celery_task.request.hostname), timezone.now())

    def __call__(self) -> Any:
        self._write()
        result = task_result(self._id, self._record, self._task, {})
        sender = self._sender()
        signals.task_started.send_robust(sender, task_result=result)
        try:
            context = (TaskContext(task_result=result),) if self._task.takes_context else ()
            value = normalize_json(self._task.call(*context, *self._args, **self._kwargs))
        except TaskPredicate:  # Celery's Ignore, Reject, Retry: no error
            raise
        except Exception as exc:
            traceback = "".join(format_exception(exc))
            self._record = self._record.failed(exc, traceback)
            self._write()
            error = self._record.failures[-1]
            result.errors.append(TaskError(exception_class_path=error.exception_class_path, traceback=traceback))
            _finish(result, TaskResultStatus.FAILED)
            signals.task_finished.send_robust(sender, task_result=result)
            raise
        _finish(result, TaskResultStatus.SUCCESSFUL, value)
        signals.task_finished.send_robust(sender, task_result=result)
        return value

    def _sender(self) -> type[Any]:
        for alias in (self._record.backend, self._task.backend):
            try:
                return type(task_backends[alias])
            except InvalidTaskBackend:
                continue
        return object

    # A result backend that fails does not keep the task from running. Celery reports it when it stores the outcome.

    def _read(self) -> Record | None:
        try:
            return self._results.read(self._id) if self._results.are_kept else None
        except Exception as exc:
            logger.info("Cannot read the record of task %s: %s", self._id, exc)
            return None

    def _write(self) -> None:
        try:
            if self._results.are_kept:
                self._results.write(self._id, self._record)
        except Exception as exc:
            logger.info("Cannot store the record of task %s: %s", self._id, exc)


def _finish(result: TaskResult, status: TaskResultStatus, value: Any = None) -> None:
    """Django's results are frozen, and changed this way by its own backends too."""
    for name, found in (("finished_at", timezone.now()), ("status", status), ("_return_value", value)):
        object.__setattr__(result, name, found)
