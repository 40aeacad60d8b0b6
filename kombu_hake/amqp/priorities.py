"""A queue with priorities as a few SQS queues behind one name. Pure.

Only a queue that was declared with ``x-max-priority`` has them. Level 0 is the queue itself, under its own name; each
higher level is one more SQS queue. A message goes to the level of its priority, and the levels are polled best first.
Four levels at most: each is a long poll of its own while idle, and what priorities are used for (urgent, normal, bulk)
needs no more.

A message that comes through an exchange's topic is put into its level by SNS: it carries its priority as an attribute,
and each level has a subscription of its own that lets pass the level's share of priorities (:func:`level_shares`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
#: Of type Number, on messages that have a priority. Not plain "priority": others may mean something else by that.
PRIORITY_ATTRIBUTE = "hake-priority"
_SEPARATOR = "\x1fpriority-"
#: Far beyond AMQP's 255, and within the numbers that SNS compares.
_MAX_PRIORITY = 999_999


def level_names(queue: str, arguments: Mapping[str, Any]) -> list[str]:
    """The logical names of a queue's levels, lowest first; just its own without ``x-max-priority``."""
    return [level_name(queue, level) for level in range(_levels(arguments))]


def level_name(queue: str, level: int) -> str:
    """The logical name of one level. The separator is a character that nobody types, so it can't be a user's queue."""
    return f"{queue}{_SEPARATOR}{level}" if level else queue


def main_queue(name: str) -> str:
    """The queue that a level belongs to; itself for a name that is no level's."""
    return name.partition(_SEPARATOR)[0]


def max_priority(arguments: Mapping[str, Any]) -> int:
    """The ``x-max-priority`` of a queue's arguments; 0 for none."""
    return min(_MAX_PRIORITY, _whole(arguments.get("x-max-priority")))


def priority_attribute(priority: Any) -> str | None:
    """What :data:`PRIORITY_ATTRIBUTE` says of a message with this priority; None: it has none, and no attribute."""
    found = min(_MAX_PRIORITY, _whole(priority))
    return str(found) if found else None


def level_shares(highest: int) -> list[list[dict[str, Any]]]:
    """For each level, lowest first, what a filter policy says of :data:`PRIORITY_ATTRIBUTE`: just as :func:`level_of`.

    Args:
        highest: The queue's ``x-max-priority``. Every number is in exactly one share, and so is no attribute at all:
            SNS lets ``exists: false`` match only messages that have some other attribute.
    """
    levels = _levels({"x-max-priority": highest})
    if levels == 1:
        return []
    tops = [level * highest // (levels - 1) for level in range(levels)]
    shares: list[list[dict[str, Any]]] = [[{"exists": False}, {"numeric": ["<=", 0]}]]
    for level in range(1, levels):
        upper = ["<=", tops[level]] if level < levels - 1 else []
        shares.append([{"numeric": [">", tops[level - 1], *upper]}])
    return shares


def level_of(priority: Any, arguments: Mapping[str, Any]) -> int:
    """The level of a message's priority. Like RabbitMQ: none is 0, and what is over the maximum counts as it."""
    levels = _levels(arguments)
    highest = max_priority(arguments)
    if levels == 1:
        return 0
    wanted = max(0, min(_whole(priority), highest))
    # Priority 0 alone is the lowest level, so that "any priority at all" is heeded.
    return -(-wanted * (levels - 1) // highest)


def _levels(arguments: Mapping[str, Any]) -> int:
    return min(MAX_LEVELS, max_priority(arguments) + 1)


def _whole(value: Any) -> int:
    return max(0, whole(value) or 0)
