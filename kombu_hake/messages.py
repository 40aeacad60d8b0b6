"""A received SQS message as kombu's Message, and a message to publish as what goes to AWS. Pure.

Group-scoped redelivery
    ``task.retry()`` publishes to the exchange in ``delivery_info`` (``celery/app/task.py``,
    ``signature_from_request``). After a fan-out that would run the task in every group again. So a Celery task that
    lies in a queue with bindings is handed over with ``delivery_info`` naming a private exchange and the queue:
    publishing there is a send to that queue alone. The exchange and key it was published with are in the header
    ``hake-origin``. Any other message keeps them in ``delivery_info``, because plain consumers dispatch on them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from kombu.message import Message as KombuMessage

from kombu_hake.envelope import Envelope
from kombu_hake.inbox import Delivery
from kombu_hake.lease import Lease
from kombu_hake.limits import FIFO_SUFFIX, SQS_MAX_DELAY_S
from kombu_hake.parking import delay_s, due_ms
from kombu_hake.tasks import ORIGIN_HEADER, PRIVATE_EXCHANGE, is_task

__all__ = [
    "HakeMessage",
    "label",
    "receive_count",
    "send_parameters",
    "sent_ms",
    "task_of",
    "to_message",
]

DEFAULT_GROUP_ID = "default"


class HakeMessage(KombuMessage):  # type: ignore[misc]
    """A message that was received from SQS."""

    #: Our hold on it.
    lease: Lease | None = None
    #: Whether decoding its body has failed.
    is_undecodable = False

    @property
    def is_lost(self) -> bool:
        """Whether somebody else may have the message by now. A long callback may ask, and stop. Any thread."""
        return self.lease is not None and self.lease.is_lost

    def come_later(self) -> None:
        """Let go of it: it comes again when its visibility timeout ends, where :meth:`requeue` would be a loop."""
        self.channel.forget(self.delivery_tag)
        self._state = "REQUEUED"

    def _decode(self) -> Any:
        try:
            return super()._decode()
        except Exception:
            self.is_undecodable = True
            raise

    def ack(self, multiple: bool = False) -> None:
        """Have the message deleted; in a Celery worker one whose body can't be decoded is rejected instead.

        Celery acknowledges those (``Consumer.on_decode_error`` in ``celery/worker/consumer/consumer.py``), so that they
        don't come again and again. A dead-letter queue ends that too, and keeps them.
        """
        if self.is_undecodable and "celery.worker.state" in sys.modules:
            self.reject()
        else:
            super().ack(multiple=multiple)


def sent_ms(raw: Mapping[str, Any]) -> int | None:
    """When SQS accepted the message, ms since the epoch."""
    stamp = (raw.get("Attributes") or {}).get("SentTimestamp")
    return int(stamp) if stamp else None


def receive_count(raw: Mapping[str, Any]) -> int:
    """How often SQS has handed the message out, this time included."""
    return int((raw.get("Attributes") or {}).get("ApproximateReceiveCount", 1))


def to_message(
    envelope: Envelope, delivery: Delivery, channel: Any, delivery_tag: int, consumer_tag: str, *, is_bound: bool
) -> HakeMessage:
    """The message to hand over.

    Args:
        is_bound: Whether the queue has bindings to exchanges other than the direct one of its own name.
    """
    receives = receive_count(delivery.message)
    info = _delivery_info(envelope, delivery.queue, is_bound)
    info["redelivered"] = receives > 1
    info["consumer_tag"] = consumer_tag
    properties = {
        **envelope.properties,
        "delivery_info": info,
        "delivery_tag": delivery_tag,
        "receive_count": receives,
        "message_id": envelope.properties.get("message_id") or delivery.message.get("MessageId"),
    }
    sent = sent_ms(delivery.message)
    if sent is not None:
        properties["sent_timestamp_ms"] = sent
    if not envelope.is_kombu:
        properties["attributes"] = _foreign_attributes(delivery.message)
    return HakeMessage(
        body=envelope.body,
        channel=channel,
        delivery_tag=delivery_tag,
        content_type=envelope.content_type,
        content_encoding=envelope.content_encoding,
        headers=envelope.headers,
        properties=properties,
        delivery_info=info,
        postencode="utf-8",
    )


def _foreign_attributes(raw: Mapping[str, Any]) -> dict[str, str]:
    """What somebody else's message says beside its text: its attributes of type String and Number."""
    given = raw.get("MessageAttributes") or {}
    return {name: str(item["StringValue"]) for name, item in given.items() if "StringValue" in item}


def label(message: KombuMessage) -> str:
    """What a message is, for a log line."""
    headers = message.headers
    if is_task(headers):
        return f"task {headers['task']}[{headers['id']}]"
    return f"message {message.properties.get('message_id')}"


def task_of(message: KombuMessage) -> tuple[str | None, str | None]:
    """Name and id of the task that a message is; None for both if it is none."""
    headers = message.headers
    return (str(headers["task"]), str(headers["id"])) if is_task(headers) else (None, None)


def send_parameters(message: Mapping[str, Any], name: str, *, to_queue: bool) -> dict[str, Any]:
    """What SQS or SNS takes beside the body: from the message's properties, as kombu's SQS transport reads them, and
    from a task's ETA.

    Args:
        name: Of the queue or exchange; FIFO ones end in ``.fifo``.
    Returns:
        ``DelaySeconds`` (queues that are not FIFO), ``MessageGroupId``, ``MessageDeduplicationId``.
    """
    properties = message["properties"]
    extra: dict[str, Any] = {}
    if "MessageGroupId" in properties:
        extra["MessageGroupId"] = str(properties["MessageGroupId"])
    if name.endswith(FIFO_SUFFIX):
        extra.setdefault("MessageGroupId", DEFAULT_GROUP_ID)
        extra["MessageDeduplicationId"] = str(
            properties.get("MessageDeduplicationId") or _task_run(message.get("headers") or {}) or uuid4()
        )
    elif to_queue:
        delay = properties.get("DelaySeconds", properties.get("delay_seconds"))
        if delay is None:
            delay = delay_s(due_ms(message.get("headers") or {}), int(time.time() * 1000))
        seconds = max(0, min(SQS_MAX_DELAY_S, int(delay)))
        if seconds:
            extra["DelaySeconds"] = seconds
    return extra


def _task_run(headers: Mapping[str, Any]) -> str | None:
    """The id of a task's run: its retries are messages of their own, which SQS must not take for duplicates."""
    task_id, retries = headers.get("id"), headers.get("retries")
    return f"{task_id}-{retries}" if task_id and retries else task_id


def _delivery_info(envelope: Envelope, queue: str, is_bound: bool) -> dict[str, Any]:
    info = envelope.properties["delivery_info"]
    exchange, routing_key = info.get("exchange") or "", info.get("routing_key") or ""
    if not envelope.is_kombu or not is_task(envelope.headers) or exchange == PRIVATE_EXCHANGE:
        return dict(info)
    is_own = exchange == routing_key == queue
    if is_own or (not exchange and not is_bound):
        return dict(info)
    if exchange:
        envelope.headers.setdefault(ORIGIN_HEADER, {"exchange": exchange, "routing_key": routing_key})
    return {**info, "exchange": PRIVATE_EXCHANGE, "routing_key": queue}
