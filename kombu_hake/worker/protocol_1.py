"""Tasks of Celery's message protocol 1, whose name and id are in the body: their retries stay in their own queue, too.

:func:`kombu_hake.receive.messages.to_message` knows tasks by their headers. Of protocol 1 Celery tells only after
decoding.
"""

from __future__ import annotations

from typing import Any

from kombu_hake.amqp import PRIVATE_EXCHANGE, is_task
from kombu_hake.receive import HakeMessage

__all__ = ["stay_in_own_queue"]


def stay_in_own_queue(request: Any = None, **_kwargs: Any) -> None:
    """Receiver of Celery's ``task_received``: have a task of protocol 1 retried in the queue that it lies in.

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
