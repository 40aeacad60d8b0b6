"""Map a queue with priorities to a few SQS queues behind one name. Pure.

Only a queue that was declared with ``x-max-priority`` has them. Level 0 is the queue itself, under its own name; each
higher level is one more SQS queue. A message goes to the level of its priority; higher levels are polled first. There
are four levels at most: each one costs a long poll while idle, and common uses of priorities (urgent, normal, bulk)
need no more. A FIFO queue has one level: messages of several queues have no order.

SNS routes a message from an exchange's topic to its level: the message carries its priority as an attribute, and each
level has a subscription of its own that passes the level's share of priorities (:func:`level_shares`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kombu_hake.amqp.limits import FIFO_SUFFIX
from kombu_hake.amqp.numeric import whole

__all__ = [
    "MAX_LEVELS",
    "PRIORITY_ATTRIBUTE",
    "level_name",
    "level_names",
    "level_of",
    "level_shares",
    "main_queue",
    "max_priority",
    "priority_attribute",
]

MAX_LEVELS = 4
#: Of type Number, on messages that have a priority. Not plain "priority", which external tools may use otherwise.
PRIORITY_ATTRIBUTE = "hake-priority"
_SEPARATOR = "\x1fpriority-"
#: Far above AMQP's 255, and within the range that SNS can compare.
_MAX_PRIORITY = 999_999


def level_names(queue: str, arguments: Mapping[str, Any]) -> list[str]:
    """The logical names of a queue's levels, lowest first; only its own name without ``x-max-priority``."""
    return [level_name(queue, level) for level in range(_levels(queue, arguments))]


def level_name(queue: str, level: int) -> str:
    """The logical name of one level. The separator is a control character, so that no user's queue has this name."""
    return f"{queue}{_SEPARATOR}{level}" if level else queue


def main_queue(name: str) -> str:
    """The queue that a level belongs to; any other name is returned unchanged."""
    return name.partition(_SEPARATOR)[0]


def max_priority(arguments: Mapping[str, Any]) -> int:
    """The ``x-max-priority`` of a queue's arguments; 0 for none."""
    return min(_MAX_PRIORITY, _whole(arguments.get("x-max-priority")))


def priority_attribute(priority: Any) -> str | None:
    """The value of :data:`PRIORITY_ATTRIBUTE` for this priority; None: the message has no priority and no attribute."""
    found = min(_MAX_PRIORITY, _whole(priority))
    return str(found) if found else None


def level_shares(highest: int) -> list[list[dict[str, Any]]]:
    """The filter policy on :data:`PRIORITY_ATTRIBUTE` of each level, lowest first; consistent with :func:`level_of`.

    Args:
        highest: The queue's ``x-max-priority``. Every number is in exactly one share, and so is the absence of the
            attribute: in SNS ``exists: false`` matches only messages that have some other attribute.
    """
    levels = _count(highest)
    if levels == 1:
        return []
    tops = [level * highest // (levels - 1) for level in range(levels)]
    shares: list[list[dict[str, Any]]] = [[{"exists": False}, {"numeric": ["<=", 0]}]]
    for level in range(1, levels):
        upper = ["<=", tops[level]] if level < levels - 1 else []
        shares.append([{"numeric": [">", tops[level - 1], *upper]}])
    return shares


def level_of(priority: Any, queue: str, arguments: Mapping[str, Any]) -> int:
    """The level of a message's priority. As in RabbitMQ, no priority is 0, and a higher one counts as the maximum."""
    levels = _levels(queue, arguments)
    highest = max_priority(arguments)
    if levels == 1:
        return 0
    wanted = max(0, min(_whole(priority), highest))
    # Only priority 0 goes to the lowest level, so that any other priority has an effect.
    return -(-wanted * (levels - 1) // highest)


def _levels(queue: str, arguments: Mapping[str, Any]) -> int:
    return 1 if queue.endswith(FIFO_SUFFIX) else _count(max_priority(arguments))


def _count(highest: int) -> int:
    return min(MAX_LEVELS, highest + 1)


def _whole(value: Any) -> int:
    return max(0, whole(value) or 0)
