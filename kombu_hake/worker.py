"""What only a Celery worker's own state tells. Imports nothing of Celery: looks at it where it is loaded.

At a warm shutdown Celery cancels its consumers, waits for the tasks that run, and only then closes its connection. What
it prefetched and did not start would stay invisible to other workers for as long as the longest task runs. So when the
last consumer of a channel is cancelled in a worker that stops, the messages of such tasks are released at once.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["unstarted_tags"]


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
    requests = set(state.reserved_requests) - set(state.active_requests)
    return [
        request.message.delivery_tag
        for request in requests
        if getattr(request.message, "channel", None) is channel and _will_not_start(request)
    ]


def _is_stopping(state: Any) -> bool:
    return any(
        flag is not None and flag is not False
        for flag in (getattr(state, "should_stop", None), getattr(state, "should_terminate", None))
    )


def _will_not_start(request: Any) -> bool:
    result = getattr(request, "_apply_result", None)
    if result is None:
        return True  # an ETA that is not due, or a rate limit: it never reached the pool
    job = result()  # a weak reference
    if job is None:
        return False
    future = getattr(job, "f", None)
    if future is not None:
        return bool(future.cancel())
    return getattr(job, "_write_to", None) is None and getattr(job, "_scheduled_for", None) is None
