"""The names of queues in metrics and spans: few, and without ids. Pure."""

from __future__ import annotations

import re
from functools import lru_cache

from kombu_hake.amqp.commands import is_event_queue
from kombu_hake.amqp.naming import is_mailbox
from kombu_hake.amqp.priorities import main_queue

__all__ = ["TEMPORARY", "label"]

#: Stands for all queues that come and go: a name for each would be a time series for each.
TEMPORARY = "(temporary)"
_UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


@lru_cache(maxsize=1_000)
def label(queue: str) -> str:
    """What a queue is called in metrics and spans: its name, without the priority level."""
    if is_mailbox(queue) or is_event_queue(queue) or _UUID.search(queue):
        return TEMPORARY
    return main_queue(queue)
