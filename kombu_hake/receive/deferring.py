"""Tasks that are not due yet wait in SQS: hidden, or as a copy with a delay.

:mod:`kombu_hake.amqp.deferral` decides how and for how long. This module collects what it needs to know, and carries
out the decision.

AWS allows 120,000 messages of a queue in flight, over all its consumers. Beyond that, long polls return nothing,
without an error. Hidden messages count. So while a process hides messages, it reads the number from SQS, at most once a
minute per queue and in a separate thread, and adds what it has hidden since.

Overshoot
    Between two readings, processes do not see each other's messages. Each hides at most
    :data:`kombu_hake.amqp.deferral.MAX_HIDDEN` in that time, and may exceed a quarter of the quota by that number:
    fifty processes by 50,000, to 80,000 in flight.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from kombu_hake.amqp import (
    EARLY_S,
    FIFO_SUFFIX,
    RAW_DELIVERY_MAX_ATTRIBUTES,
    QueueUrl,
    given_attributes,
    plan,
    whole,
    with_first_sent,
)
from kombu_hake.amqp import How as Wait
from kombu_hake.aws import Clients, Once, forksafe, start_thread
from kombu_hake.exceptions import HakeError
from kombu_hake.publish import Dispatcher, QueueTarget
from kombu_hake.quoting import fields, guarded
from kombu_hake.receive.dead_letters import DeadLetters
from kombu_hake.receive.deliveries import Deliveries, How
from kombu_hake.receive.delivery import Delivery, Lease, Outcome
from kombu_hake.receive.messages import group_id_of, receive_count
from kombu_hake.topology import lookups

__all__ = ["Deferring", "InFlight", "Reading"]

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
    """Counts messages in flight by queue. Shared by the connections of a process; safe to share between threads."""

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
        """The parent counts its own hidden messages; a thread that held the lock does not exist in the child."""
        self._lock = threading.RLock()
        self._queues: dict[QueueUrl, _Queue] = {}

    def reading(self, url: QueueUrl) -> Reading:
        """What is known of a queue now. Starts a new reading if one is due, but does not wait for it."""
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
            found = whole(lookups.attributes(self._clients, url, _ATTRIBUTE).get(_ATTRIBUTE))
        except HakeError as exc:
            logger.info("The number of messages in flight in %s can't be read: %s", url, exc)
            return
        except Exception:  # an unforeseen answer; the next reading may succeed
            logger.info("The number of messages in flight in %s can't be read.", url, exc_info=True)
            return
        if found is None:
            return
        with self._lock:
            queue.in_flight = found
            queue.hidden -= counted


class Deferring:
    """Defers tasks. Shared by the connections of a process; safe to share between threads."""

    def __init__(self, clients: Clients, dispatcher: Dispatcher, dead_letters: DeadLetters) -> None:
        self._clients = clients
        self._dispatcher = dispatcher
        self._dead_letters = dead_letters
        self._in_flight = InFlight(clients)
        self._is_new_retention = Once()

    def defer(self, delivery: Delivery, deliveries: Deliveries, due: int, sent: int | None, now_ms: int) -> bool:
        """Let a task that is not due yet wait in SQS. Returns True if it does.

        Args:
            deliveries: The deliveries of its connection.
            due, sent, now_ms: Ms since the epoch, by AWS's clock.
        """
        url = delivery.lease.url
        if due - now_ms < (EARLY_S + 1) * 1000 or url.endswith(FIFO_SUFFIX):
            return False
        group = group_id_of(delivery.message)
        reading, max_receives = self._in_flight.reading(url), self._dead_letters.max_receives(url)
        retention_s = self._dead_letters.retention_s(url)
        if retention_s is not None and (due - now_ms) / 1000 > retention_s and self._is_new_retention(url):
            logger.warning(
                "HAKE108 Queue %s keeps messages for %d s, but a task in it is due in %d s. The task waits as copies "
                "that are renewed in time; a longer MessageRetentionPeriod of the queue avoids the copies.",
                delivery.queue, retention_s, (due - now_ms) // 1000, extra=fields(queue=delivery.queue),
            )  # fmt: skip
        found = plan(
            due,
            now_ms,
            sent=sent,
            receives=receive_count(delivery.message),
            max_receives=max_receives,
            hidden=deliveries.hidden() if reading.in_flight is None else reading.hidden_since,
            in_flight=reading.in_flight,
            retention_s=retention_s,
            has_tenant=group is not None,
        )
        if found is None:
            return False
        if found.how is Wait.HIDE:
            deliveries.finish(delivery, How.HIDE, found.seconds)
            self._in_flight.hid(url)
            return True
        text, attributes = _copied(delivery, sent or now_ms)
        visible_ms = now_ms + found.seconds * 1000
        delivery.lease.outcome = Outcome.DEFERRED
        copy = _Copy(
            self._dispatcher, QueueTarget(delivery.source, url), text, attributes, group, visible_ms,
            self._clients.now_ms, delivery.lease,
        )  # fmt: skip
        deliveries.finish_after(delivery, copy)
        return True


def _copied(delivery: Delivery, sent_ms: int) -> tuple[str, Mapping[str, Any]]:
    """The text and the attributes of a task's copy."""
    stored, given = delivery.stored, given_attributes(delivery.message)
    if stored is None or stored.outline is None:
        return with_first_sent(delivery.message["Body"], sent_ms), given
    known = whole(stored.outline.properties.get("first_sent_ms"))
    first_ms = sent_ms if known is None else min(known, sent_ms)
    attributes = {**stored.attributes({"properties": {"first_sent_ms": first_ms}}), **given}
    return delivery.message["Body"], dict(list(attributes.items())[:RAW_DELIVERY_MAX_ATTRIBUTES])


class _Copy(NamedTuple):
    """The copy that replaces a task: AWS must accept it before the task is deleted."""

    dispatcher: Dispatcher
    target: QueueTarget
    text: str
    attributes: Mapping[str, Any]
    #: The MessageGroupId of the task.
    group: str | None
    #: When it is to be received again, ms since the epoch by the clock *now_ms*.
    visible_ms: int
    now_ms: Callable[[], int]
    #: Of the task. Its payload in S3, if there is one, belongs to the copy.
    lease: Lease

    def send(self) -> None:
        """Send it, once, with the remaining delay.

        Raises: as :meth:`kombu_hake.publish.dispatch.Dispatcher.send_copy`.
        """
        delay_s = max(0, round((self.visible_ms - self.now_ms()) / 1000))
        self.dispatcher.send_copy(self.target, self.text, delay_s, self.attributes, self.group)
        self.lease.owned = None

    def failed(self, exc: Exception) -> None:
        """Log that it could not be sent."""
        logger.warning(
            "HAKE107 Cannot defer a task that is not due yet; it is redelivered after its visibility timeout: %s",
            exc,
            extra=fields(queue=self.target.queue),
        )
