"""A received SQS message as kombu's Message. Pure.

Group-scoped redelivery
    ``task.retry()`` publishes to the exchange in ``delivery_info`` (``celery/app/task.py``,
    ``signature_from_request``). After a fan-out that would run the task in every group again. So for a Celery task in a
    queue with bindings, ``delivery_info`` names a private exchange and the queue: publishing there sends to that queue
    alone. The header ``hake-origin`` has the exchange and key of the first publish. Any other message keeps them in
    ``delivery_info``, because plain consumers dispatch on them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from kombu.message import Message as KombuMessage

from kombu_hake.amqp import (
    COMPRESSION_HEADER,
    FIFO_SUFFIX,
    MESSAGE_ATTRIBUTES,
    ORIGIN_HEADER,
    PAYLOAD_ATTRIBUTES,
    PRIVATE_EXCHANGE,
    Envelope,
    answers_elsewhere,
    command_fault,
    decoded,
    given_attributes,
    has_slow_pattern,
    inflated,
    is_clock,
    is_command_queue,
    is_event_queue,
    is_task,
    tenant_of_group,
    whole,
)
from kombu_hake.exceptions import MalformedMessage
from kombu_hake.quoting import quoted
from kombu_hake.receive.delivery import About, Delivery, Lease
from kombu_hake.receive.memory import give_back_freed
from kombu_hake.receive.stored import Stored

__all__ = [
    "CommandMessage",
    "HakeMessage",
    "about",
    "group_id_of",
    "receive_count",
    "sent_ms",
    "to_message",
]


class HakeMessage(KombuMessage):  # type: ignore[misc]
    """A message that was received from SQS."""

    #: Its lease.
    lease: Lease | None = None
    #: If it was compressed, the body as it was sent and its codec. ``body`` is decompressed; messages that are sent
    #: again use both.
    packed: tuple[bytes | str, Any] | None = None
    #: Its payload, if that is in S3 and the body is still the one there.
    stored: Stored | None = None
    body: Any
    properties: dict[str, Any]

    def __init__(self, body: Any = None, *, headers: dict[str, Any] | None = None, **options: Any) -> None:
        if headers and headers.get(COMPRESSION_HEADER):
            try:
                body, headers = self._unpack(body, headers)
            except MalformedMessage:
                self.errors = [sys.exc_info()]  # kombu then leaves the body alone, and calls ``on_decode_error``
        super().__init__(body, headers=headers, **options)
        if self.packed is not None and headers is not None and not is_task(headers):
            # As kombu has it. Not for tasks: Celery's retry sends their headers with a body that is not compressed.
            self.headers = {**headers, COMPRESSION_HEADER: self.packed[1]}

    def become(
        self,
        body: bytes | str,
        content_type: str | None,
        content_encoding: str | None,
        headers: dict[str, Any],
        properties: Mapping[str, Any],
    ) -> None:
        """Replace the contents of the message; the delivery stays the same.

        Args:
            properties: Replace or extend the existing ones.
        Raises:
            MalformedMessage: the headers name a compression, and the body cannot be decompressed.
        """
        before, unpacked, self.packed = self.packed, self.body, None
        if before is not None and before == (body, headers.get(COMPRESSION_HEADER)):
            self.packed = before
            body, headers = unpacked, _without_compression(headers)
        else:
            if before is not None or body is not unpacked:
                self.stored = None
            if headers.get(COMPRESSION_HEADER):
                body, headers = self._unpack(body, headers)
        self.body, self.headers = body, headers
        self.content_type, self.content_encoding = content_type, content_encoding
        self.properties = {**self.properties, **properties}
        self._decoded_cache = None

    def _unpack(self, body: bytes | str, headers: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        codec = headers[COMPRESSION_HEADER]
        found = inflated(body, codec)
        self.packed = (body, codec)
        return found, _without_compression(headers)

    @property
    def is_lost(self) -> bool:
        """True if another consumer may have the message. A long callback can check it, and stop. For any thread."""
        return self.lease is not None and self.lease.is_lost

    def forget_decoded(self) -> None:
        """Drop the decoded body, to save memory: Celery's workers use it once, and pass the encoded body on."""
        self._decoded_cache = None

    def abandon(self) -> None:
        """Let it be redelivered after its visibility timeout, if :meth:`requeue` would cause a loop."""
        self.channel.abandon(self.delivery_tag)
        self._state = "REQUEUED"

    def quarantine(self, fault: str, exc: Exception | None = None) -> bool:
        """Settle a message that cannot be handled: see :meth:`kombu_hake.receive.gate.Gate.quarantine`.

        Returns:
            False if it was settled before.
        """
        if not self.channel.quarantine(self.delivery_tag, fault, exc):
            return False
        self._state = "REJECTED"
        return True

    def _decode(self) -> Any:
        found = decoded(self.body, self.content_type, self.content_encoding, accept=self.accept)
        if self.stored is not None:
            give_back_freed()
        return found


class CommandMessage(HakeMessage):
    """A command of remote control. Decoding refuses a command if its answer would go to a queue that is not a reply
    queue, if its pattern could freeze the worker, or if its arguments could end the worker.

    Its consumers (``Node.listen`` in ``kombu/pidbox.py``, ``Pidbox.start`` in ``celery/worker/pidbox.py``) log commands
    that cannot be decoded, and continue.
    """

    #: Logical name of its queue.
    queue = ""

    def _decode(self) -> Any:
        command = super()._decode()
        if has_slow_pattern(command):
            raise MalformedMessage(
                "a command of remote control selects workers by a regular expression that may take too long to match: "
                "use a simpler one, or the matcher glob",
                message_id=str(self.properties.get("message_id")),
            )
        if answers_elsewhere(command, self.queue):
            where = repr(command["reply_to"])[:200]
            raise MalformedMessage(
                f"a remote control command asks for its answer in {where}, which is not a reply queue of its mailbox",
                message_id=str(self.properties.get("message_id")),
            )
        fault = command_fault(command)
        if fault is not None:
            raise MalformedMessage(
                f"the command of remote control {command['method']} cannot be run: {fault}",
                message_id=str(self.properties.get("message_id")),
            )
        if not is_clock(self.headers.get("clock")):
            self.headers = {**self.headers, "clock": None}  # kombu would set the worker's own clock to it
        return command


class EventMessage(HakeMessage):
    """Events of Celery's workers. An invalid clock is removed: the reader then uses its own."""

    def _decode(self) -> Any:
        events = super()._decode()
        for event in events if isinstance(events, list) else [events]:
            if isinstance(event, dict) and "clock" in event and not is_clock(event["clock"]):
                del event["clock"]
        return events


def _without_compression(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in headers.items() if name != COMPRESSION_HEADER}


def sent_ms(raw: Mapping[str, Any]) -> int | None:
    """When SQS accepted the message, ms since the epoch."""
    return whole((raw.get("Attributes") or {}).get("SentTimestamp"))


def receive_count(raw: Mapping[str, Any]) -> int:
    """How often SQS has delivered the message, including this time."""
    return max(1, whole((raw.get("Attributes") or {}).get("ApproximateReceiveCount")) or 1)


def group_id_of(raw: Mapping[str, Any]) -> str | None:
    """The MessageGroupId of a received message: the message group in a FIFO queue, the tenant's id in any other."""
    group = (raw.get("Attributes") or {}).get("MessageGroupId")
    return group if isinstance(group, str) and group else None


def to_message(
    envelope: Envelope,
    delivery: Delivery,
    channel: Any,
    delivery_tag: int,
    consumer_tag: str,
    *,
    is_bound: bool,
    sent_ms: int | None,
) -> HakeMessage:
    """The message to hand over.

    Args:
        is_bound: The queue has bindings to exchanges other than the direct one of its own name.
        sent_ms: When SQS accepted it, ms since the epoch.
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
    if "tenant" not in properties and (group := group_id_of(delivery.message)) is not None:
        # From a publisher that does not know this property, or that set the group id by hand.
        tenant = None if delivery.queue.endswith(FIFO_SUFFIX) else tenant_of_group(group)
        if tenant is not None:
            properties["tenant"] = tenant
    if sent_ms is not None:
        properties["sent_timestamp_ms"] = sent_ms
    if envelope.is_kombu:
        properties.pop("attributes", None)  # only a foreign message has them
        given = given_attributes(delivery.message)
        if given:
            properties[MESSAGE_ATTRIBUTES] = given
    else:
        properties["attributes"] = _foreign_attributes(delivery.message)
    message = _class_for(delivery.queue)(
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
    if delivery.stored is not None:
        message.stored = delivery.stored
    if isinstance(message, CommandMessage):
        message.queue = delivery.queue
    return message


@lru_cache(maxsize=1_000)  # the queues of a worker, and temporary reply queues
def _class_for(queue: str) -> type[HakeMessage]:
    if is_command_queue(queue):
        return CommandMessage
    return EventMessage if is_event_queue(queue) else HakeMessage


def _foreign_attributes(raw: Mapping[str, Any]) -> dict[str, str]:
    """The attributes of type String and Number of a foreign message."""
    given = raw.get("MessageAttributes") or {}
    return {
        name: str(item["StringValue"])
        for name, item in given.items()
        if "StringValue" in item and name not in PAYLOAD_ATTRIBUTES
    }


def about(message: KombuMessage, channel_id: int, delivery_tag: int, queue: str) -> About:
    """Identify a message that is handed over now."""
    headers = message.headers
    message_id = message.properties.get("message_id")
    if is_task(headers):
        return About(channel_id, delivery_tag, queue, _as_text(headers["task"]), _as_text(headers["id"]), message_id)
    return About(channel_id, delivery_tag, queue, None, None, message_id)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else quoted(value)


def _delivery_info(envelope: Envelope, queue: str, is_bound: bool) -> dict[str, Any]:
    """How the message was published; for a task, an exchange and key that lead only to its own queue.

    The publisher controls the envelope. Celery publishes a task's retry to this exchange and key, so a message in one
    queue must not name another queue.
    """
    info = envelope.properties["delivery_info"]
    if not envelope.is_kombu or not is_task(envelope.headers):
        return dict(info)
    exchange, routing_key = info["exchange"], info["routing_key"]
    if routing_key == queue and (exchange == queue or (not exchange and not is_bound)):
        return dict(info)
    if exchange and exchange != PRIVATE_EXCHANGE:
        envelope.headers.setdefault(ORIGIN_HEADER, {"exchange": exchange, "routing_key": routing_key})
    return {**info, "exchange": PRIVATE_EXCHANGE, "routing_key": queue}
