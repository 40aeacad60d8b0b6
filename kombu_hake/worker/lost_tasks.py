"""What becomes of a Celery task whose lease is lost; in the consuming thread of a worker's main process.

Its message is, or was, redelivered, and its next receiver runs the task. So a task that this worker has not started
is dropped, which loses nothing and saves a run. For one that runs, a signal is sent, and the task is terminated if the
option ``on_lost_lease`` is ``terminate``. Neither is acknowledged, rejected or given a result: the other run does that.

Uses Celery only where it is loaded already.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from kombu_hake.quoting import fields, guarded
from kombu_hake.receive import Lease, Why
from kombu_hake.worker.state import consumer_of_worker, refuse_to_start, take_back

__all__ = ["on_lost"]

logger = guarded(logging.getLogger(__name__))
#: No other worker will run the task, or it is not certain that one will: it must not be terminated.
_LAST_RUN = (Why.GONE, Why.ACK_FAILED)


def on_lost(channel: Any, lease: Lease, why: Why, *, terminate: bool) -> None:
    """Send the signal of a lost lease, and end a task that should not run.

    Args:
        channel: The channel that handed the message over; None when it is closed.
        terminate: Whether to terminate a task that runs.
    """
    about = lease.about
    if about is None or "celery" not in sys.modules:
        return
    request = _request_of(channel, about.delivery_tag)
    if about.task is not None:
        from kombu_hake.signals import lease_lost

        lease_lost.send(about.task, task_id=about.task_id, queue=about.queue, why=why, request=request)
    if request is None or why in _LAST_RUN or not lease.is_lost:  # it may have been renewed after all
        return
    if take_back(request):
        refuse_to_start(request)
        logger.warning(
            "HAKE102 Not starting task %s[%s] in this worker: its message is redelivered.", request.name, request.id,
            extra=fields(queue=about.queue, task_id=request.id),
        )  # fmt: skip
    elif not terminate or not _terminate(request):
        return
    channel.abandon(about.delivery_tag)


def _request_of(channel: Any, delivery_tag: int) -> Any:
    state = sys.modules.get("celery.worker.state")
    requests = [] if state is None or channel is None else list(state.requests.values())
    for request in requests:
        message = request.message
        if getattr(message, "channel", None) is channel and message.delivery_tag == delivery_tag:
            return request
    return None


def _terminate(request: Any) -> bool:
    """Terminate a task that runs; False if the pool cannot do that."""
    pool = getattr(consumer_of_worker(), "pool", None)
    if pool is None:
        return False
    logger.warning(
        "HAKE103 Terminating task %s[%s]: its message is redelivered.", request.name, request.id,
        extra=fields(task_id=request.id),
    )  # fmt: skip
    try:
        try:
            request.cancel(pool, emit_retry=False)
        except TypeError:  # before Celery 5.6 it always announces a retry, which is not quite wrong
            request.cancel(pool)
    except NotImplementedError:
        logger.warning(
            "HAKE104 This pool cannot terminate task %s[%s]. Connect to the signal kombu_hake.signals.lease_lost to "
            "stop it.",
            request.name, request.id, extra=fields(task_id=request.id),
        )  # fmt: skip
        return False
    return True
