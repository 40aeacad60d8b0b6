"""What this package knows of Celery's messages: headers, names, and our own exchange. Pure, and without Celery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["EVENT_HEADER", "EVENT_TASK", "ORIGIN_HEADER", "PRIVATE_EXCHANGE", "is_task"]

#: Publishing here is a SendMessage to the queue that the routing key names; declaring it does nothing.
PRIVATE_EXCHANGE = "hake.queue"
#: Header of a task that was received through an exchange: ``{"exchange": …, "routing_key": …}`` of its first publish.
ORIGIN_HEADER = "hake-origin"
#: The task name that an event carries. No code runs under this name: a worker hands the event over to handlers.
EVENT_TASK = "kombu_hake.event"
#: Header of a handler's message: ``{"id": …, "topic": …, "key": …, "group": …}``.
EVENT_HEADER = "hake_event"


def is_task(headers: Mapping[str, Any]) -> bool:
    """Whether the headers are those of a Celery task (protocol 2)."""
    return "task" in headers and "id" in headers
