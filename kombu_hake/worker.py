"""What only a Celery worker's own state tells. Looks at Celery where it is loaded, and imports none of it before.

At a warm shutdown Celery cancels its consumers, waits for the tasks that run, and only then closes its connection. What
it prefetched and did not start would stay invisible to other workers for as long as the longest task runs. So when the
last consumer of a channel is cancelled in a worker that stops, the messages of such tasks are released at once.
"""

from __future__ import annotations

import sys
import weakref
from typing import Any

__all__ = ["is_unstarted", "pool_of_worker", "refuse_to_start", "unstarted_tags", "watch"]

#: The worker's consumer (``celery/worker/consumer/consumer.py``); it has the pool.
_consumers: list[weakref.ref[Any]] = []


def watch() -> None:
    """Take note of the worker that this process is, if it is one. Harmless when repeated."""
    signals = sys.modules.get("celery.signals")
    if signals is not None and "celery.worker.state" in sys.modules:
        signals.worker_ready.connect(_remember, weak=False, dispatch_uid="kombu_hake.worker")


def _remember(sender: Any = None, **_kwargs: Any) -> None:
    _consumers[:] = [weakref.ref(sender)]


def pool_of_worker() -> Any:
    """The pool of this process's worker; None where there is none."""
    consumer = _consumers[0]() if _consumers else None
    return getattr(consumer, "pool", None)


def unstarted_tags(channel: Any) -> list[int]:
    """Delivery tags of tasks that this worker holds, and will not start any more.

    ``[]`` outside of a worker, and in one that is not stopping. Left out is whatever may still run: a task that a child
    process was given (``billiard``'s ``_write_to``), and in a thread pool one that can't be taken back.

    Source:
        ``celery/worker/state.py``, ``celery/concurrency/asynpool.py`` (``flush`` drops what was not written to a child,
        because "the tasks will be redelivered by the broker").
    """
    state = sys.modules.get("celery.worker.state")
    if state is None or not _is_stopping(state):
        return []
    waiting = set(state.reserved_requests) | set(getattr(state, "scheduled_requests", ()))
    mine = [r for r in waiting - set(state.active_requests) if getattr(r.message, "channel", None) is channel]
    unstarted = [request for request in mine if _will_not_start(request)]
    for request in unstarted:
        refuse_to_start(request)
    return [request.message.delivery_tag for request in unstarted]


def is_unstarted(request: Any) -> bool:
    """Whether a task was not started, and now won't be unless its turn comes: it has not reached the pool, or it is
    taken back from there.
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


def _is_stopping(state: Any) -> bool:
    return any(
        flag is not None and flag is not False
        for flag in (getattr(state, "should_stop", None), getattr(state, "should_terminate", None))
    )


def _will_not_start(request: Any) -> bool:
    if is_unstarted(request):
        return True
    job = request._apply_result()
    if job is None or hasattr(job, "f"):
        return False
    return getattr(job, "_write_to", None) is None and getattr(job, "_scheduled_for", None) is None
