"""Limits the delay of a message sent straight to a queue by the queue's retention.

SQS counts a queue's retention from the sending. A message with a longer delay is deleted before it can be received,
without an error. So the retention is read before each longer delay, once in some minutes per queue:

* A task with an ETA is delayed for half of the retention at most; the worker that receives it defers it again.
* A delay in seconds that the publisher sets is shortened only if the message would be lost.

A producer that may not read the retention (this needs ``sqs:GetQueueAttributes``) does not shorten delays.
"""

from __future__ import annotations

import logging

from kombu_hake.amqp import SQS_MIN_RETENTION_S, QueueUrl, whole
from kombu_hake.aws import Clients, Once, TtlCache, patience
from kombu_hake.exceptions import AccessDenied, HakeError, TopologyError
from kombu_hake.publish.routes import QueueTarget
from kombu_hake.quoting import fields, guarded
from kombu_hake.topology import lookups

__all__ = ["Delays"]

logger = guarded(logging.getLogger(__name__))
#: Delays up to this are shorter than any retention, seconds.
_SHORT_S = SQS_MIN_RETENTION_S // 2
_TTL_S = 300.0
#: How long a publish waits for the retention if AWS does not answer immediately.
_PATIENCE_S = 2.0


class Delays:
    """Knows the retention of queues. Safe to share between threads."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._retention: TtlCache[QueueUrl, int | None] = TtlCache(_TTL_S)
        self._is_new = Once()

    def allowed_s(self, target: QueueTarget, wanted_s: int, *, is_deferred_again: bool) -> int:
        """``DelaySeconds`` for a message, no more than *wanted_s*.

        Args:
            is_deferred_again: A worker that receives it too early defers it again: a task with an ETA.
        """
        if wanted_s <= _SHORT_S or self._clients.settings.topology == "assume":  # which asks AWS nothing
            return wanted_s
        try:
            retention_s = self._retention.get(target.url, lambda: self._read(target.url))
        except HakeError as exc:
            logger.info("For how long queue %s keeps messages can't be read: %s", target.queue, exc)
            return _SHORT_S if is_deferred_again else wanted_s
        if retention_s is None:
            return wanted_s
        is_too_long = wanted_s >= retention_s
        found = retention_s // 2 if is_too_long or is_deferred_again else wanted_s
        if is_too_long and self._is_new(target.url):
            logger.warning(
                "HAKE210 Queue %s keeps messages for %d s, but a message to it asks for a delay of %d s: SQS would "
                "delete it first. Such messages are delayed for %d s. Raise the MessageRetentionPeriod of the queue.",
                target.queue, retention_s, wanted_s, found, extra=fields(queue=target.queue),
            )  # fmt: skip
        return min(wanted_s, found)

    def _read(self, url: QueueUrl) -> int | None:
        """The queue's retention, seconds; None if it may not be read.

        Raises:
            HakeError: AWS did not answer.
        """
        try:
            with patience(_PATIENCE_S):
                found = lookups.attributes(self._clients, url, "MessageRetentionPeriod")
        except (AccessDenied, TopologyError) as exc:
            logger.info("For how long %s keeps messages may not be read: %s", url, exc)
            return None
        return whole(found.get("MessageRetentionPeriod")) or None
