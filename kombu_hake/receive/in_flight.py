"""How many messages of each queue are in flight, so that tasks which are not due yet do not fill the quota.

AWS allows 120,000 messages of a queue in flight, over all its consumers. Beyond that long polls return nothing, and no
error says so. Hidden messages count. So a process asks SQS for the number while it hides messages, at most once a
minute and queue, in a thread of its own, and adds what it has hidden since.

Overshoot
    Processes do not see each other's messages between two readings. Each hides at most
    :data:`kombu_hake.amqp.deferral.MAX_HIDDEN` in that time, so *n* of them exceed a quarter of the quota by that many
    each: fifty by 50,000, to 80,000 in flight.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from kombu_hake.amqp import QueueUrl, whole
from kombu_hake.aws import Clients, forksafe, start_thread
from kombu_hake.exceptions import HakeError
from kombu_hake.quoting import guarded

__all__ = ["InFlight", "Reading"]

logger = guarded(logging.getLogger(__name__))
_ATTRIBUTE = "ApproximateNumberOfMessagesNotVisible"
#: Seconds between two readings of a queue.
_EVERY_S = 60.0
#: Queues that are remembered; a worker consumes fewer.
_MOST_QUEUES = 1_000


class Reading(NamedTuple):
    """What is known of a queue."""

    #: As AWS last said; None before its first answer.
    in_flight: int | None
    #: Messages that this process has hidden since that was asked.
    hidden_since: int


class _Queue:
    __slots__ = ("asked_at", "hidden", "in_flight")

    def __init__(self) -> None:
        self.in_flight: int | None = None
        self.asked_at = -_EVERY_S
        self.hidden = 0


class InFlight:
    """Counts by queue. Shared by the connections of a process; safe to share between threads."""

    def __init__(
        self,
        clients: Clients,
        *,
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None], str], object] = start_thread,
    ) -> None:
        """Store.

        Args:
            clock: Monotonic seconds.
            start: Runs a function in a thread of the name given.
        """
        self._clients = clients
        self._clock = clock
        self._start = start
        self.reset_after_fork()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """What the parent has hidden is its own; a thread that held the lock is not in the child."""
        self._lock = threading.RLock()
        self._queues: dict[QueueUrl, _Queue] = {}

    def reading(self, url: QueueUrl) -> Reading:
        """What is known of a queue now. Starts a new reading where one is due, and does not wait for it."""
        with self._lock:
            queue = self._queues.get(url)
            if queue is None:
                while len(self._queues) >= _MOST_QUEUES:
                    del self._queues[next(iter(self._queues))]
                queue = self._queues[url] = _Queue()
            is_due = self._clock() - queue.asked_at >= _EVERY_S
            if is_due:
                queue.asked_at = self._clock()
            found = Reading(queue.in_flight, queue.hidden)
        if is_due and self._clients.settings.topology != "assume":  # which asks AWS nothing
            self._start(partial(self._read, url, queue), "hake-in-flight")
        return found

    def hid(self, url: QueueUrl) -> None:
        """A message of the queue was hidden."""
        with self._lock:
            queue = self._queues.get(url)
            if queue is not None:
                queue.hidden += 1

    def _read(self, url: QueueUrl, queue: _Queue) -> None:
        with self._lock:
            counted = queue.hidden
        try:
            answer = self._clients.sqs("get_queue_attributes", QueueUrl=url, AttributeNames=[_ATTRIBUTE])
        except HakeError as exc:
            logger.info("Cannot read the number of messages in flight in %s: %s", url, exc)
            return
        except Exception:  # an unexpected answer; the next reading may succeed
            logger.info("Cannot read the number of messages in flight in %s.", url, exc_info=True)
            return
        found = whole((answer.get("Attributes") or {}).get(_ATTRIBUTE))
        if found is None:
            return
        with self._lock:
            queue.in_flight = found
            queue.hidden -= counted
