"""The one list of what is hooked into Celery's worker, and the place that installs it.

======================= ============================================================================================
signal                  receiver
======================= ============================================================================================
``worker_ready``        :mod:`kombu_hake.worker.stopping`: give back at shutdown what was received and not started.
                        :mod:`kombu_hake.worker.unknown_tasks`: reject tasks that the worker has not registered.
                        :mod:`kombu_hake.worker.safeguard`: check each task message before Celery reads it.
``task_received``       :func:`stay_in_own_queue`: retries of protocol 1 stay in their own queue.
======================= ============================================================================================

Celery is not imported: a process that has not loaded its worker has nothing to hook into.
"""

from __future__ import annotations

import sys
from typing import Any

from kombu_hake.amqp import PRIVATE_EXCHANGE, is_task
from kombu_hake.receive import HakeMessage
from kombu_hake.worker import safeguard, stopping, unknown_tasks

__all__ = ["install", "stay_in_own_queue"]


def install() -> None:
    """Hook into the worker that this process is, if it is one. Idempotent."""
    signals = sys.modules.get("celery.signals")
    if signals is None or "celery.worker.state" not in sys.modules:
        return
    import kombu_hake.signals  # noqa: F401 - now: a lease that is lost may find no descriptor left for an import

    for signal, receiver in (
        (signals.worker_ready, stopping.on_ready),
        (signals.worker_ready, unknown_tasks.on_ready),
        (signals.worker_ready, safeguard.on_ready),
        (signals.task_received, stay_in_own_queue),
    ):
        signal.connect(receiver, weak=False, dispatch_uid=f"{receiver.__module__}.{receiver.__name__}")


def stay_in_own_queue(request: Any = None, **_kwargs: Any) -> None:
    """Receiver of Celery's ``task_received``: have a task of protocol 1 retried in the queue that it lies in.

    :func:`kombu_hake.receive.messages.to_message` does so for other tasks, by their headers. Name and id of a task of
    protocol 1 are in the body, so Celery knows it only after decoding.

    Args:
        request: A ``celery.worker.request.Request``.
    """
    message = getattr(request, "message", None)
    if not isinstance(message, HakeMessage) or is_task(message.headers):
        return
    about = message.lease.about if message.lease is not None else None
    if about is not None:
        own = {"exchange": PRIVATE_EXCHANGE, "routing_key": about.queue}
        message.delivery_info.update(own)
        request.delivery_info.update(own)
