"""What is stored of an enqueued task, beside Celery's own result of it. Pure.

Celery's result of a task says how it ended, and nothing before that: an unknown id and a task that waits look the same.
So there is a second entry in the result backend, a record, from the moment the task is enqueued. It has what Django's
``TaskResult`` shows and Celery does not store: the task and its arguments, when it was enqueued and started, by which
workers, and the error of each attempt. A worker also gets the first half of it (:meth:`Record.header`) with the
message, so that it never depends on reading the entry.

Both halves come from outside (the result backend, a queue) and are checked here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import Any

__all__ = ["Failure", "Record", "celery_priority", "record_id", "valid_id"]

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
#: What travels with the message.
_SENT = ("backend", "priority", "queue_name", "run_after", "enqueued_at")
_TIMES = ("run_after", "enqueued_at", "started_at", "last_attempted_at")
LOWEST, HIGHEST = -100, 100


def valid_id(result_id: object) -> bool:
    """Return True for the id of a task that the backend has enqueued: a UUID as Celery writes it."""
    return isinstance(result_id, str) and _UUID.fullmatch(result_id) is not None


def record_id(result_id: str) -> str:
    """The id of the record of a task in the result backend; no task has it."""
    return f"{result_id}-django"


def celery_priority(priority: int, highest: int) -> int | None:
    """The priority of a message for a queue whose ``x-max-priority`` is *highest*; None for a queue without any.

    Django's -100 to 100 become 0 to *highest*, so its default, 0, is in the middle.
    """
    return round((priority - LOWEST) * highest / (HIGHEST - LOWEST)) if highest > 0 else None


@dataclass(frozen=True)
class Failure:
    """The error of one attempt, counted from 1."""

    attempt: int
    exception_class_path: str
    traceback: str


@dataclass(frozen=True)
class Record:
    """One enqueued task.

    Attributes:
        path: ``module.function`` of the task; the name of its Celery task.
        backend: Alias of the backend in ``TASKS``.
        worker_ids: The worker of each attempt.
    """

    path: str
    backend: str
    args: list[Any]
    kwargs: dict[str, Any]
    priority: int = 0
    queue_name: str = "default"
    run_after: datetime | None = None
    enqueued_at: datetime | None = None
    started_at: datetime | None = None
    last_attempted_at: datetime | None = None
    worker_ids: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()

    @property
    def has_failure_of_last_attempt(self) -> bool:
        """True if :attr:`failures` has the error of the latest attempt."""
        return bool(self.failures) and self.failures[-1].attempt == len(self.worker_ids)

    def started(self, worker_id: str, at: datetime) -> Record:
        """The record with one more attempt."""
        workers = (*self.worker_ids, worker_id)
        return replace(self, worker_ids=workers, started_at=self.started_at or at, last_attempted_at=at)

    def failed(self, error: BaseException, traceback: str) -> Record:
        """The record with the error of the latest attempt."""
        return replace(self, failures=(*self.failures, Failure(len(self.worker_ids), class_path(error), traceback)))

    def header(self) -> dict[str, Any]:
        """What a message carries, for JSON."""
        return {name: value for name, value in self.stored().items() if name in _SENT}

    def stored(self) -> dict[str, Any]:
        """What is stored, for JSON."""
        found = asdict(self)
        for name in _TIMES:
            found[name] = found[name].isoformat() if found[name] else None
        return found | {"worker_ids": list(self.worker_ids), "failures": list(found["failures"])}

    @classmethod
    def from_stored(cls, value: object) -> Record | None:
        """The inverse of :meth:`stored`; None for anything else."""
        if not isinstance(value, Mapping) or not {field.name for field in fields(cls)} <= set(value):
            return None
        args, kwargs, workers, failures = (value[name] for name in ("args", "kwargs", "worker_ids", "failures"))
        lists = (args, workers, failures)
        if not all(isinstance(item, list) for item in lists) or not _is_mapping_of_text(kwargs):
            return None
        errors = [_failure(item) for item in failures]
        if (
            not isinstance(value["path"], str)
            or not all(isinstance(worker, str) for worker in workers)
            or None in errors
        ):
            return None
        head = _head(value)
        if head is None:
            return None
        return cls(
            path=value["path"],
            args=args,
            kwargs=dict(kwargs),
            started_at=_time(value["started_at"]),
            last_attempted_at=_time(value["last_attempted_at"]),
            worker_ids=tuple(workers),
            failures=tuple(error for error in errors if error),
            **head,
        )

    @classmethod
    def from_header(cls, value: object, path: str, args: list[Any], kwargs: dict[str, Any], backend: str) -> Record:
        """The record of a message; one whose header is missing or damaged gets the defaults.

        Args:
            backend: The alias to use for such a message.
        """
        head = _head(value) if isinstance(value, Mapping) and set(_SENT) <= set(value) else None
        return cls(path=path, args=args, kwargs=kwargs, **(head or {"backend": backend}))


def class_path(error: BaseException) -> str:
    """The dotted path of an exception's class."""
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}"


def _head(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields that a message carries, checked; None if one of them is wrong."""
    priority = value["priority"]
    if type(priority) is not int or not LOWEST <= priority <= HIGHEST:
        return None
    if not isinstance(value["backend"], str) or not isinstance(value["queue_name"], str):
        return None
    times = {name: _time(value[name]) for name in ("run_after", "enqueued_at")}
    return {"backend": value["backend"], "queue_name": value["queue_name"], "priority": priority, **times}


def _time(value: object) -> datetime | None:
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _failure(value: object) -> Failure | None:
    if not isinstance(value, Mapping):
        return None
    attempt, path, traceback = (value.get(field.name) for field in fields(Failure))
    if type(attempt) is not int or not isinstance(path, str) or not isinstance(traceback, str):
        return None
    return Failure(attempt, path, traceback)


def _is_mapping_of_text(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
