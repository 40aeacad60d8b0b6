"""Tasks of Celery's message protocol 1, whose name and id are in the body: their retries stay in their own queue, too.

:func:`kombu_hake.receive.messages.to_message` knows tasks by their headers. Of protocol 1 only the decoded body tells.
"""

from __future__ import annotations

from kombu_hake.amqp import PRIVATE_EXCHANGE, is_task
from kombu_hake.receive import HakeMessage

__all__ = ["stay_in_own_queue"]


def stay_in_own_queue(message: HakeMessage) -> None:
    """Have a task of protocol 1 retried in the queue that it lies in; before Celery makes a request of the message.

    Does nothing to other messages, nor to one whose body cannot be decoded.
    """
    if is_task(message.headers):
        return
    about = message.lease.about if message.lease is not None else None
    if about is not None and ("task" in message.headers or _names_a_task(message)):
        message.delivery_info.update(exchange=PRIVATE_EXCHANGE, routing_key=about.queue)


def _names_a_task(message: HakeMessage) -> bool:
    try:
        payload = message.payload
    except Exception:
        return False
    return isinstance(payload, dict) and "task" in payload
