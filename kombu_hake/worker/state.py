"""Read and change the state of the Celery worker that this process is. Uses Celery only where it is loaded already."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = [
    "consumer_of_worker",
    "drop_request",
    "is_of_worker",
    "is_stopping",
    "refuse_to_start",
    "remember",
    "running_properties",
    "settles",
    "take_back",
    "unstarted_tags",
]

_consumers: list[weakref.ref[Any]] = []
_settled: ContextVar[Any] = ContextVar("kombu_hake_settled", default=None)


def remember(consumer: Any) -> None:
    """Record the worker's consumer (``celery/worker/consumer/consumer.py``); it has the pool."""
    _consumers[:] = [weakref.ref(consumer)]


def consumer_of_worker() -> Any:
    """The consumer of this process's worker; None where there is none."""
    return _consumers[0]() if _consumers else None


def is_of_worker(transport: Any) -> bool:
    """Return True if a connection is the one that this process's worker consumes with."""
    consumer = consumer_of_worker()
    connection = getattr(consumer, "connection", None)
    return connection is not None and getattr(connection, "_transport", None) is transport


def is_stopping() -> bool:
    """Return True if this process is a worker that was told to end."""
    state = sys.modules.get("celery.worker.state")
    if state is None:
        return False
    stop, terminate = getattr(state, "should_stop", None), getattr(state, "should_terminate", None)
    # An exit status, 0 included, means that it was told so.
    return (stop is not None and stop is not False) or (terminate is not None and terminate is not False)


def running_properties() -> Mapping[str, Any] | None:
    """The properties of the message of the task that this thread (or greenlet) runs, or settles; None outside of tasks.

    A task that the running task calls like a function, or runs with ``apply()``, has no message.
    """
    state = sys.modules.get("celery._state")
    if state is None:
        return None
    for task in reversed(state._task_stack.stack):
        request = task.request
        if not request.called_directly and not request.is_eager:
            return request.properties or {}
    settled = _settled.get()
    return None if settled is None else settled.message.properties or {}


@contextmanager
def settles(request: Any) -> Iterator[None]:
    """The worker's main process deals with the end of a task: it may publish for it."""
    token = _settled.set(request)
    try:
        yield
    finally:
        _settled.reset(token)


def unstarted_tags(channel: Any) -> list[int]:
    """Delivery tags of tasks that a worker which ends holds and has not started; from now on it won't start them.

    ``[]`` outside of a worker. Left out is what may still run: a task that a child process was given (``billiard``'s
    ``_write_to``), and in a thread pool one that can't be taken back.

    Source:
        ``celery/worker/state.py``, ``celery/concurrency/asynpool.py`` (``flush`` drops what was not written to a child,
        because "the tasks will be redelivered by the broker").
    """
    state = sys.modules.get("celery.worker.state")
    if state is None:
        return []
    waiting = _listed(state.reserved_requests) | _listed(getattr(state, "scheduled_requests", ()))
    mine = [
        request
        for request in waiting - _listed(state.active_requests)
        if getattr(request.message, "channel", None) is channel
    ]
    unstarted = [request for request in mine if _will_not_start(request)]
    for request in unstarted:
        refuse_to_start(request)
    return [request.message.delivery_tag for request in unstarted]


def _listed(requests: Any) -> set[Any]:
    while True:
        try:
            return set(requests)
        except RuntimeError:  # a pool thread has changed it meanwhile
            continue


def take_back(request: Any) -> bool:
    """Take a task back from a thread pool that has not started it; False if it may have started.

    A task that has not reached a pool yet may still get its turn: see :func:`refuse_to_start`.
    """
    result = getattr(request, "_apply_result", None)
    if result is None:
        return True  # it waits for a free process, its ETA or a rate limit
    future = getattr(result(), "f", None)  # a weak reference
    return future is not None and bool(future.cancel())


def refuse_to_start(request: Any) -> None:
    """Have Celery never start a task. It may wait in places that can't be searched: it refuses when its turn comes."""
    from celery.exceptions import TaskRevokedError
    from celery.worker.state import task_ready

    def refuse(pool: Any, **_kwargs: Any) -> None:
        task_ready(request)  # an ETA that has come made it reserved again
        raise TaskRevokedError(request.id)

    request.execute_using_pool = refuse
    task_ready(request)


def drop_request(message: Any) -> None:
    """Have a worker forget the request that it has made of a message."""
    state = sys.modules.get("celery.worker.state")
    if state is None:
        return
    for request in list(state.requests.values()):
        if request.message is message:
            state.task_ready(request)


def _will_not_start(request: Any) -> bool:
    if take_back(request):
        return True
    job = request._apply_result()
    if job is None or hasattr(job, "f"):
        return False
    return getattr(job, "_write_to", None) is None and getattr(job, "_scheduled_for", None) is None
