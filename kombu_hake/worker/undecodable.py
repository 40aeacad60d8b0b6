"""Messages that a Celery worker cannot decode: rejected, so that a dead-letter queue keeps them.

Celery logs such a message and acknowledges it, so that it is not received again and again. Acknowledging loses it;
rejecting it ends the loop, too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from kombu_hake.receive import HakeMessage

__all__ = ["reject_undecodable"]


def reject_undecodable(consumer: Any) -> None:
    """Have a worker's consumer reject what it cannot decode; now, and when it connects again. Idempotent."""
    if getattr(consumer.on_decode_error, "is_of_hake", False):
        return
    consumer.on_decode_error = _rejecting(consumer.on_decode_error)
    task_consumer = getattr(consumer, "task_consumer", None)
    if task_consumer is not None:
        task_consumer.on_decode_error = consumer.on_decode_error  # it has the former one


def _rejecting(otherwise: Callable[[Any, Exception], Any]) -> Callable[[Any, Exception], Any]:
    @wraps(otherwise)
    def on_decode_error(message: Any, exc: Exception) -> Any:
        if isinstance(message, HakeMessage):
            message.ack = message.reject  # what Celery's own function calls once it has logged the message
        return otherwise(message, exc)

    on_decode_error.is_of_hake = True  # type: ignore[attr-defined]
    return on_decode_error
