"""What is reported, as values. Pure, and without OpenTelemetry."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Received"]


class Received(NamedTuple):
    """A message that is processed. Everything but the queue may come from outside, and is checked when it is used."""

    #: The name of its queue, as metrics have it.
    queue: str
    #: Of a task or event, or else of the message.
    id: Any
    #: How often it has been received, this time included.
    receive_count: Any
    #: The task that runs.
    task: str | None = None
    #: The consumer group; None where the queue is not that of a group.
    group: str | None = None
    #: The exchange that it was published to.
    exchange: Any = None
