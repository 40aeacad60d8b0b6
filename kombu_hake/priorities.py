"""A queue with priorities as a few SQS queues behind one name. Pure.

Only a queue that was declared with ``x-max-priority`` has them. Level 0 is the queue itself, under its own name; each
higher level is one more SQS queue. A message goes to the level of its priority, and the levels are polled best first.
Four levels at most: each is a long poll of its own while idle, and what priorities are used for (urgent, normal, bulk)
needs no more. A message that comes through an exchange's topic goes to level 0, whatever its priority: SNS delivers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["MAX_LEVELS", "level_name", "level_names", "level_of"]

MAX_LEVELS = 4


def level_names(queue: str, arguments: Mapping[str, Any]) -> list[str]:
    """The logical names of a queue's levels, lowest first; just its own without ``x-max-priority``."""
    return [level_name(queue, level) for level in range(_levels(arguments))]


def level_name(queue: str, level: int) -> str:
    """The logical name of one level. The separator is a character that nobody types, so it can't be a user's queue."""
    return f"{queue}\x1fpriority-{level}" if level else queue


def level_of(priority: Any, arguments: Mapping[str, Any]) -> int:
    """The level of a message's priority. Like RabbitMQ: none is 0, and what is over the maximum counts as it."""
    levels = _levels(arguments)
    highest = _whole(arguments.get("x-max-priority"))
    if levels == 1:
        return 0
    wanted = max(0, min(_whole(priority), highest))
    # Priority 0 alone is the lowest level, so that "any priority at all" is heeded.
    return -(-wanted * (levels - 1) // highest)


def _levels(arguments: Mapping[str, Any]) -> int:
    return max(1, min(MAX_LEVELS, _whole(arguments.get("x-max-priority")) + 1))


def _whole(value: Any) -> int:
    try:
        return max(0, int(value))
    except (TypeError, ValueError):
        return 0
