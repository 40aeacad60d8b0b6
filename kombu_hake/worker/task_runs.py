"""Metrics and spans of the tasks that a worker runs, from Celery's signals, in the process that runs them.

The span of a run is Celery's instrumentation's where that is active: then it only gets the attributes of the message.
Signals reach receivers in the order in which they were connected, which is the application's choice, so the span may be
the current one before a run or after it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from kombu_hake.amqp import EVENT_HEADER, ORIGIN_HEADER, label
from kombu_hake.telemetry import Processing, Received, Telemetry, is_celery_instrumented

__all__ = ["observe"]

#: The telemetry of the worker's connections; a forked child has it too.
_observers: list[Telemetry] = []
_RUN = "_hake_run"
_ERRORS = ("FAILURE", "RETRY")


class _Run(NamedTuple):
    """A run that has started."""

    received: Received
    started: float
    #: None where the span is not ours.
    processing: Processing | None


def observe(telemetry: Telemetry | None) -> None:
    """Observe the tasks that this process, if it is a worker, and its children run. May be repeated."""
    signals = sys.modules.get("celery.signals")
    if telemetry is None or signals is None or "celery.worker.state" not in sys.modules:
        return
    _observers[:] = [telemetry]
    signals.task_prerun.connect(_on_start, weak=False, dispatch_uid="kombu_hake.worker.task_runs")
    signals.task_postrun.connect(_on_end, weak=False, dispatch_uid="kombu_hake.worker.task_runs")


def _on_start(task: Any = None, **_kwargs: Any) -> None:
    request = getattr(task, "request", None)
    received = _received(task, request)
    if received is None:
        return
    traces, processing = _observers[0].traces, None
    if traces.is_on():
        if is_celery_instrumented():
            traces.describe(received)
        else:
            processing = traces.processing(received, getattr(request, "headers", None) or {})
    setattr(request, _RUN, _Run(received, time.perf_counter(), processing))


def _on_end(task: Any = None, state: Any = None, retval: Any = None, **_kwargs: Any) -> None:
    request = getattr(task, "request", None)
    run: _Run | None = getattr(request, _RUN, None)
    if run is None:
        return
    setattr(request, _RUN, None)
    seconds = time.perf_counter() - run.started
    error = None
    if state in _ERRORS and isinstance(retval, BaseException):
        reason = getattr(retval, "exc", None) if state == "RETRY" else None
        error = reason if isinstance(reason, BaseException) else retval
    name = "" if error is None else type(error).__name__
    if run.processing is not None:
        run.processing.end(name, error)
    elif is_celery_instrumented():
        _observers[0].traces.describe(run.received)
    _observers[0].metrics.processed(run.received.queue, seconds, name)


def _received(task: Any, request: Any) -> Received | None:
    """The message of a run; None if it did not come from ``hake://``: another broker, or no broker at all."""
    properties, info = getattr(request, "properties", None), getattr(request, "delivery_info", None)
    if not isinstance(properties, dict) or "receive_count" not in properties or not isinstance(info, Mapping):
        return None
    if getattr(request, "is_eager", False):
        return None
    headers = getattr(request, "headers", None) or {}
    queue, origin = label(str(info.get("routing_key"))), headers.get(ORIGIN_HEADER)
    return Received(
        queue,
        request.id,
        properties["receive_count"],
        task.name,
        queue if EVENT_HEADER in headers else None,
        origin.get("exchange") if isinstance(origin, Mapping) else None,
    )
