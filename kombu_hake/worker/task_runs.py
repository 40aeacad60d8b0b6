"""Metrics and spans of the tasks that a worker runs, from Celery's signals, in the process that runs them.

The span of a run is Celery's instrumentation's where that is active: then it only gets the attributes of the message.
Signals reach receivers in the order in which they were connected, which is the application's choice, so the span may be
the current one before a run or after it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from kombu_hake.amqp import EVENT_HEADER, ORIGIN_HEADER, label
from kombu_hake.exceptions import HakeError
from kombu_hake.quoting import guarded
from kombu_hake.telemetry import Processing, Received, Telemetry, is_celery_instrumented

__all__ = ["observe", "watch"]

logger = guarded(logging.getLogger(__name__))

#: The telemetry of this process's broker, once it is known. A pool forks its first children before the worker connects:
#: these find it out with their first task.
_known: list[Telemetry | None] = []
_UID = "kombu_hake.worker.task_runs"
_RUN = "_hake_run"
_ERRORS = ("FAILURE", "RETRY")


class _Run(NamedTuple):
    """A run that has started."""

    received: Received
    started: float
    #: None where the span is not ours.
    processing: Processing | None


def observe(telemetry: Telemetry | None) -> None:
    """Report the tasks that this process runs there; it has connected to the broker."""
    _known[:] = [telemetry]
    if telemetry is None:
        _unwatch()
    else:
        watch()


def watch() -> None:
    """Have the tasks observed that this process, if it is a worker, and its children run. May be repeated.

    Does nothing once it is known that nothing is to be reported.
    """
    signals = sys.modules.get("celery.signals")
    if signals is None or "celery.worker.state" not in sys.modules or _known == [None]:
        return
    signals.task_prerun.connect(_on_start, weak=False, dispatch_uid=_UID)
    signals.task_postrun.connect(_on_end, weak=False, dispatch_uid=_UID)


def _unwatch() -> None:
    """Celery sends no signal without a receiver: two of them cost a task some ten microseconds."""
    signals = sys.modules.get("celery.signals")
    if signals is not None:
        signals.task_prerun.disconnect(dispatch_uid=_UID)
        signals.task_postrun.disconnect(dispatch_uid=_UID)


def _on_start(task: Any = None, **_kwargs: Any) -> None:
    request = getattr(task, "request", None)
    received = _received(task, request)
    telemetry = None if received is None else _telemetry_of(task.app)
    if received is None or telemetry is None:
        if _known == [None]:
            _unwatch()
        return
    processing = None
    if telemetry.traces.is_on():
        if is_celery_instrumented():
            telemetry.traces.describe(received)
        else:
            processing = telemetry.traces.processing(received, getattr(request, "headers", None) or {})
    setattr(request, _RUN, _Run(received, time.perf_counter(), processing))


def _on_end(task: Any = None, state: Any = None, retval: Any = None, **_kwargs: Any) -> None:
    request = getattr(task, "request", None)
    run: _Run | None = getattr(request, _RUN, None)
    telemetry = _known[0] if _known else None
    if run is None or telemetry is None:
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
        telemetry.traces.describe(run.received)
    telemetry.metrics.processed(run.received.queue, seconds, name)


def _telemetry_of(app: Any) -> Telemetry | None:
    if not _known:
        try:
            find = getattr(app.connection_for_read().transport, "telemetry", None)
            _known.append(None if find is None else find())
        except HakeError as exc:  # it is the worker's main process that reports what is wrong with the settings
            logger.debug("No metrics and spans of tasks: %r", exc)
            _known.append(None)
    return _known[0]


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
