"""Reject messages that a Celery worker cannot decode, and tasks that it does not know, for a dead-letter queue to keep.

Undecodable messages
    Celery logs such a message and acknowledges it, so that it is not received again and again. Acknowledging loses it;
    rejecting it ends the loop, too.

Unknown tasks
    They reach a group whose workers have not registered them. Celery logs an error with a traceback for each such
    message, and stores a failed result. After a fan-out neither is right: the task runs in another group, under the
    same id. It is logged once for each name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from kombu_hake.amqp import ORIGIN_HEADER, is_task
from kombu_hake.aws import Once
from kombu_hake.exceptions import HakeError
from kombu_hake.quoting import fields, guarded, quoted
from kombu_hake.receive import HakeMessage
from kombu_hake.worker.hooks import replace_once

__all__ = ["UnknownTasks", "reject_undecodable", "reject_unknown"]

logger = guarded(logging.getLogger(__name__))


def reject_undecodable(consumer: Any) -> None:
    """Have a worker's consumer reject what it cannot decode; now, and when it connects again. Idempotent."""
    is_new = replace_once(consumer, "on_decode_error", _rejecting)
    task_consumer = getattr(consumer, "task_consumer", None)
    if is_new and task_consumer is not None:
        task_consumer.on_decode_error = consumer.on_decode_error  # it has the former one


def _rejecting(otherwise: Callable[[Any, Exception], Any]) -> Callable[[Any, Exception], Any]:
    def on_decode_error(message: Any, exc: Exception) -> Any:
        if isinstance(message, HakeMessage):
            message.ack = message.reject  # what Celery's own function calls once it has logged the message
        return otherwise(message, exc)

    return on_decode_error


def reject_unknown(consumer: Any) -> None:
    """Have a worker's consumer reject tasks that it does not know; now, and when it connects again. Idempotent."""
    is_new = replace_once(consumer, "on_unknown_task", UnknownTasks)
    task_consumer = getattr(consumer, "task_consumer", None)
    if is_new and task_consumer is not None and task_consumer.on_message is not None:
        # Its loop has started, and holds a handler that knows the former function.
        task_consumer.on_message = consumer.create_task_handler()


class UnknownTasks:
    """For messages that came through an exchange: ``on_unknown_task`` of ``celery/worker/consumer/consumer.py``."""

    def __init__(self, otherwise: Callable[..., Any]) -> None:
        """*otherwise* is Celery's own, for all other messages."""
        self._otherwise = otherwise
        self._is_new = Once()

    def __call__(self, body: Any, message: Any, exc: Exception) -> Any:
        """Reject the message: to the dead-letter queue of its queue, where there is one."""
        headers, origin = message.headers, message.headers.get(ORIGIN_HEADER)
        if not isinstance(message, HakeMessage) or not is_task(headers) or not isinstance(origin, dict):
            return self._otherwise(body, message, exc)
        queue, task = quoted(message.delivery_info.get("routing_key")), quoted(headers["task"])
        if self._is_new((queue, task)):
            logger.error(
                "HAKE603 Group %s receives task %s, which its workers have not registered; such tasks are rejected. "
                "Import its module in these workers, or bind the queue %s to fewer keys of exchange %r.",
                queue, task, queue, origin.get("exchange"),
                extra=fields(queue=queue, exchange=origin.get("exchange"), task_id=headers.get("id")),
            )  # fmt: skip
        message.reject_log_error(logger, (HakeError,))
        return None
