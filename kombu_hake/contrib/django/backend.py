"""A backend of ``django.tasks`` that enqueues tasks as Celery messages, for Celery's workers. Needs Django 6.0.

    TASKS = {"default": {"BACKEND": "kombu_hake.contrib.django.CeleryBackend", "QUEUES": ["default", "emails"]}}

It uses the current Celery app, as ``@shared_task`` does: its broker, queues and result backend. It works with every
broker of Celery; priorities need a queue with ``max_priority``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from celery import current_app
from celery.backends.rpc import RPCBackend
from celery.exceptions import ImproperlyConfigured, QueueNotFound
from celery.result import EagerResult
from celery.utils import uuid
from django.apps import apps
from django.core import checks
from django.tasks import DEFAULT_TASK_QUEUE_NAME, Task, TaskResult, TaskResultStatus, signals
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist, TaskResultMismatch
from django.utils import timezone

from kombu_hake.amqp import max_priority
from kombu_hake.contrib.django import running
from kombu_hake.contrib.django.checks import check_app, identity
from kombu_hake.contrib.django.records import Record, celery_priority, valid_id
from kombu_hake.contrib.django.results import Results, task_result

__all__ = ["CeleryBackend"]


class CeleryBackend(BaseTaskBackend):  # type: ignore[misc]
    """Enqueues tasks for Celery's workers.

    ``enqueue`` sends the message at once, inside of a transaction too, as Django documents it. ``aenqueue`` and
    ``aget_result`` are Django's: the same in a thread.
    """

    supports_defer = True
    supports_async_task = True
    supports_priority = True

    @property
    def supports_get_result(self) -> bool:
        """True if the Celery app has a result backend that every process can read."""
        return self._results.are_kept

    def validate_task(self, task: Task) -> None:
        """Check a task when it is defined, modified or enqueued.

        Raises:
            InvalidTask: It is not valid, or defined for a backend of another class: Celery's workers would not know it.
        """
        if isinstance(task.run_after, timedelta):
            # Django documents it, and its own validation (6.0, 6.1) takes only a datetime. Validates all the rest:
            replace(task, run_after=None)
            return
        super().validate_task(task)
        named: Any = sys.modules.get(task.func.__module__)
        for name in task.func.__qualname__.split("."):
            named = getattr(named, name, None)
        if isinstance(named, Task) and not isinstance(named.get_backend(), CeleryBackend):
            raise InvalidTask(
                f"Task {task.module_path} is defined for backend {named.backend!r}, so Celery's workers do not know "
                f"it. Define it with @task(backend={task.backend!r})."
            )
        running.register(task)

    def enqueue(self, task: Task, args: Any, kwargs: Any) -> TaskResult:
        """Send a task to Celery's workers; returns when the broker has accepted it.

        Args:
            args, kwargs: Of types that JSON has.
        Raises:
            InvalidTask: The task is not valid, or Celery has no queue of its name.
            TypeError, ValueError: An argument that JSON can't hold.
            kombu.exceptions.OperationalError: The broker does not answer. Errors of the result backend propagate too;
                nothing is sent then.
        """
        self.validate_task(task)
        if isinstance(task.run_after, timedelta):
            task = replace(task, run_after=timezone.now() + task.run_after)
        result = TaskResult(
            task=task,
            id=uuid(),
            status=TaskResultStatus.READY,
            enqueued_at=timezone.now(),
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        record = Record(
            path=task.module_path,
            backend=self.alias,
            args=result.args,
            kwargs=result.kwargs,
            priority=task.priority,
            queue_name=task.queue_name,
            run_after=task.run_after,
            enqueued_at=result.enqueued_at,
        )
        # First the record: a worker may be done before this process writes another line.
        is_kept = self._results.are_kept
        if is_kept:
            self._results.write(result.id, record)
        try:
            sent = self._send(task, result, record)
        except BaseException:
            if is_kept:
                with suppress(Exception):
                    self._results.forget(result.id)
            raise
        if isinstance(sent, EagerResult):
            result = self._ran_here(task, result, record, sent)
        signals.task_enqueued.send_robust(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> TaskResult:
        """Read a result.

        Raises:
            NotImplementedError: There is no result backend that can be read.
            TaskResultDoesNotExist: No task was enqueued under this id, or its record has expired.
            TaskResultMismatch: No module that Celery imports defines its task.
        """
        if not self.supports_get_result:
            raise NotImplementedError(
                "Reading results needs a result backend of Celery that every process can read: set "
                "CELERY_RESULT_BACKEND (not rpc://)."
            )
        record = self._results.read(result_id) if valid_id(result_id) else None
        if record is None:
            raise TaskResultDoesNotExist(result_id)
        task = running.find(record.path, self._app)
        if task is None:
            raise TaskResultMismatch(f"No module that Celery imports defines the task of {result_id}: {record.path}")
        return task_result(result_id, record, task, self._results.outcome(result_id))

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        """Check the settings; Django's system checks call it."""
        found = check_app()
        if found:  # the app config reports it, where it is installed
            return [] if apps.is_installed(str(__package__)) else found
        return [*self._check_results(), *self._check_queues(), *self._check_priorities()]

    @property
    def _app(self) -> Any:
        return current_app._get_current_object()

    @property
    def _results(self) -> Results:
        return Results(self._app)

    def _send(self, task: Task, result: TaskResult, record: Record) -> Any:
        queue = self._queue(task)
        return self._app.tasks[task.module_path].apply_async(
            result.args,
            result.kwargs,
            task_id=result.id,
            headers={running.HEADER: record.header()},
            **({"queue": queue.name} if queue is not None and task.queue_name != DEFAULT_TASK_QUEUE_NAME else {}),
            **_maybe("priority", celery_priority(task.priority, _highest_priority(queue))),
            **_maybe("eta", _aware(task.run_after)),
        )

    def _queue(self, task: Task) -> Any:
        """The queue that Celery sends a task to: the one of its name, or by Celery's own routing for "default".

        Raises:
            InvalidTask: There is no such queue.
        """
        named = {} if task.queue_name == DEFAULT_TASK_QUEUE_NAME else {"queue": task.queue_name}
        try:
            return self._app.amqp.router.route(named, task.module_path).get("queue")
        except QueueNotFound as exc:
            raise InvalidTask(f"Celery has no queue {task.queue_name!r}: {exc}") from exc

    def _ran_here(self, task: Task, result: TaskResult, record: Record, outcome: EagerResult) -> TaskResult:
        """The result of a task that ran in ``apply_async``, with ``task_always_eager``."""
        if self._results.are_kept:
            return self.get_result(result.id)
        now = timezone.now()
        meta = {"status": outcome.state, "result": outcome.result, "traceback": outcome.traceback, "date_done": now}
        return task_result(result.id, record.started("eager", now), task, meta)

    def _check_results(self) -> list[checks.CheckMessage]:
        place = f"TASKS[{self.alias!r}]"
        try:
            is_rpc = isinstance(self._app.backend, RPCBackend)
        except (ImproperlyConfigured, ImportError) as exc:
            return [
                checks.Error(
                    f"The result backend of Celery cannot be loaded: {exc}",
                    hint="Correct CELERY_RESULT_BACKEND, or install the library that it needs.",
                    obj=place,
                    id=identity("E006"),
                )
            ]
        if is_rpc:
            return [
                checks.Warning(
                    "Results of rpc:// reach only the process that enqueued the task, so get_result() raises "
                    "NotImplementedError.",
                    hint="Set CELERY_RESULT_BACKEND to a store that all processes can read, such as redis://.",
                    obj=place,
                    id=identity("W003"),
                )
            ]
        if not self._app.conf.task_always_eager and not self._results.are_kept:
            return [
                checks.Info(
                    "Celery has no result backend, so get_result() raises NotImplementedError.",
                    hint="Set CELERY_RESULT_BACKEND. If no code reads results, silence this check: "
                    f'SILENCED_SYSTEM_CHECKS = ["{identity("I001")}"].',
                    obj=place,
                    id=identity("I001"),
                )
            ]
        return []

    def _check_queues(self) -> list[checks.CheckMessage]:
        if self._app.conf.task_create_missing_queues:
            return []
        return [
            checks.Error(
                f"QUEUES names {name!r}, which is not in CELERY_TASK_QUEUES; CELERY_TASK_CREATE_MISSING_QUEUES is off.",
                hint="Add the queue to CELERY_TASK_QUEUES, or remove it from QUEUES.",
                obj=f"TASKS[{self.alias!r}]",
                id=identity("E005"),
            )
            for name in sorted(self.queues - {DEFAULT_TASK_QUEUE_NAME})
            if name not in self._app.amqp.queues
        ]

    def _check_priorities(self) -> list[checks.CheckMessage]:
        """Of the tasks whose modules have been imported by now."""
        found = []
        for task in running.defined():
            if task.backend != self.alias or not task.priority:
                continue
            try:
                queue = self._queue(task)
            except InvalidTask:  # reported by another check
                continue
            if not _highest_priority(queue):
                found.append(
                    checks.Warning(
                        f"Task {task.module_path} has priority {task.priority}, but its queue "
                        f"{getattr(queue, 'name', task.queue_name)!r} has no priorities.",
                        hint="Declare the queue with max_priority, or set CELERY_TASK_QUEUE_MAX_PRIORITY = 9.",
                        obj=f"TASKS[{self.alias!r}]",
                        id=identity("W004"),
                    )
                )
        return found


def _highest_priority(queue: Any) -> int:
    if queue is None:
        return 0
    own: int | None = queue.max_priority
    return own or max_priority(queue.queue_arguments or {})


def _aware(run_after: datetime | None) -> datetime | None:
    """With a time zone, which a message must have; without one it is in that of the settings."""
    if run_after is None or run_after.tzinfo is not None:
        return run_after
    aware: datetime = timezone.make_aware(run_after)
    return aware


def _maybe(name: str, value: Any) -> Mapping[str, Any]:
    return {} if value is None else {name: value}
