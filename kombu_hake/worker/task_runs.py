"""Metrics and spans of the tasks that a worker runs, in the process that runs them.

They begin and end in two hooks of the app's loader, which Celery calls before and after each task in any case. Its
signals would do, but Celery sends one only where it has a receiver, and two of them take twice as long as the rest of
what is done here. Only failures and retries are learned from signals.

The span of a run is Celery's instrumentation's where that is active: then it only gets the attributes of the message.
That span has begun by then, because Celery sends the signal ``task_prerun`` first.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import wraps
from typing import Any

from kombu_hake.amqp import EVENT_HEADER, ORIGIN_HEADER, label
from kombu_hake.quoting import guarded
from kombu_hake.telemetry import Processing, Received, Telemetry, is_celery_instrumented, report

__all__ = ["observe", "on_init"]

logger = guarded(logging.getLogger(__name__))

#: The telemetry of this process's broker, once it is known. A pool forks its first children before the worker connects:
#: these find it out with their first task.
_known: list[Telemetry | None] = []
_UID = "kombu_hake.worker.task_runs"


class _Run:
    """A run that has started."""

    __slots__ = ("error", "processing", "queue", "started", "telemetry")

    def __init__(self, telemetry: Telemetry, queue: str, processing: Processing | None) -> None:
        self.telemetry = telemetry
        self.queue = queue
        #: None where the span is not ours.
        self.processing = processing
        #: What it raised.
        self.error: BaseException | None = None
        self.started = time.perf_counter()


#: That of this thread, or greenlet. A task that another one runs with ``apply()`` has none.
_run: ContextVar[_Run | None] = ContextVar("kombu_hake_run", default=None)


def observe(telemetry: Telemetry | None) -> None:
    """Report the tasks that this process runs there; it has connected to the broker."""
    _known[:] = [telemetry]


def on_init(sender: Any = None, **_kwargs: Any) -> None:
    """Observe the tasks of this process, which is a worker, and of its children; *sender* is its ``WorkController``.

    Celery takes the hooks from the loader when it prepares the tasks, which it does later.
    """
    loader = getattr(getattr(sender, "app", None), "loader", None)
    if loader is None or hasattr(loader.on_task_init, "is_of_hake"):
        return
    loader.on_task_init = _before(loader.on_task_init)
    loader.on_process_cleanup = _after(loader.on_process_cleanup)
    signals = sys.modules["celery.signals"]
    signals.task_failure.connect(_on_failure, weak=False, dispatch_uid=_UID)
    signals.task_retry.connect(_on_retry, weak=False, dispatch_uid=_UID)


def _before(on_task_init: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    @wraps(on_task_init)
    def before(task_id: Any, task: Any) -> None:
        on_task_init(task_id, task)
        try:
            telemetry = _known[0] if _known else _find(task.app)
            if telemetry is not None and telemetry.is_on():
                _start(telemetry, task, task.request)
        except Exception as exc:  # it would fail the task
            report(exc)

    before.is_of_hake = True  # type: ignore[attr-defined]
    return before


def _after(on_process_cleanup: Callable[[], Any]) -> Callable[[], Any]:
    @wraps(on_process_cleanup)
    def after() -> None:
        run = _run.get()
        if run is not None:
            _end(run)
        on_process_cleanup()

    return after


def _start(telemetry: Telemetry, task: Any, request: Any) -> None:
    properties, info = request.properties, request.delivery_info
    if not isinstance(properties, dict) or "receive_count" not in properties or not isinstance(info, Mapping):
        return  # from another broker, or from none
    if request.is_eager:
        return
    before = _run.get()
    if before is not None:  # the result backend has failed in its own cleanup, which ends the one of Celery
        _end(before)
    queue, processing = label(str(info.get("routing_key"))), None
    if telemetry.traces.is_on():
        received = _received(queue, task, request)
        if is_celery_instrumented():
            telemetry.traces.describe(received)
        else:
            processing = telemetry.traces.processing(received, request.headers or {})
    _run.set(_Run(telemetry, queue, processing))


def _end(run: _Run) -> None:
    _run.set(None)
    seconds = time.perf_counter() - run.started
    name = "" if run.error is None else type(run.error).__name__
    if run.processing is not None:
        run.processing.end(name, run.error)
    run.telemetry.metrics.processed(run.queue, seconds, name)


def _on_failure(sender: Any = None, exception: Any = None, **_kwargs: Any) -> None:
    # The argument may be a substitute that can be pickled. Celery sends the signal while it handles the exception.
    _failed(sender, sys.exc_info()[1] or exception)


def _on_retry(sender: Any = None, reason: Any = None, **_kwargs: Any) -> None:
    exc = getattr(reason, "exc", None)
    _failed(sender, exc if isinstance(exc, BaseException) else reason)


def _failed(task: Any, exc: Any) -> None:
    run = _run.get()
    if run is not None and isinstance(exc, BaseException) and not task.request.is_eager:
        run.error = exc


def _find(app: Any) -> Telemetry | None:
    try:
        find = getattr(app.connection_for_read().transport, "telemetry", None)
        _known.append(None if find is None else find())
    except Exception as exc:  # it is the worker's main process that reports what is wrong with the settings
        logger.debug("No metrics and spans of tasks: %r", exc)
        _known.append(None)
    return _known[0]


def _received(queue: str, task: Any, request: Any) -> Received:
    headers = request.headers or {}
    origin = headers.get(ORIGIN_HEADER)
    return Received(
        queue,
        request.id,
        request.properties["receive_count"],
        task.name,
        queue if EVENT_HEADER in headers else None,
        origin.get("exchange") if isinstance(origin, Mapping) else None,
    )
