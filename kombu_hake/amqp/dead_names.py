"""Names of dead-letter queues. Pure."""

from __future__ import annotations

import re

from kombu_hake.amqp.limits import FIFO_SUFFIX

__all__ = ["DEFAULT_PATTERN", "IF_MADE", "dead_name", "in_pattern", "is_dead_name", "undelivered_name"]

#: Value of the queue argument ``x-dead-letter-queue``: as True, but none is missed where infrastructure code makes the
#: queues.
IF_MADE = "?"
DEFAULT_PATTERN = "{queue}-dead"
UNDELIVERED_PATTERN = "{queue}-undelivered"


def in_pattern(pattern: str, queue: str) -> str:
    """The name of a queue's dead-letter queue; that of a FIFO queue is FIFO.

    Args:
        pattern: ``{queue}`` in it stands for the queue's name.
    """
    name = pattern.replace("{queue}", queue.removesuffix(FIFO_SUFFIX))
    return name + FIFO_SUFFIX if queue.endswith(FIFO_SUFFIX) and not name.endswith(FIFO_SUFFIX) else name


def is_dead_name(queue: str, pattern: str | None) -> bool:
    """Whether its name says that it is a dead-letter queue itself, which the option must not give another one."""
    stem = queue.removesuffix(FIFO_SUFFIX)
    patterns = [DEFAULT_PATTERN, UNDELIVERED_PATTERN, pattern or DEFAULT_PATTERN]
    return any(re.fullmatch(re.escape(p).replace(re.escape("{queue}"), ".+"), stem) for p in patterns)


def dead_name(queue: str) -> str:
    """The name that a queue's own dead-letter queue has unless told otherwise: ``email-dead``, ``email-dead.fifo``."""
    return in_pattern(DEFAULT_PATTERN, queue)


def undelivered_name(queue: str) -> str:
    """The name of the queue that keeps what SNS could not deliver to a queue."""
    return in_pattern(UNDELIVERED_PATTERN, queue)
