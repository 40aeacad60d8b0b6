"""Move messages that cannot be handled to their dead-letter queue: rejected, expired, or with an invalid envelope.

SQS has no operation for this; its redrive policy only counts receives. So the message is *sent*, and deleted once AWS
has accepted it:

* to the exchange in the queue's arguments (``x-dead-letter-exchange``, ``x-dead-letter-routing-key``), as on RabbitMQ;
* otherwise to the dead-letter queue of the queue's redrive policy, body unchanged, with the reason as message
  attributes;
* if there is neither, it is deleted, with a log line.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from kombu_hake.amqp import (
    FIFO_SUFFIX,
    MESSAGE_ATTRIBUTES,
    ORIGIN_HEADER,
    PAYLOAD_ATTRIBUTES,
    RAW_DELIVERY_MAX_ATTRIBUTES,
    SQS_MAX_MESSAGE_BYTES,
    Envelope,
    QueueArn,
    QueueUrl,
    given_attributes,
    label,
    parse_arn,
    pointer_in,
    read_object,
    tenant_of_group,
    typed_bytes,
    whole,
)
from kombu_hake.aws import Clients, TtlCache
from kombu_hake.exceptions import (
    BrokerUnavailable,
    HakeError,
    InvalidName,
    MessageTooLarge,
    PublishError,
    QueueNotFound,
    TopologyError,
)
from kombu_hake.publish import NO_TENANT
from kombu_hake.quoting import fields, guarded
from kombu_hake.receive.delivery import Lease, Outcome
from kombu_hake.receive.messages import group_id_of
from kombu_hake.topology import lookups

__all__ = ["DeadLetter", "DeadLetters", "SourceQueue"]

logger = guarded(logging.getLogger(__name__))
#: How long the attributes of a queue are cached: a dead-letter queue may be added to a queue in use.
_REDRIVE_TTL_S = 300.0
#: What the names of the attributes that say why a message died start with.
_DEATH_PREFIX = "hake-death-"


class SourceQueue(NamedTuple):
    """The queue that dead letters come from, as AWS calls it."""

    name: str
    url: QueueUrl
    #: What it was declared with.
    arguments: Mapping[str, Any]


class _Attributes(NamedTuple):
    """Attributes of a queue that decide how long a message may stay in it."""

    #: The redrive policy; ``{}`` for none.
    redrive: Mapping[str, Any]
    #: ``MessageRetentionPeriod``, seconds; None if unknown.
    retention_s: int | None


class DeadLetter:
    """A message that AWS must accept as a dead letter before the original is deleted."""

    def __init__(self, place: Callable[[], str], queue: str, message_id: str | None, reason: str) -> None:
        """*place* sends it: see :meth:`DeadLetters.place`."""
        self._place = place
        self._queue = queue
        self._message_id = message_id
        self._reason = reason

    def send(self) -> None:
        """Send it, once, and log where it went.

        Raises: as :meth:`DeadLetters.place`.
        """
        where = self._place()
        names = fields(queue=self._queue, message_id=self._message_id)
        if self._reason == "expired":
            outcome = f"moved to {where}" if where else "deleted"
            logger.info("Expired message %s of queue %s was %s.", self._message_id, self._queue, outcome, extra=names)
        elif where:
            logger.warning(
                "HAKE411 A %s message of queue %s (%s) was moved to %s.",
                self._reason, self._queue, self._message_id, where, extra=names,
            )  # fmt: skip
        else:
            logger.warning(
                "HAKE412 A %s message of queue %s (%s) was deleted: the queue has no dead-letter queue. The queue "
                "argument x-dead-letter-queue gives it one.",
                self._reason, self._queue, self._message_id, extra=names,
            )  # fmt: skip

    def failed(self, exc: Exception) -> None:
        """Log that it could not be sent."""
        logger.error(
            "HAKE401 A %s message of queue %s could not be dead-lettered; it stays there and is redelivered: %s",
            self._reason, self._queue, exc, extra=fields(queue=self._queue, message_id=self._message_id),
        )  # fmt: skip


class DeadLetters:
    """Sets messages aside. Shared by the connections of a process; safe to share between threads."""

    def __init__(
        self,
        clients: Clients,
        publish: Callable[..., None],
        make_again: Callable[[str, QueueArn], bool],
        make_room: Callable[[str, QueueArn], bool] = lambda queue, arn: False,
    ) -> None:
        """
        Args:
            publish: :meth:`kombu_hake.publish.dispatch.Dispatcher.publish_now`.
            make_again: :meth:`kombu_hake.topology.dead_queues.DeadQueues.make_again`.
            make_room: :meth:`kombu_hake.topology.dead_queues.DeadQueues.make_room`.
        """
        self._clients = clients
        self._publish = publish
        self._make_again = make_again
        self._make_room = make_room
        self._attributes: TtlCache[QueueUrl, _Attributes] = TtlCache(_REDRIVE_TTL_S)
        self._urls: TtlCache[QueueArn, QueueUrl] = TtlCache(_REDRIVE_TTL_S)

    def max_receives(self, url: QueueUrl) -> int | None:
        """After how many receives AWS dead-letters a message; None for never, or if it may not be read.

        1 while AWS cannot be reached: then no further receive is safe.
        """
        try:
            count = self._read(url).redrive.get("maxReceiveCount")
        except BrokerUnavailable as exc:
            logger.info("Cannot read the redrive policy of %s: %s", url, exc)
            return 1
        except HakeError as exc:
            logger.info("Cannot read the redrive policy of %s: %s", url, exc)
            return None
        return whole(count) or None

    def retention_s(self, url: QueueUrl) -> int | None:
        """The retention of the queue, seconds; None if it cannot be read."""
        try:
            return self._read(url).retention_s
        except HakeError:  # logged by max_receives, which is called first
            return None

    def set_aside(
        self, envelope: Envelope, raw: Mapping[str, Any], source: SourceQueue, reason: str, lease: Lease | None = None
    ) -> bool:
        """Dead-letter a message, once. Returns True if it may be deleted now. Arguments as :meth:`place`."""
        place = partial(self.place, envelope, raw, source, reason, lease)
        letter = DeadLetter(place, source.name, raw.get("MessageId"), reason)
        try:
            letter.send()
        except HakeError as exc:
            letter.failed(exc)
            return False
        return True

    def place(
        self, envelope: Envelope, raw: Mapping[str, Any], source: SourceQueue, reason: str, lease: Lease | None = None
    ) -> str:
        """Send a message to its dead-letter exchange or queue.

        Args:
            raw: The message as it was received.
            reason: ``rejected``, ``expired``, or a fault.
            lease: Lease of the message. Its payload in S3 belongs to the dead letter, if that points to it too.

        Returns:
            The exchange or queue; empty if there is none, and nothing was sent.

        Raises:
            HakeError: it could not be sent, or it is unknown whether there is a dead-letter queue.
        """
        where = self._place(envelope, raw, source, reason, lease)
        if lease is not None:
            lease.outcome = Outcome.DEAD_LETTER if where else Outcome.DROPPED
        if where and self._clients.telemetry is not None:
            self._clients.telemetry.metrics.dead_lettered(label(source.name), reason)
        return where

    def _place(
        self, envelope: Envelope, raw: Mapping[str, Any], source: SourceQueue, reason: str, lease: Lease | None
    ) -> str:
        queue = source.name
        exchange = source.arguments.get("x-dead-letter-exchange")
        if exchange is not None:
            key = source.arguments.get("x-dead-letter-routing-key") or _origin(envelope)[1] or queue
            message, given = _message(envelope, raw, queue, reason), given_attributes(raw)
            try:
                with_given = {**message["properties"], MESSAGE_ATTRIBUTES: given} if given else message["properties"]
                self._publish({**message, "properties": with_given}, exchange, key, mandatory=False)
            except PublishError:  # an exchange takes fewer attributes than a queue
                if not given:
                    raise
                self._publish(message, exchange, key, mandatory=False)
            return f"exchange {exchange!r} with key {key!r}"
        found = self._read(source.url).redrive.get("deadLetterTargetArn")
        if not found:
            return ""
        dead_arn = QueueArn(found)
        given = raw.get("MessageAttributes") or {}
        kept = _with_reason(given, queue, reason)
        if not _has_room(raw["Body"], kept):
            kept = _bounded({name: item for name, item in given.items() if not name.startswith(_DEATH_PREFIX)}, {})
        try:
            where = self._send_to(dead_arn, raw, kept)
        except QueueNotFound:
            if not self._make_again(queue, dead_arn):
                raise
            where = self._send_to(dead_arn, raw, kept)
        except MessageTooLarge:
            if not self._make_room(queue, dead_arn):
                raise
            where = self._send_to(dead_arn, raw, kept)
        if lease is not None and lease.owned is not None:
            points_to = pointer_in({**raw, "MessageAttributes": kept})
            if points_to == lease.owned:
                lease.owned = None
        return where

    def _send_to(self, dead_arn: QueueArn, raw: Mapping[str, Any], kept: Mapping[str, Any]) -> QueueUrl:
        target = self._urls.get(dead_arn, lambda: self._look_up(dead_arn))
        try:
            self._clients.sqs(
                "send_message", QueueUrl=target, MessageBody=raw["Body"], MessageAttributes=kept, **_ids(target, raw)
            )
        except QueueNotFound:
            self._urls.forget(dead_arn)
            raise
        return target

    def _look_up(self, dead_arn: QueueArn) -> QueueUrl:
        arn = parse_arn(dead_arn)
        return lookups.queue_url(self._clients, arn.name, arn.account)

    def _read(self, url: QueueUrl) -> _Attributes:
        return self._attributes.get(url, lambda: self._read_now(url))

    def _read_now(self, url: QueueUrl) -> _Attributes:
        if self._clients.settings.topology == "assume":
            # There may be a dead-letter queue: deleting could lose the message.
            raise TopologyError(
                f"topology=assume does not read the redrive policy of {url}: the message stays, and AWS moves it "
                "after the receives that the policy allows."
            )
        found = lookups.attributes(self._clients, url, "RedrivePolicy", "MessageRetentionPeriod")
        try:
            policy = read_object(found.get("RedrivePolicy"))
            if policy:
                parse_arn(str(policy["deadLetterTargetArn"]))
                int(policy.get("maxReceiveCount") or 0)
        except (ValueError, KeyError, TypeError, OverflowError, InvalidName) as exc:
            # As above: an unreadable policy may name a dead-letter queue.
            raise TopologyError(
                f"The redrive policy of {url} cannot be read, so the message stays: correct the policy. {exc}"
            ) from exc
        return _Attributes(policy, whole(found.get("MessageRetentionPeriod")) or None)


def _has_room(body: str, attributes: Mapping[str, Any]) -> bool:
    """Return True if attributes fit beside a body."""
    return len(body.encode("utf-8", "surrogatepass")) + typed_bytes(attributes) <= SQS_MAX_MESSAGE_BYTES


def _with_reason(attributes: Mapping[str, Any], queue: str, reason: str) -> dict[str, Any]:
    """The message's own attributes, and as many of ours as fit."""
    texts = {
        "hake-death-reason": reason,
        "hake-death-queue": json.dumps(queue),
        "hake-death-time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    ours = {name: {"DataType": "String", "StringValue": value} for name, value in texts.items()}
    return _bounded(attributes, ours)


def _bounded(attributes: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """As many attributes as a message may have: those of a payload in S3 first, ours last."""
    first = {name: attributes[name] for name in PAYLOAD_ATTRIBUTES if name in attributes}
    return dict(list({**first, **attributes, **ours}.items())[:RAW_DELIVERY_MAX_ATTRIBUTES])


def _origin(envelope: Envelope) -> tuple[str, str]:
    """Exchange and routing key of the first publish; retries are published to a private exchange."""
    info = envelope.headers.get(ORIGIN_HEADER)
    if not isinstance(info, dict):
        info = envelope.properties["delivery_info"]
    return info.get("exchange") or "", info.get("routing_key") or ""


def _message(envelope: Envelope, raw: Mapping[str, Any], queue: str, reason: str) -> dict[str, Any]:
    """The message to publish, with the headers that RabbitMQ adds to a dead-lettered one."""
    exchange, routing_key = _origin(envelope)
    death = {
        "reason": reason,
        "queue": queue,
        "exchange": exchange,
        "routing-keys": [routing_key],
        "time": int(time.time()),
        "count": 1,
    }
    headers = dict(envelope.headers)
    before = headers.get("x-death")
    headers["x-death"] = [death, *(before if isinstance(before, list) else [])]
    headers.setdefault("x-first-death-reason", reason)
    headers.setdefault("x-first-death-queue", queue)
    headers.setdefault("x-first-death-exchange", death["exchange"])
    properties = {k: v for k, v in envelope.properties.items() if k not in ("expiration", "first_sent_ms")}
    tenant = None if queue.endswith(FIFO_SUFFIX) else tenant_of_group(group_id_of(raw))
    properties.setdefault("tenant", tenant or NO_TENANT)
    return {
        "body": envelope.body,
        "content-type": envelope.content_type,
        "content-encoding": envelope.content_encoding,
        "headers": headers,
        "properties": properties,
    }


def _ids(target: QueueUrl, raw: Mapping[str, Any]) -> dict[str, str]:
    """MessageGroupId and MessageDeduplicationId of a dead letter, which keeps the group or tenant of the message."""
    group = group_id_of(raw)
    if target.endswith(FIFO_SUFFIX):
        return {"MessageGroupId": group or "default", "MessageDeduplicationId": str(raw.get("MessageId"))}
    return {} if group is None else {"MessageGroupId": group}
